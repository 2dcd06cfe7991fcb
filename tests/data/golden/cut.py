"""Cut the golden fixtures down to what lies here: `python tests/data/golden/cut.py SOURCE`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.vla import Inputs
from vlaprune_bench.pruning.none import NoPruning

HERE = Path(__file__).parent
OFT, OPENVLA = "ckpt-oft-tiny", "ckpt-openvla-tiny"
STOP, SUFFIX = 2, 29871
VOCABULARY, BINS = 32000, 256
RIVALS = 16
"""Highest logits of an input whose tokens stay, so that the winner has somebody to beat."""
FRAMES, ADP_INPUTS = ("0", "1"), (0, 1)


def discrete_winners(source: Path, forward: dict[str, Tensor]) -> Iterable[Tensor]:
    """Tokens that parallel decoding predicts, which no fixture has, only their actions."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (source / OFT).glob("*[!t]"):  # all but the head and the projector (.pt)
            shutil.copyfile(path, Path(folder) / path.name)
        policy = load_policy(
            folder, NoPruning(), suite="libero_spatial", policy="openvla-oft", device="cpu"
        )
    for n in range(4):
        pixels = forward[f"{n}.pixel_values_28"].float()
        pixels = pixels.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        memory = policy.start_with_tokens(forward[f"{n}.input_ids"][0].tolist(), seed=0)
        inputs, timer = Inputs(pixels, pixels, None), StageTimer(policy.device)
        with torch.inference_mode():
            result = policy.forward(memory, None, inputs, np.zeros((1, 7)), timer)
        yield result.prediction.tokens_A


def cut_checkpoint(source: Path, ids: Tensor) -> None:
    """Keep the embedding rows `ids` only, in their order. Both models have the same weights."""
    target = HERE / OFT
    for path in (source / OFT).iterdir():
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            for name in tensors:
                if "embed_tokens" in name or "lm_head" in name:
                    tensors[name] = tensors[name][ids].contiguous()
            save_file(tensors, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)
    new_id = {old: new for new, old in enumerate(ids.tolist())}
    for name in (OFT, OPENVLA):
        config = json.loads((source / name / "config.json").read_text())
        config["text_config"]["vocab_size"] = len(ids)
        config["text_config"]["eos_token_id"] = new_id[STOP]
        config["prompt_suffix_token_id"] = new_id[SUFFIX]
        config["pad_to_multiple_of"] = int((ids >= VOCABULARY).sum())
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for path in target.glob("model*"):
        link = HERE / OPENVLA / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../{OFT}/{path.name}")


def cut_tokens(tensors: dict[str, Tensor], ids: Tensor) -> None:
    """Renumber token ids; keep the logits of `ids` and indices of patches in one byte."""
    for name, x in tensors.items():
        if name.endswith(("input_ids", "tokens")):
            tensors[name] = torch.searchsorted(ids, x.long())
        elif name.endswith("last_logits"):
            tensors[name] = x[..., ids].contiguous()
        elif name.endswith("kept_visual"):
            tensors[name] = x.to(torch.uint8)


def main(source: Path) -> None:
    files = ("oft_forward", "openvla_forward", "vlapruner_episodes")
    oft, openvla, episodes = (load_file(source / f"{name}.safetensors") for name in files)
    used = [torch.tensor([STOP, SUFFIX]), torch.arange(VOCABULARY - BINS, VOCABULARY)]
    used += discrete_winners(source, oft)
    for tensors in (oft, openvla, episodes):
        for name, x in tensors.items():
            if name.endswith(("input_ids", "tokens")):
                used.append(x.long())
            elif name.endswith("last_logits"):
                used.append(x.topk(RIVALS).indices)
    cases = json.loads((source / "vlapruner_episodes.json").read_text())
    for case in cases:
        if not case["method"].startswith("vlapruner"):  # nobody else remembers attention
            del episodes[f"{case['case']}.av_last"]
    (HERE / "vlapruner_episodes.json").write_text(json.dumps(cases) + "\n")
    ids = torch.cat([x.flatten() for x in used]).unique()
    cut_checkpoint(source, ids)
    for name, tensors in zip(files, (oft, openvla, episodes), strict=True):
        cut_tokens(tensors, ids)
        save_file(tensors, HERE / f"{name}.safetensors")

    cases = json.loads((source / "adp_select.json").read_text())
    cases = [case for case in cases if case["input"] in ADP_INPUTS]
    (HERE / "adp_select.json").write_text(json.dumps(cases) + "\n")
    wanted = [f"{case['case']}.{what}" for case in cases for what in ("kept", "importance")]
    tensors = load_file(source / "adp_select.safetensors")
    save_file({name: tensors[name] for name in wanted}, HERE / "adp_select.safetensors")

    frames = load_file(source / "preprocess.safetensors")
    kept = {name: x.numpy() for name, x in frames.items() if name.split(".")[0] in FRAMES}
    np.savez_compressed(HERE / "preprocess.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
