"""Cut the golden fixtures down to what lies here: `python tests/data/golden/cut.py SOURCE`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
STOP, SUFFIX = 2, 29871
FRAMES, ADP_INPUTS = ("0", "1"), (0, 1)


def cut_checkpoint(source: Path, ids: torch.Tensor) -> None:
    """Keep the embedding rows `ids` only, in their order."""
    target = HERE / "ckpt-oft-tiny"
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            for name in tensors:
                if "embed_tokens" in name or "lm_head" in name:
                    tensors[name] = tensors[name][ids].contiguous()
            save_file(tensors, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    new_id = {old: new for new, old in enumerate(ids.tolist())}
    config["text_config"]["vocab_size"] = len(ids)
    config["text_config"]["eos_token_id"] = new_id[STOP]
    config["prompt_suffix_token_id"] = new_id[SUFFIX]
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def main(source: Path) -> None:
    forward = load_file(source / "oft_forward.safetensors")
    inputs = [name for name in forward if name.endswith("input_ids")]
    used = torch.cat([forward[name].flatten() for name in inputs] + [torch.tensor([STOP, SUFFIX])])
    ids = used.unique()
    for name in inputs:
        forward[name] = torch.searchsorted(ids, forward[name])
    save_file(forward, HERE / "oft_forward.safetensors")
    cut_checkpoint(source / "ckpt-oft-tiny", ids)

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
