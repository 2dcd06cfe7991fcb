"""What a variant of a scene is, and where its randomness comes from.

A variant is a frozen dataclass: its fields are its options. Adding one is adding one file to this
folder:

    @Variant.register_subclass("dusk")
    @dataclass(frozen=True)
    class Dusk(Variant):
        '''One line for --help and the docs.'''

        scales = {"evening": Scale("share of the light", (0.8, 0.6, 0.4, 0.3, 0.2))}

        def edit(self, stage):
            stage.set("light_diffuse", stage.model.light_diffuse * self.amount)

It says what it edits by the hooks it overrides; whatever it edits through the stage is put back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_type_hints

import draccus
import numpy as np

from vlaprune_bench.sim.draw import Draw
from vlaprune_bench.types import CAMERAS, UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage
    from vlaprune_bench.sim.suites import TaskInfo

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Scale:
    """What severities 1 to 5 of one kind of change mean."""

    unit: str
    levels: tuple[float, float, float, float, float]
    default: int = 3
    """Severity where none is given."""


@dataclass(frozen=True)
class Variant(draccus.ChoiceRegistry):
    """Base of every variant; the object holds options only."""

    kind: str = ""
    """Which of its changes; empty: the first."""
    severity: int = 0
    """1 to 5, see `scales`; 0: the scale's own default."""

    scales: ClassVar[dict[str, Scale | None]] = {}
    """What severities mean, by kind; None: a kind that has no severities."""

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", next(iter(self.scales)))
        if self.kind not in self.scales:
            raise UserError(
                f"variant {self.name} has kind={self.kind}; choose {' or '.join(self.scales)}."
            )
        scale = self.scales[self.kind]
        if scale is None and self.severity:
            raise UserError(
                f"variant {self.name} has severity={self.severity}; kind={self.kind} has none."
            )
        if scale is not None and self.severity == 0:
            object.__setattr__(self, "severity", scale.default)
        if scale is not None and self.severity not in SEVERITIES:
            raise UserError(f"variant {self.name} has severity={self.severity}; choose 1 to 5.")

    @property
    def name(self) -> str:
        return self.get_choice_name(type(self))

    @property
    def amount(self) -> float:
        """What the severity means, in the scale's unit."""
        scale = self.scales[self.kind]
        assert scale is not None
        return scale.levels[self.severity - 1]

    @property
    def key(self) -> str:
        """Names this variant's random numbers. Severity is left out: 2 turns the camera the way 1
        does, further."""
        return f"{self.name} {self.kind}"

    def identity(self) -> dict[str, Any]:
        """What it does, as plain data: its options, and what its severity means."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        scale = self.scales[self.kind]
        meaning = {} if scale is None else {"amount": self.amount, "unit": scale.unit}
        return {"type": self.name, **options, **meaning}

    def check(self, task: TaskInfo) -> None:
        """Raise UserError where a task cannot have this variant."""

    def extras(self, task: TaskInfo) -> dict[str, str]:
        """Objects it adds to the scene: categories by LIBERO name. They are in the model; `start`
        must say where they stand."""
        return {}

    def edit(self, stage: Stage) -> None:
        """Edit the compiled model, and the arm's start pose, before a reset."""

    def start(self, stage: Stage, state: np.ndarray) -> None:
        """Edit the init state (time, qpos, qvel) after a reset, in place, before it is set; the
        model with its placed fixtures may be looked at and edited."""

    def holds_frame(self, draw: Draw, step: int) -> bool:
        """Whether the frames of this control step are needed later, though nobody looks at them."""
        return False

    def frame(self, view: View, image: np.ndarray) -> np.ndarray:
        """Edit a camera's frame, (size, size, 3) uint8, upright as the policy sees it.

        `image` must not be written to.
        """
        return image

    def words(self, draw: Draw, instruction: str) -> str:
        """Edit the instruction."""
        return instruction


@dataclass
class View:
    """Whose frame is edited, and when."""

    camera: str
    """One of `types.CAMERAS`."""
    step: int
    """Control steps executed since the scene has settled."""
    draw: Draw
    held: dict[Any, np.ndarray]
    """What a variant keeps from frame to frame of an episode, by keys of its own."""

    def rng(self, variant: Variant) -> np.random.Generator:
        """The generator of this camera's frame at this step."""
        return self.draw.rng(f"{variant.key} {self.camera}", self.step)


CAMERA_NAMES = {"agentview": (CAMERAS[0],), "wrist": (CAMERAS[1],), "both": CAMERAS}
"""What a variant's option `camera` may say."""


@dataclass(frozen=True)
class CameraVariant(Variant):
    """A variant of one camera or both."""

    camera: str = "both"
    """agentview, wrist or both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.camera not in CAMERA_NAMES:
            known = " or ".join(CAMERA_NAMES)
            raise UserError(f"variant {self.name} has camera={self.camera}; choose {known}.")

    @property
    def cameras(self) -> tuple[str, ...]:
        return CAMERA_NAMES[self.camera]


def option_types(variant: type[Variant]) -> dict[str, type]:
    """The types of a variant's options by name, for parsing text."""
    hints = get_type_hints(variant)
    return {f.name: (get_args(hints[f.name]) or (hints[f.name],))[0] for f in fields(variant)}
