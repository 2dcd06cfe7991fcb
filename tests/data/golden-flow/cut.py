"""Cut the full set of flow-matching fixtures down to what every clone carries.

    python tests/data/golden-flow/cut.py /path/to/golden-flow

Checkpoints stay whole but for tensors that nobody reads and embeddings of words that no kept prompt
has, which become zeros; of the tensors those of two inputs stay, without what follows from others.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from pathlib import Path

from safetensors.torch import load_file, save

HERE = Path(__file__).parent
NAMES = {
    "pi0": "ckpt-pi0-tiny",
    "pi05": "ckpt-pi05-tiny",
    "smolvla": "ckpt-smolvla-tiny",
    "smolvla_cross": "ckpt-smolvla-cross-tiny",
}
INPUTS = (0, 3)
UNREAD = re.compile(r".*(gemma_expert\.lm_head|vlm_with_expert\.vlm\.lm_head)\.")
EMBEDDINGS = re.compile(r".*(embed_tokens|paligemma\.lm_head)\.weight")
LEFT_OUT = re.compile(
    r"\d\.(prefix_value\.|prefix_key\.[01]|image_embeds\.[12]|vision_last_hidden|prefix_last_hidden|"
    r"suffix_embs|pruned\.\w+\.\w+\.prefix_|prefix_attn_to_visual\.0|actions_normalized_bf16)"
)
FRAME = "0.frame.image"
RESIZED = re.compile(r"0\..*(from_256|from_360|from_180x256)\.(every|channel)")
WHOLE = ("normalize", "state", "prompts")


def main(source: Path) -> None:
    """Write golden-flow.tar.xz beside this file."""
    files: dict[str, bytes] = {}
    for name, folder in NAMES.items():
        tensors = load_file(source / f"{name}_forward.safetensors")
        kept = {
            key: value
            for key, value in tensors.items()
            if int(key[0]) in INPUTS and not LEFT_OUT.match(key)
        }
        files[f"{name}_forward.safetensors"] = save(kept)
        cases = json.loads((source / f"{name}_forward.json").read_text())
        cases["cases"] = [case for case in cases["cases"] if case["index"] in INPUTS]
        files[f"{name}_forward.json"] = json.dumps(cases).encode()
        words = {int(i) for n in INPUTS for i in tensors[f"{n}.tokens"]}
        for path in sorted((source / folder).rglob("*.*")):
            content = path.read_bytes()
            if path.name == "model.safetensors":
                weights = load_file(path)
                weights = {n: t for n, t in weights.items() if not UNREAD.match(n)}
                for key, value in weights.items():
                    if EMBEDDINGS.match(key):
                        value[[i for i in range(len(value)) if i not in words]] = 0
                content = save(weights)
            files[f"{folder}/{path.relative_to(source / folder)}"] = content
    for path in sorted(source.glob("*.*")):
        if path.stem in WHOLE:
            files[path.name] = path.read_bytes()
    frames, resized = (
        load_file(source / f"{name}.safetensors") for name in ("env_inputs", "preprocess")
    )
    files["env_inputs.safetensors"] = save({FRAME: frames[FRAME]})
    some = {key: value for key, value in resized.items() if RESIZED.match(key)}
    files["preprocess.safetensors"] = save(some)
    with tarfile.open(HERE / "golden-flow.tar.xz", "w:xz", preset=9) as tar:
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
