"""What OpenVLA and OpenVLA-OFT share: one language model behind two vision towers."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vlaprune_bench.policies.base import Memory, PolicyInfo
from vlaprune_bench.policies.call_data import Inputs, Prefix
from vlaprune_bench.policies.checkpoint import Checkpoint, on_meta
from vlaprune_bench.policies.device import check_attention, describe
from vlaprune_bench.policies.normalize import Bounds, to_gripper_command
from vlaprune_bench.policies.preprocess import pixel_values, prepare_frames
from vlaprune_bench.policies.prismatic.inputs import prompt_ids, with_suffix
from vlaprune_bench.policies.prismatic.model import Prismatic, unused_tensors
from vlaprune_bench.policies.transformer.requests import Work
from vlaprune_bench.policies.transformer.stack import Sees
from vlaprune_bench.policies.vla import VLA
from vlaprune_bench.pruning.base import Pruner
from vlaprune_bench.types import EvalProtocol, Observation, TokenLayout, UserError


class PrismaticVLA(VLA):
    """A policy on a Prismatic model."""

    cameras: int
    """How many it sees, the first of LIBERO's; of the class: unless said otherwise."""
    most_cameras: ClassVar[int]
    chunk: ClassVar[int]
    """Actions per call."""
    sees: ClassVar[Sees]
    epsilon: ClassVar[float]
    """Added to the range of actions and proprio when scaling."""

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
        logits: bool,
        cameras: int | None = None,
        unnorm_key: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Load the networks onto the device. Arguments and errors: see `load_policy`.

        `logits` says whether the language model's token logits are needed; `notes` become
        `PolicyInfo.notes`.
        """
        super().__init__(
            checkpoint, device=device, dtype=dtype, protocol=protocol, count_every=count_every
        )
        config = checkpoint.config
        if not self._is_prismatic(checkpoint):
            raise UserError(
                f"--policy is {self.name}; checkpoint {checkpoint.source} is a {config['type']}."
            )
        options = self._choose_cameras(cameras)
        key, self.statistics = checkpoint.suite_statistics(suite, unnorm_key)
        if unnorm_key not in (None, suite, f"{suite}_no_noops"):
            options["unnorm_key"] = key
        self._read_statistics(key)

        check_attention(attention)
        with checkpoint.describing(), on_meta():
            self.prismatic = Prismatic(config, attention, sees=self.sees, logits=logits)
        self.stack = self.prismatic.language_model
        self.normalization = checkpoint.normalization(self.prismatic.vision_backbone.image_size)
        self.pruner = pruner  # refused before anything is read
        checkpoint.load_model(
            self.prismatic, unused_tensors(config, logits), self.device, self.dtype
        )
        own = config.get("vlaprune", {})
        name = own.get("name", checkpoint.source)
        if options:  # rows of other inputs are never compared as the same model's
            name += f" ({', '.join(f'{key} {value}' for key, value in options.items())})"
        self.info = PolicyInfo(
            policy=self.name,
            name=name,
            checkpoint_hash=checkpoint.hash,
            trained=own.get("trained", True),
            assets=own.get("assets", "real"),
            device=describe(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            attention=attention,
            n_layers=self.stack.n_layers,
            grids=self._grids(),
            chunk=self.chunk,
            unnorm_key=key,
            options=json.dumps(options, sort_keys=True),
            notes=notes,
        )

    @classmethod
    def read_options(
        cls, options: Sequence[str], cameras: int | None, unnorm_key: str | None
    ) -> dict[str, Any]:
        """Cameras and the key of the statistics; see `VLA.read_options`."""
        super().read_options(options, None, None)
        return {"cameras": cameras, "unnorm_key": unnorm_key}

    @classmethod
    def _is_prismatic(cls, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint is an OpenVLA of any kind."""
        return "type" not in checkpoint.config

    def _read_statistics(self, key: str) -> None:
        """Take from the dataset's statistics what scales inputs and actions.

        Raises:
            UserError: it is not there, or of the wrong kind.
        """
        self.action_bounds = Bounds.read(self.statistics, key, "action", self.epsilon)

    def _choose_cameras(self, cameras: int | None) -> dict[str, Any]:
        """Set how many cameras are seen.

        Returns:
            {"cameras": how many}, where that is not what is usual; else nothing.

        Raises:
            UserError: more than the policy takes, or not what config.json says.
        """
        usual = type(self).cameras
        said = self.checkpoint.config.get("num_images_in_input")
        if said is not None and cameras not in (None, said):
            raise UserError(
                f"--cameras is {cameras}; num_images_in_input in config.json is {said}."
            )
        flag = "--cameras" if said is None else "num_images_in_input in config.json"
        self.cameras = said or cameras or usual
        if self.cameras not in range(1, self.most_cameras + 1):
            raise UserError(
                f"{flag} is {self.cameras}; {self.name} on LIBERO takes "
                f"{' or '.join(map(str, range(1, self.most_cameras + 1)))}."
            )
        return {} if self.cameras == usual or said else {"cameras": self.cameras}

    def _encoder(self) -> Prismatic:
        return self.prismatic

    def _grids(self) -> tuple[tuple[int, int], ...]:
        return (self.prismatic.vision_backbone.grid,) * self.cameras

    @property
    def action_dim(self) -> int:
        return len(self.action_bounds.low)

    @abstractmethod
    def _layout(self, n_prompt: int) -> TokenLayout:
        """The prefill's sequence for a prompt of that many tokens."""

    @abstractmethod
    def _sequence(self, prompt_TD: Tensor, patches_VD: Tensor, proprio_P: Tensor | None) -> Tensor:
        """Input embeddings of the full sequence, (1, L, width), in the order of TokenLayout."""

    def _proprio(self, observation: Observation) -> np.ndarray | None:
        """The normalised robot state, where the policy takes one."""
        return None

    def _input_macs(self) -> int:
        """MAC of what makes the sequence, beside vision towers and projector."""
        return 0

    def start(
        self,
        instruction: str,
        seed: int,
        pruner: Pruner | None = None,
        noise_seed: int | None = None,
    ) -> Memory:
        """Begin an episode: tokenise the instruction and give the method fresh memory.

        Arguments: see `Policy.start`.

        Raises:
            UserError: the checkpoint has no tokenizer.json.
        """
        return self.start_with_tokens(prompt_ids(self.checkpoint, instruction), seed, pruner)

    def start_with_tokens(
        self, prompt: list[int], seed: int, pruner: Pruner | None = None
    ) -> Memory:
        """Begin an episode whose prompt is tokenised already (BOS first)."""
        prompt = with_suffix(self.checkpoint, prompt)
        ids_T = torch.tensor(prompt, device=self.device)
        layout, method = self._layout(len(prompt)), self._method(pruner)
        return Memory(ids_T, layout, seed, method, method.start())

    def _inputs(self, memory: Memory, observation: Observation) -> Inputs:
        if observation.images is None or len(observation.images) < self.cameras:
            raise ValueError(f"the policy needs the images of {self.cameras} cameras")
        size = self.prismatic.vision_backbone.image_size
        images = observation.images[: self.cameras]
        frames = prepare_frames(images, self.protocol, size, self.device)
        pixels = pixel_values(frames, self.dtype, self.normalization.means, self.normalization.stds)
        return Inputs(frames, pixels, self._proprio(observation))

    def _prefix(self, memory: Memory, inputs: Inputs) -> Work[Prefix]:
        proprio_P = None
        if inputs.proprio is not None:
            # before the towers: a copy to a GPU waits for the work launched before it
            proprio_P = torch.as_tensor(inputs.proprio, dtype=self.dtype, device=self.device)
        patches_BVD, fused = yield from self._patches(memory, inputs, memory.layout)
        prompt_TD = self.stack.embed(memory.prompt_T)
        sequence_BLD = self._sequence(prompt_TD, patches_BVD[0], proprio_P)
        return Prefix(memory.layout, sequence_BLD, patches_BVD[0], prompt_TD, fused)

    def _actions(self, normalised: np.ndarray) -> np.ndarray:
        return to_gripper_command(self.action_bounds.unnormalize(normalised))

    def _around_macs(self, inputs: Inputs) -> int:
        return self.prismatic.patch_macs(self.cameras) + self._input_macs()
