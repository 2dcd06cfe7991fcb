"""Settings in a checkpoint's files: those that are read, and those that must not contradict us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaprune_bench.policies.preprocess import DINO_MEAN, DINO_STD, SIGLIP_MEAN, SIGLIP_STD
from vlaprune_bench.types import SUITES, UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS_TOKEN = 1
"""Llama 2's `<s>`."""
SUFFIX_TOKEN = 29871
"""Llama 2's token of a lone space, which prompts end with in training."""
GREEDY: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    **dict.fromkeys(
        "min_new_tokens bad_words_ids suppress_tokens begin_suppress_tokens forced_bos_token_id "
        "forced_eos_token_id sequence_bias guidance_scale forced_decoder_ids".split()
    ),
}
"""Settings of `generate` that change which token is chosen, at the values that leave it greedy."""
SIZES = {
    "vocab_size": 10**7,
    "hidden_size": 10**5,
    "intermediate_size": 10**6,
    "num_hidden_layers": 1000,
    "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4,
    "head_dim": 10**4,
    "max_position_embeddings": 10**8,
}
"""Sizes in text_config, each with a bound no model comes near: building beyond it never ends."""
TOWER_SIZES = {"depth": 1000, "embed_dim": 10**5, "num_heads": 10**4, "registers": 1000,
               "patch": 4096, "image": 4096}  # fmt: skip


LEROBOT_WHOLE = {
    "chunk_size": (1, 10**4),
    "n_action_steps": (1, 10**4),
    "max_action_dim": (7, 10**4),
    "max_state_dim": (8, 10**4),
    "num_inference_steps": (1, 10**4),
    "num_steps": (1, 10**4),
    "num_vlm_layers": (-1, 1000),
    "self_attn_every_n_layers": (-1, 1000),
    "prefix_length": (-1, 10**6),
    "empty_cameras": (0, 100),
}
"""Numbers in LeRobot's config.json, with bounds no published policy comes near."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel of pixels in [0, 1], DINOv2's first."""

    means: tuple[tuple[float, ...], ...] = (DINO_MEAN, SIGLIP_MEAN)
    stds: tuple[tuple[float, ...], ...] = (DINO_STD, SIGLIP_STD)


def read_config(config: dict[str, Any], file: str = "config.json") -> dict[str, Any]:
    """Check config.json and bring it to the form of the published ones.

    Raises:
        UserError: it describes no OpenVLA, or a value is of the wrong kind.
    """
    _kinds(config, file, mappings=("text_config", "norm_stats", "vlaprune"))
    for where, known in ((config, "openvla"), (config.get("text_config", {}), "llama")):
        found = where.get("model_type") or known
        if found != known:
            key = "model_type" if where is config else "text_config.model_type"
            raise UserError(f"{file}: {key} is {found}; supported is {known}.")
    if config.get("quantization_config"):
        raise UserError(
            f"{file}: quantization_config is set, so the weights are quantised; supported are "
            "float32, bfloat16 and float16."
        )
    for key, bound in (("n_action_bins", 10**6), ("pad_to_multiple_of", 10**6)):
        _whole(config, key, file, 2 if key == "n_action_bins" else 0, bound)
    _towers(config, file)
    text = dict(config.get("text_config", {}))
    for key, bound in SIZES.items():
        _whole(text, key, f"{file}: text_config", 1, bound)
    heads, kv_heads = text.get("num_attention_heads"), text.get("num_key_value_heads")
    if heads and kv_heads and heads % kv_heads:
        raise UserError(
            f"{file}: text_config.num_attention_heads is {heads}; it must be a multiple of "
            f"num_key_value_heads, {kv_heads}."
        )
    _own(config.get("vlaprune", {}), file)
    vocabulary = text.get("vocab_size") or 32064
    suffix = config.get("prompt_suffix_token_id")
    suffix = SUFFIX_TOKEN if suffix is None else suffix
    _whole({"prompt_suffix_token_id": suffix}, "prompt_suffix_token_id", file, 0, vocabulary - 1)
    for key in ("bos_token_id", "eos_token_id"):
        _whole(text, key, f"{file}: text_config", 0, vocabulary - 1)
    _rope(text, file)
    # a null is an absent key
    text = {key: value for key, value in text.items() if value is not None}
    nulls = {k for k in ("n_action_bins", "pad_to_multiple_of", "prompt_suffix_token_id")
             if config.get(k) is None}  # fmt: skip
    kept = {key: value for key, value in config.items() if key not in nulls}
    return {**kept, "text_config": text} if "text_config" in config else kept


def read_lerobot_config(config: dict[str, Any], file: str = "config.json") -> dict[str, Any]:
    """LeRobot's config.json, checked; a null is an absent key, as in LeRobot.

    Raises:
        UserError: a value that is read is of the wrong kind.
    """
    config = {key: value for key, value in config.items() if value is not None}
    _kinds(config, file, mappings=("input_features", "vlaprune"))
    _kinds(config.get("input_features", {}), f"{file}: input_features", mappings=None)
    for key, (low, high) in LEROBOT_WHOLE.items():
        _whole(config, key, file, low, high)
    for key in ("paligemma_variant", "action_expert_variant"):
        if not isinstance(config.get(key, ""), str):
            raise UserError(f"{file}: {key} is {config[key]}; it must be the name of a Gemma.")
    for key in ("min_period", "max_period"):
        if key in config and not (_number(config[key]) and 0 < config[key] < 10**6):
            raise UserError(f"{file}: {key} is {config[key]}; it must be above 0.")
    if config.get("n_action_steps", 1) > (chunk := config.get("chunk_size", 50)):
        raise UserError(
            f"{file}: n_action_steps is {config['n_action_steps']}; it must be at most "
            f"chunk_size, {chunk}."
        )
    _own(config.get("vlaprune", {}), file)
    return config


def read_architecture(data: dict[str, Any], file: str) -> dict[str, Any]:
    """architecture.json: sizes by network, those that are read checked.

    Raises:
        UserError: a network's are no mapping, or a size is no whole number.
    """
    networks = [key for key in data if key in ("vision", "text") or key.startswith("gemma_")]
    _kinds(data, file, mappings=tuple(networks))
    for network in networks:
        for key in ("num_attention_heads", "head_dim"):
            _whole(data[network], key, f"{file}: {network}", 1, 10**6)
    return data


def read_steps(data: dict[str, Any], file: str) -> list[dict[str, Any]]:
    """The steps of one of LeRobot's processors, checked.

    Raises:
        UserError: they are no list of mappings, or what is read of them is of the wrong kind.
    """
    steps = data.get("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"{file}: steps is {steps}; it must be a list of mappings.")
    for number, step in enumerate(steps):
        where = f"{file}: steps[{number}]"
        _kinds(step, where, mappings=("config",))
        config = step.get("config", {})
        _kinds(config, f"{where}.config", mappings=("norm_map",))
        _whole(config, "max_length", f"{where}.config", 1, 10**6)
        if "eps" in config and not (_number(config["eps"]) and 0 <= config["eps"] < 1):
            raise UserError(f"{where}.config: eps is {config['eps']}; it must be 0 to 1.")
        for place, key in ((step, "state_file"), (config, "tokenizer_name")):
            name = place.get(key) or ""
            if not isinstance(name, str) or len(name) > 255 or ("/" in name and place is step):
                raise UserError(f"{where}: {key} is {name}; it must be a name.")
    return steps


def _own(own: dict[str, Any], file: str) -> None:
    """Check what we ourselves write into config.json: name, trained, assets, suites."""
    for key, right in (("name", str), ("trained", bool), ("assets", str)):
        if key in own and not isinstance(own[key], right):
            raise UserError(f"{file}: vlaprune.{key} is {own[key]}; it must be a {right.__name__}.")
    if own.get("assets", "real") not in ("real", "lite"):
        raise UserError(f"{file}: vlaprune.assets is {own['assets']}; it must be real or lite.")
    suites = own.get("suites", list(SUITES))
    if not isinstance(suites, list) or not suites or not all(s in SUITES for s in suites):
        raise UserError(
            f"{file}: vlaprune.suites is {suites}; it must be a list of {', '.join(SUITES)}."
        )


def _rope(text: dict[str, Any], file: str) -> None:
    """Put what newer transformers store as rope_parameters under its older names."""
    if isinstance(rope := text.pop("rope_parameters", None), dict):
        theta = rope.pop("rope_theta", None)
        text["rope_theta"] = text.get("rope_theta", 10000.0) if theta is None else theta
        text["rope_scaling"] = rope
    elif rope is not None:
        raise UserError(f"{file}: text_config.rope_parameters is {rope}; it must be a mapping.")
    scaling, theta = text.get("rope_scaling"), text.get("rope_theta")
    if scaling is not None and not isinstance(scaling, dict):
        raise UserError(f"{file}: text_config.rope_scaling is {scaling}; it must be a mapping.")
    if theta is not None and (not _number(theta) or theta <= 0):
        raise UserError(f"{file}: text_config.rope_theta is {theta}; it must be above 0.")


def _towers(config: dict[str, Any], file: str) -> None:
    """Check what shapes the vision towers."""
    for key in ("timm_model_ids", "timm_model_kwargs", "image_sizes"):
        value = config.get(key)
        if value is not None and not (isinstance(value, list) and len(value) == 2):
            raise UserError(f"{file}: {key} is {value}; it must be a list of two, DINOv2's first.")
    for number, options in enumerate(config.get("timm_model_kwargs") or ()):
        where = f"{file}: timm_model_kwargs[{number}]"
        if not isinstance(options, dict):
            raise UserError(f"{where} is {options}; it must be a mapping.")
        for key, bound in TOWER_SIZES.items():
            _whole(options, key, where, 0 if key == "registers" else 1, bound)
    for size in config.get("image_sizes") or ():
        _whole({"image_sizes": size}, "image_sizes", file, 1, 4096)
    if any(config.get("timm_override_act_layers") or ()):
        raise UserError(
            f"{file}: timm_override_act_layers is {config['timm_override_act_layers']}; the "
            "towers here have GELU."
        )


def read_normalization(data: dict[str, Any], size: int, file: str) -> Normalization:
    """How preprocessor_config.json normalises pixels.

    The reference's image processor applies `tvf_normalize_params` where stored, else `means` and
    `stds`. Its resize and crop do nothing, as frames come square and in the model's size.

    Args:
        data: the file's content.
        size: side of the model's input, pixels.
        file: name for error sentences.

    Raises:
        UserError: a value of the wrong kind, or another input size.
    """
    stored = data.get("tvf_normalize_params")
    if stored is None and "means" not in data and "stds" not in data:
        return Normalization()
    try:
        pairs = stored and [(tower["mean"], tower["std"]) for tower in stored]
        means, stds = zip(*(pairs or zip(data["means"], data["stds"], strict=True)), strict=True)
        found = Normalization(*(tuple(tuple(map(float, row)) for row in x) for x in (means, stds)))
        sizes = {int(side) for shape in data.get("input_sizes") or () for side in shape[1:]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: normalisation cannot be read ({type(error).__name__}: {error}); there must "
            "be means and stds of three channels for each of two towers."
        ) from error
    rows = (*found.means, *found.stds)
    usable = all(abs(x) < 1e3 for row in rows for x in row)
    usable = usable and all(x > 0 for row in found.stds for x in row)
    if len(rows) != 4 or {len(row) for row in rows} != {3} or not usable:
        raise UserError(
            f"{file}: means are {found.means} and stds {found.stds}; there must be three numbers "
            "for each of two towers, the stds above 0."
        )
    if sizes - {size}:
        raise UserError(
            f"{file}: input_sizes is {data['input_sizes']}; config.json says images of {size}."
        )
    return found


def check_generation(data: dict[str, Any], file: str) -> None:
    """Refuse a generation_config.json that asks for something else than greedy decoding.

    Sampling does not count: the reference switches it off in the call.
    """
    for key, greedy in GREEDY.items():
        value = data.get(key)
        if value not in (None, greedy) and value != []:
            raise UserError(
                f"{file}: {key} is {value}; actions are decoded greedily, which is {greedy}."
            )


def check_tokenizer_config(data: dict[str, Any], file: str) -> None:
    """Refuse a tokenizer_config.json under which a prompt would have other special tokens."""
    for key, usual in (("add_bos_token", True), ("add_eos_token", False)):
        if data.get(key) not in (None, usual):
            raise UserError(
                f"{file}: {key} is {data[key]}; prompts begin with BOS and end without a stop "
                f"token, so it must be {str(usual).lower()}."
            )


def check_processor_config(data: dict[str, Any], file: str) -> None:
    """Refuse a processor_config.json that says more than which classes there are."""
    unread = sorted(data.keys() - {"processor_class", "auto_map"})
    if unread:
        raise UserError(f"{file}: {unread[0]} is set and nothing reads it; remove the key.")


def usable_tokenizer(tokenizer: Tokenizer, config: dict[str, Any], file: str) -> Tokenizer:
    """A tokenizer that gives what the reference's processor gives.

    Truncation and padding stored in it are switched off, as the processor does in every call.

    Raises:
        UserError: it adds other special tokens than BOS, or has ids the model has no row for.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text = config.get("text_config", {})
    bos, rows = text.get("bos_token_id", BOS_TOKEN), text.get("vocab_size", 32064)
    prompt = "In: What action should the robot take to open the drawer?\nOut:"
    ids = tokenizer.encode(prompt).ids
    if ids != [bos, *tokenizer.encode(prompt, add_special_tokens=False).ids] or len(ids) < 2:
        raise UserError(
            f"{file}: a prompt becomes the tokens {ids[:4]} ... {ids[-2:]}; it must begin with "
            f"BOS ({bos}) and have no other special token: see its post_processor."
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"{file}: it has ids up to {highest}; the model has {rows} rows for tokens "
            "(vocab_size)."
        )
    return tokenizer


def _kinds(data: dict[str, Any], file: str, mappings: tuple[str, ...] | None) -> None:
    """Check that values are mappings; `mappings` None: all of them."""
    for key in data if mappings is None else mappings:
        if key in data and not isinstance(data[key], dict):
            raise UserError(f"{file}: {key} is {data[key]}; it must be a mapping.")


def _whole(data: dict[str, Any], key: str, where: str, low: int, high: int) -> None:
    """Check that a value, where there is one, is a whole number in a range."""
    value = data.get(key)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{where}: {key} is {value}; it must be a whole number, {low} to {high}.")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
