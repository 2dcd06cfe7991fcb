"""What pi0, pi0.5 and SmolVLA share: cameras, prompt, prefix, and actions by denoising."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.base import Memory, PolicyInfo
from vlaprune_bench.policies.call_data import Inputs, Prediction, Prefix
from vlaprune_bench.policies.checkpoint import Checkpoint, on_meta
from vlaprune_bench.policies.device import check_attention, describe
from vlaprune_bench.policies.flow.checkpoint import LeRobotCheckpoint
from vlaprune_bench.policies.flow.denoise import FlowDecoder
from vlaprune_bench.policies.flow.inputs import (
    Normaliser,
    Pad,
    noise,
    openpi_prompt,
    prepare_images,
    robot_state,
)
from vlaprune_bench.policies.flow.model import FlowModel, load_model
from vlaprune_bench.policies.flow.options import FlowOptions
from vlaprune_bench.policies.flow.sizes import Sizes
from vlaprune_bench.policies.flow.vision import Eyes
from vlaprune_bench.policies.transformer.prefill import Prefill
from vlaprune_bench.policies.transformer.requests import Work
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.policies.vla import VLA
from vlaprune_bench.pruning.base import Pruner
from vlaprune_bench.types import EvalProtocol, Observation, TokenLayout, UserError

ACTION_DIM, STATE_DIM = 7, 8
CAMERAS = {
    "image": 0,
    "image2": 1,
    "camera1": 0,
    "camera2": 1,
    "agentview": 0,
    "wrist_image": 1,
    "robot0_eye_in_hand": 1,
}
"""LIBERO's camera (main, wrist) by the name a checkpoint gives it."""


@dataclass
class FlowInputs(Inputs):
    """What a call feeds to the networks."""

    prompt_T: Tensor = field(kw_only=True)
    """(T,) int64 valid tokens."""
    padding: int = field(kw_only=True)
    """Padding tokens behind them."""
    layout: TokenLayout = field(kw_only=True)
    state_S: Tensor = field(kw_only=True)
    """(32,) float32 normalised state, zero-padded."""
    noise_1CA: Tensor = field(kw_only=True)


@dataclass
class FlowMemory(Memory):
    """Of one episode."""

    instruction: str = ""
    noise_seed: int = 0


class FlowVLA(VLA):
    """A flow-matching policy of LeRobot's."""

    name: ClassVar[str]
    pad: ClassVar[Pad]
    """Where images that are not square are padded."""
    text_length: ClassVar[int]
    """Prompt tokens at most, where the config does not say."""
    bos: ClassVar[str | None]
    """Text of the token that prompts start with."""
    pad_token: ClassVar[str]
    order: ClassVar[tuple[str, ...]]
    """Segments of the prefix."""
    scales_images: ClassVar[bool]
    """Whether image embeddings are multiplied by the root of the width, as text ones are."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        pruner: Pruner,
        *,
        suite: str,
        device: str,
        dtype: str,
        attention: str,
        protocol: EvalProtocol,
        count_every: int,
        options: FlowOptions,
    ) -> None:
        """Load the networks onto the device. Arguments and errors: see `load_policy`."""
        found = checkpoint
        if not isinstance(checkpoint, LeRobotCheckpoint):
            checkpoint = LeRobotCheckpoint(found.source, found.folder)
        super().__init__(
            checkpoint, device=device, dtype=dtype, protocol=protocol, count_every=count_every
        )
        self.files, self.options = checkpoint, options
        config = checkpoint.config
        if config.get("type") != self.name:
            kind = config.get("type", "an OpenVLA")
            raise UserError(f"--policy is {self.name}; checkpoint {checkpoint.source} is {kind}.")
        self.chunk = int(config.get("chunk_size", 50))
        self.cameras, self.n_missing = self._cameras()
        openpi = protocol.conventions == "openpi"
        self.state_normaliser = Normaliser.read(
            checkpoint, "policy_preprocessor", "normalizer_processor", "observation.state",
            "STATE", STATE_DIM, openpi,
        )  # fmt: skip
        self.action_normaliser = Normaliser.read(
            checkpoint, "policy_postprocessor", "unnormalizer_processor", "action",
            "ACTION", ACTION_DIM, openpi,
        )  # fmt: skip
        with on_meta():
            self.model = FlowModel(self._sizes(), check_attention(attention))
        self._check_options()
        self.stack = self.model.stack
        self.pruner = pruner  # refused before any weight is read
        load_model(checkpoint, self.model, self.device, self.dtype, options.float32)
        own = config.get("vlaprune", {})
        self.info = PolicyInfo(
            policy=self.name,
            name=own.get("name", checkpoint.source),
            checkpoint_hash=checkpoint.hash,
            trained=own.get("trained", True),
            assets=own.get("assets", "real"),
            device=describe(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            attention=attention,
            n_layers=self.stack.n_layers,
            grids=self._grids(),
            chunk=self.chunk,
            unnorm_key="action",
            action_steps=int(config.get("n_action_steps", self.chunk)),
            options=json.dumps(asdict(options), sort_keys=True),
        )

    @classmethod
    def reads(cls, checkpoint: Checkpoint) -> bool:
        """Whether config.json says so."""
        return checkpoint.config.get("type") == cls.name

    @classmethod
    def read_options(
        cls, options: Sequence[str], cameras: int | None, unnorm_key: str | None
    ) -> dict[str, Any]:
        """See `FlowOptions.read`."""
        super().read_options((), cameras, unnorm_key)
        return {"options": FlowOptions.read(options)}

    @abstractmethod
    def _sizes(self) -> Sizes:
        """Read off the checkpoint."""

    @abstractmethod
    def _text(self, instruction: str, state: np.ndarray) -> str:
        """LeRobot's prompt of an instruction and the normalised state."""

    def _check_options(self) -> None:
        steps = self.model.sizes.expert.steps
        if self.options.attention_step >= steps:
            raise UserError(
                f"--policy-options has attention_step={self.options.attention_step}; this policy "
                f"denoises in steps 0 to {steps - 1}."
            )

    def _cameras(self) -> tuple[list[int], int]:
        """LIBERO's cameras in the order of the config's, and how many it declares besides.

        Raises:
            UserError: one that LIBERO has not.
        """
        features = self.files.config.get("input_features", {})
        keys = [key for key, f in features.items() if f.get("type") == "VISUAL"]
        there = []
        for key in keys:
            name = key.removeprefix("observation.images.")
            if name.startswith("empty_camera"):
                continue
            if name not in CAMERAS:
                raise UserError(
                    f"checkpoint {self.files.source}: config.json has camera {key}; LIBERO has "
                    f"{', '.join(CAMERAS)}, and the config may declare others as empty_camera_N."
                )
            there.append(CAMERAS[name])
        if not there:
            raise UserError(f"checkpoint {self.files.source}: config.json names no camera.")
        if len(set(there)) < len(there):
            raise UserError(
                f"checkpoint {self.files.source}: two cameras of config.json are one of LIBERO's: "
                f"{', '.join(keys)}."
            )
        return there, len(keys) - len(there)

    def masked_cameras(self, missing: int) -> int:
        """Cameras that stand masked behind the others, of those without an image: all of them."""
        return missing

    def _encoder(self) -> Eyes:
        return self.model.eyes

    def _grids(self) -> tuple[tuple[int, int], ...]:
        return (self.model.eyes.grid,) * len(self.cameras)

    def _action_layers(self) -> tuple[int, ...]:
        return self.model.expert.reads

    # an episode

    def start(
        self,
        instruction: str,
        seed: int,
        pruner: Pruner | None = None,
        noise_seed: int | None = None,
    ) -> FlowMemory:
        """Begin an episode; see `Policy.start`.

        Raises:
            UserError: there is no tokenizer.
        """
        ids, padding = self.tokens(instruction, np.zeros(STATE_DIM, np.float32))
        method = self._method(pruner)
        return FlowMemory(
            torch.tensor(ids, device=self.device),
            self.layout(len(ids), padding),
            seed,
            method,
            method.start(),
            instruction=instruction,
            noise_seed=seed if noise_seed is None else noise_seed,
        )

    def tokens(self, instruction: str, state: np.ndarray) -> tuple[list[int], int]:
        """Prompt ids without padding, and how many padding tokens follow."""
        text = self._text(instruction, state)
        if self.protocol.conventions == "openpi":
            text = openpi_prompt(instruction)
        ids = list(self.files.tokenizer.encode(text).ids)
        if self.bos is not None:
            bos = self.files.special_token("bos_token", self.bos)
            if bos is not None and ids[:1] != [bos]:
                ids = [bos, *ids]
        config, _ = self.files.step("policy_preprocessor", "tokenizer_processor")
        most = int(config.get("max_length", self.text_length))
        ids = ids[:most]
        return ids, most - len(ids) if config.get("padding") == "max_length" else 0

    @property
    def pad_id(self) -> int:
        """The token that fills a prompt up; nobody sees it."""
        return self.files.special_token("pad_token", self.pad_token) or 0

    def layout(
        self, n_prompt: int, padding: int, cameras: int | None = None, empty: int | None = None
    ) -> TokenLayout:
        """The prefix of a prompt of so many valid tokens, for so many cameras with an image."""
        n_cameras = len(self.cameras) if cameras is None else cameras
        empty = self.masked_cameras(self.n_missing) if empty is None else empty
        rows, columns = grid = self.model.eyes.grid
        layout = TokenLayout(
            grids=(grid,) * n_cameras,
            n_prompt=n_prompt,
            order=self.order,
            has_bos="bos" in self.order,
            has_proprio="proprio" in self.order,
            n_padding=padding,
            n_empty=empty * rows * columns if self.options.empty_cameras == "keep" else 0,
            n_denoised=self.chunk,
        )
        return replace(layout, n_prefix=layout.proprio.start)

    def _inputs(self, memory: Memory, observation: Observation) -> FlowInputs:
        assert isinstance(memory, FlowMemory)
        images = observation.images
        if images is None or len(images) <= max(self.cameras):
            raise ValueError(f"the policy needs the images of {max(self.cameras) + 1} cameras")
        shape = (self.chunk, self.model.sizes.expert.action_dim)
        drawn = noise(memory.noise_seed, memory.call, shape)
        state = robot_state(observation, self.protocol.state_dtype)
        inputs = self.inputs_of(images[self.cameras], state, memory.instruction, drawn)
        memory.prompt_T, memory.layout = inputs.prompt_T, inputs.layout
        return inputs

    def inputs_of(
        self, frames: np.ndarray, state: np.ndarray, instruction: str, noise_1CA: Tensor,
        n_missing: int = 0,
    ) -> FlowInputs:  # fmt: skip
        """What a call feeds to the networks.

        Args:
            frames: (cameras, H, W, 3) uint8, upright, of the cameras with an image.
            state: (8,) in the robot's units.
            instruction: what the robot is told.
            noise_1CA: x at t = 1.
            n_missing: cameras of `cameras` that have no image.
        """
        size, device = self.model.sizes.vision.image, self.device
        images_NCHW = prepare_images(frames, self.protocol, size, self.pad, device)
        normalised = self.state_normaliser.normalise(state).astype(np.float32)
        ids, padding = self.tokens(instruction, normalised)
        state_S = np.zeros(self.model.sizes.expert.state_dim, np.float32)
        state_S[:STATE_DIM] = normalised
        n_empty = self.masked_cameras(self.n_missing + n_missing)
        layout = self.layout(len(ids), padding, len(frames), n_empty)
        rows, columns = self.model.eyes.grid
        pixels_NCHW = images_NCHW * 2.0 - 1.0
        if layout.n_empty:  # the reference shows the tower a black image for each
            black = torch.full_like(pixels_NCHW[:1], -1.0).expand(n_empty, -1, -1, -1)
            pixels_NCHW = torch.cat([pixels_NCHW, black])
        return FlowInputs(
            frames_NCHW=images_NCHW * 255.0,
            pixels_1CHW=pixels_NCHW.flatten(0, 1)[None],
            proprio=normalised,
            empty_tokens_dropped=n_empty * rows * columns - layout.n_empty,
            prompt_T=torch.tensor(ids, device=device),
            padding=padding,
            layout=layout,
            state_S=torch.from_numpy(state_S).to(device),
            noise_1CA=noise_1CA.to(device),
        )

    # a call

    def _prefix(self, memory: Memory, inputs: Inputs) -> Work[Prefix]:
        assert isinstance(inputs, FlowInputs)
        layout, width = inputs.layout, self.stack.width
        patches_1VD, fused = yield from self._patches(memory, inputs, layout)
        ids_T = torch.nn.functional.pad(inputs.prompt_T, (0, inputs.padding), value=self.pad_id)
        text_TD = self.stack.embed(ids_T) * width**0.5
        images_ID = patches_1VD[0].to(text_TD)
        if self.scales_images:
            images_ID = images_ID * width**0.5
        parts = [images_ID, text_TD]  # those of empty cameras stand behind the others
        if layout.has_proprio:
            parts.append(self.model.expert.state_token(inputs.state_S[None]).to(text_TD))
        prompt_TD = text_TD[: len(inputs.prompt_T)]
        patches_VD = images_ID[: layout.n_visual]
        return Prefix(layout, torch.cat(parts)[None], patches_VD, prompt_TD, fused)

    def _decoder(self, prefix: Prefix, **options: Any) -> FlowDecoder:
        return FlowDecoder(
            self.stack,
            prefix.sequence_BLD,
            prefix.layout,
            expert=self.model.expert,
            look_at=self.options.attention_step,
            **options,
        )

    def _predict(
        self, decoder: CallDecoder, prefill: Prefill, inputs: Inputs, timer: StageTimer
    ) -> Work[Prediction]:
        assert isinstance(inputs, FlowInputs)
        assert isinstance(decoder, FlowDecoder)
        timer.enter("denoise")
        expert, state_1D = self.model.expert, None
        if expert.config.state_in_suffix:
            state_1D = expert.state_token(inputs.state_S[None])
        x_1CA = yield from decoder.denoising(inputs.noise_1CA, state_1D)
        timer.enter("head")
        actions = x_1CA[0, :, :ACTION_DIM].float().cpu().numpy().astype(np.float64)
        keys = [len(segment.key_K) for segment in decoder.seen_by_layer()]
        return Prediction(actions, x_1CA, expert.macs(self.chunk, keys), expert_keys=keys)

    def _actions(self, normalised: np.ndarray) -> np.ndarray:
        # LeRobot un-normalises in float32; the gripper goes to the simulator as it comes
        return self.action_normaliser.unnormalise(normalised.astype(np.float32)).astype(np.float64)

    def _around_macs(self, inputs: Inputs) -> int:
        macs = self.model.eyes.macs(inputs.pixels_1CHW.shape[1] // 3)
        expert = self.model.expert.config
        if expert.state_width and not expert.state_in_suffix:
            macs += expert.state_dim * expert.state_width
        return macs
