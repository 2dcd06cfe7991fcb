"""An OpenVLA and an OpenVLA-OFT under training: the modules inference runs, on batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from tiny.dropout import Leaving
from tiny.network import ACTION_DIM, PROPRIO_DIM, Batch, Learned, Subject, auxiliary_head, run_stack
from vlaprune_bench.policies.preprocess import DINO_MEAN, DINO_STD, SIGLIP_MEAN, SIGLIP_STD
from vlaprune_bench.policies.prismatic.heads import ActionTokens, L1Head, ProprioProjector
from vlaprune_bench.policies.prismatic.inputs import PROMPT
from vlaprune_bench.policies.prismatic.model import Prismatic
from vlaprune_bench.policies.prismatic.openvla import OpenVLA
from vlaprune_bench.policies.prismatic.openvla_oft import OpenVLAOFT
from vlaprune_bench.policies.prismatic.policy import PrismaticVLA
from vlaprune_bench.policies.transformer.stack import Stack
from vlaprune_bench.types import TokenLayout


class PrismaticSubject(Subject):
    """An OpenVLA of either kind."""

    policy: type[PrismaticVLA]
    logits: bool
    """Whether the language model's token logits are needed."""

    def __init__(self, config: dict[str, Any], attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.prismatic = Prismatic(config, attention, sees=self.policy.sees, logits=self.logits)
        self.auxiliary = auxiliary_head(self.stack)

    @property
    def stack(self) -> Stack:  # type: ignore[override]
        return self.prismatic.language_model

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:  # type: ignore[override]
        return (self.prismatic.vision_backbone.grid,) * self.policy.cameras

    def slow_modules(self) -> list[nn.Module]:
        """Towers and projector."""
        backbone = self.prismatic.vision_backbone
        return [backbone.featurizer, backbone.fused_featurizer, self.prismatic.projector]

    def patch_embeddings(self) -> list[nn.Conv2d]:
        """Of the towers."""
        backbone = self.prismatic.vision_backbone
        towers: Any = (backbone.featurizer, backbone.fused_featurizer)
        return [tower.patch_embed.proj for tower in towers]

    @classmethod
    def tokenizer(cls) -> Tokenizer:
        """One token a word."""
        import make_tiny

        return make_tiny.make_tokenizer()

    @classmethod
    def config(
        cls, tokenizer: Tokenizer, name: str, size: dict[str, int], image: int, suites: list[str]
    ) -> dict[str, Any]:
        """See `Subject.config`; a tower's depth is one more than run."""
        import make_tiny

        tower = {
            "depth": size["tower_depth"],
            "embed_dim": size["tower_width"],
            "num_heads": size["tower_width"] // 32,
            "mlp_ratio": 2.0,
            "patch": size["patch"],
        }
        config = make_tiny.make_config(tokenizer)
        config["timm_model_kwargs"] = [tower, tower]
        heads = size["width"] // 32
        config["text_config"] |= {
            "hidden_size": size["width"],
            "intermediate_size": 2 * size["width"],
            "num_hidden_layers": size["depth"],
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        }
        config["vlaprune"] = {"name": name, "trained": True, "assets": "lite"}
        return config

    @classmethod
    def prompt(cls, tokenizer: Tokenizer, config: dict[str, Any], instruction: str) -> list[int]:
        """As `PrismaticVLA.start` makes it."""
        ids = tokenizer.encode(PROMPT.format(instruction.lower())).ids
        return [*ids, config["prompt_suffix_token_id"]]

    def pixels(
        self, images_B: Tensor, gain_BN: Tensor, offset_BN: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """`preprocess.pixel_values` for a batch: (B, 6 x cameras, H, W)."""
        towers = []
        n = self.policy.cameras
        x, gain_BN, offset_BN = images_B[:, :n].to(dtype), gain_BN[:, :n], offset_BN[:, :n]
        for mean, std in ((DINO_MEAN, DINO_STD), (SIGLIP_MEAN, SIGLIP_STD)):
            mean_C, std_C = torch.tensor(mean), torch.tensor(std)
            scale = gain_BN[..., None] / (255.0 * std_C)
            shift = (0.5 * (1.0 - gain_BN[..., None]) + offset_BN[..., None] - mean_C) / std_C
            towers.append(x * scale[..., None, None].to(dtype) + shift[..., None, None].to(dtype))
        return torch.cat(towers, dim=2).flatten(1, 2)

    def begin(self, folder: Path) -> None:
        """See `Subject.begin`."""
        parts = {"prismatic": load_file(folder / "model.safetensors")}
        for part in self.parts:
            state = torch.load(folder / f"{part}--0_checkpoint.pt", weights_only=True)
            parts[part] = {k.removeprefix("module."): value for k, value in state.items()}
        for part, state in parts.items():
            self.get_submodule(part).load_state_dict(state)

    def export(
        self,
        weights: dict[str, Tensor],
        folder: Path,
        config: dict[str, Any],
        tokenizer: Tokenizer,
        statistics: dict[str, Any],
    ) -> None:
        """See `Subject.export`."""
        folder.mkdir(parents=True, exist_ok=True)
        names = ("prismatic", "auxiliary", *self.parts)
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for name, value in weights.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value.detach().to(torch.float16).contiguous()
        save_file(parts["prismatic"], folder / "model.safetensors")
        for part in self.parts:
            state = {f"module.{name}": value for name, value in parts[part].items()}
            torch.save(state, folder / f"{part}--0_checkpoint.pt")
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n")
        by_dataset = {f"{suite}_no_noops": entry for suite, entry in statistics.items()}
        for file, content in (("config", config), ("dataset_statistics", by_dataset)):
            (folder / f"{file}.json").write_text(json.dumps(content, indent=1) + "\n")


class TinyOFT(PrismaticSubject):
    """An OpenVLA-OFT."""

    policy = OpenVLAOFT
    logits = False
    parts = ("proprio_projector", "action_head")
    fixed_rows = ("action_head.model.fc2.weight", "action_head.model.fc2.bias")

    def __init__(self, config: dict[str, Any], attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        width = self.prismatic.language_model.width
        self.proprio_projector = ProprioProjector(PROPRIO_DIM, width)
        self.action_head = L1Head(width, ACTION_DIM)
        self.stop = config["text_config"]["eos_token_id"]

    def initialise(self, seed: int, fixed: Tensor) -> None:
        """See `Subject.initialise`.

        Rows of the head of dimensions nobody uses are 0 with bias -1: un-normalised, exactly no
        motion, which makes the controller hold the orientation it was told (a rotation of 1e-9
        would make it follow the drift).
        """
        super().initialise(seed, fixed)
        last = self.action_head.model.fc2
        with torch.no_grad():
            last.weight.mul_(0.3)
            last.weight[fixed] = 0.0
            last.bias[fixed] = -1.0

    def forward(
        self,
        pixels_BCHW: Tensor,
        proprio_BP: Tensor,
        prompt_T: Tensor,
        leaving: Leaving | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `OpenVLAOFT.forward` does, for samples of one prompt.

        Args:
            pixels_BCHW: as `policies.preprocess.pixel_values` gives them, one sample a row.
            proprio_BP: normalised robot state.
            prompt_T: prompt tokens; or (B, T), one prompt a sample, all of one length.
            leaving: visual tokens that leave on the way; None: all stay.

        Returns:
            (B, 8, 7) normalised actions, (B, 7 + words) what the auxiliary head says, and (B, V)
            the text-vision scores of `pruning.static` at layer 0.
        """
        model = self.prismatic.language_model
        batch = len(pixels_BCHW)
        patches_BVD = self.prismatic.patches(pixels_BCHW)
        prompt_BTD = model.embed(prompt_T.expand(batch, -1))
        stop_BTD = model.embed(torch.tensor([self.stop])).expand(batch, -1, -1)
        n_actions = OpenVLAOFT.chunk * ACTION_DIM
        sequence_BLD = torch.cat(
            [
                prompt_BTD[:, :1],
                patches_BVD,
                self.proprio_projector(proprio_BP)[:, None],
                prompt_BTD[:, 1:],
                prompt_BTD.new_zeros(batch, n_actions, model.width),
                stop_BTD,
            ],
            dim=1,
        )
        layout = TokenLayout(
            grids=self.grids,
            n_prompt=prompt_BTD.shape[1],
            has_proprio=True,
            n_actions=n_actions,
            has_stop=True,
        )
        hidden_BLD = run_stack(model, sequence_BLD, layout, leaving)
        rows = layout.action_rows
        hidden_BAD = model.model.norm(hidden_BLD)[:, rows.start : rows.stop]
        scores_BV = self.scores(torch.cat([prompt_BTD, stop_BTD], dim=1), patches_BVD)
        return self.action_head(hidden_BAD), self.auxiliary(hidden_BAD.mean(1)), scores_BV

    def learn(self, batch: Batch, leaving: Leaving | None, fixed: Tensor) -> Learned:
        """L1, as the published ones were trained."""
        said, told, scores = self(batch.pixels_BCHW, batch.proprio_BP, batch.prompt_BT, leaving)
        error = (said.float() - batch.actions_BCA).abs()
        moved = error[..., :-1][..., ~fixed[:-1]].mean()
        return {"motion": moved, "gripper": error[..., -1].mean()}, told, scores


class TinyOpenVLA(PrismaticSubject):
    """An OpenVLA: the tokens of one action, one after the other."""

    policy = OpenVLA
    logits = True
    patient = False
    spread = 0.02
    """Width of the bell over the bins that is learnt in place of one bin; bins are 0.008 apart."""

    def __init__(self, config: dict[str, Any], attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.tokens = ActionTokens.read(config)
        edges = torch.linspace(-1.0, 1.0, self.tokens.bins)
        self.centers = (edges[:-1] + edges[1:]) / 2.0

    @classmethod
    def config(
        cls, tokenizer: Tokenizer, name: str, size: dict[str, int], image: int, suites: list[str]
    ) -> dict[str, Any]:
        """See `Subject.config`."""
        import make_tiny

        return make_tiny.with_action_tokens(super().config(tokenizer, name, size, image, suites))

    def forward(
        self,
        pixels_BCHW: Tensor,
        prompt_T: Tensor,
        said_BA: Tensor,
        leaving: Leaving | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `OpenVLA` does, for samples whose action is known.

        Args:
            pixels_BCHW: as `policies.preprocess.pixel_values` gives them, of one camera.
            prompt_T: prompt tokens; or (B, T), one prompt a sample, all of one length.
            said_BA: tokens of the action but the last, (B, 6).
            leaving: visual tokens that leave on the way; None: all stay.

        Returns:
            (B, 7, vocabulary) logits, (B, 7 + words) what the auxiliary head says, and (B, V) the
            text-vision scores of `pruning.static` at layer 0.
        """
        model = self.prismatic.language_model
        patches_BVD = self.prismatic.patches(pixels_BCHW)
        prompt_BTD = model.embed(prompt_T.expand(len(pixels_BCHW), -1))
        sequence_BLD = torch.cat(
            [prompt_BTD[:, :1], patches_BVD, prompt_BTD[:, 1:], model.embed(said_BA)], dim=1
        )
        layout = TokenLayout(grids=self.grids, n_prompt=prompt_BTD.shape[1], n_generated=ACTION_DIM)
        hidden_BLD = run_stack(model, sequence_BLD, layout, leaving)
        hidden_BAD = model.model.norm(hidden_BLD)[:, layout.length - 1 :]
        scores_BV = self.scores(prompt_BTD, patches_BVD)
        return model.lm_head(hidden_BAD), self.auxiliary(hidden_BAD[:, 0]), scores_BV

    def bins(self, actions_BA: Tensor) -> Tensor:
        """Number of the bin of normalised actions, from 0."""
        edges = torch.linspace(-1.0, 1.0, self.tokens.bins)
        return (torch.bucketize(actions_BA, edges, right=True) - 1).clamp(0, len(edges) - 2)

    def learn(self, batch: Batch, leaving: Leaving | None, fixed: Tensor) -> Learned:
        """Cross-entropy against a narrow bell over the bins: a bin beside the right one is near."""
        first_BA = batch.actions_BCA[:, 0].contiguous()
        said_BA = self.tokens.vocabulary - 1 - self.bins(first_BA)
        logits, told, scores = self(batch.pixels_BCHW, batch.prompt_BT, said_BA[:, :-1], leaving)
        away = (self.centers - first_BA.clamp(-1.0, 1.0)[..., None]) / self.spread
        bell_BAK = (-0.5 * away.square()).softmax(-1)
        # bin i is token vocabulary - 1 - i
        stop, n = self.tokens.vocabulary, len(self.centers)
        logs_BAK = logits.float().log_softmax(-1)[..., stop - n : stop].flip(-1)
        loss_BA = (bell_BAK * (bell_BAK.clamp(min=1e-12).log() - logs_BAK)).sum(-1)
        moved = loss_BA[:, :-1][:, ~fixed[:-1]].mean()
        return {"motion": moved, "gripper": loss_BA[:, -1].mean()}, told, scores
