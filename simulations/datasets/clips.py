"""The names under which generated clips are opened."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.clip_world.actions import ACTIONS
from simulations.datasets.clip_world.captions import THINGS
from simulations.datasets.clip_world.stage import Stage
from simulations.datasets.clip_world.studio import Studio
from simulations.datasets.clip_world.untrimmed import LongClips
from simulations.datasets.clip_world.world import Clips
from simulations.datasets.counters import integers
from simulations.datasets.generated import USERS, Fields, Generated
from simulations.datasets.registry import LoadOptions

_MOVES = ACTIONS.index("circles") + 1  # all up to it move a thing elsewhere, in sight


def load(options: LoadOptions) -> Generated:
    """The data set for `--dataset clips` and the names that begin with `clips-`."""
    kinds: tuple[type[Generated], ...] = (
        Clips,
        PlainClips,
        AppearanceClips,
        LitClips,
        Stills,
        MotionClips,
        LongClips,
    )
    by_name = {kind.name: kind for kind in kinds}
    chosen: dict[str, Any] = (
        {} if options.frames is None else {"frames": options.frames}
    )
    return by_name[options.name](
        options.users or USERS, options.seed, options.image_size or 32, **chosen
    )


@dataclass(frozen=True)
class PlainClips(Clips):
    """Two things, one action each, no cuts."""

    things: int = 2
    cuts: float = 0.0
    also: float = 0.0

    name: ClassVar[str] = "clips-plain"
    description: ClassVar[str] = "clips of two acting shapes without cuts"


@dataclass(frozen=True)
class AppearanceClips(PlainClips):
    """Clips whose class is what the first thing is, whatever it does."""

    name: ClassVar[str] = "clips-appearance"
    description: ClassVar[str] = "clips that are told apart by what is in them"
    all_classes: ClassVar[int] = len(THINGS)
    held_out_repeats: ClassVar[int] = 40  # there are few classes

    def class_name(self, kind: int) -> str:
        """`red square`, say."""
        return THINGS[kind]

    def lead(
        self, own: NDArray[np.uint64], kind: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The thing of the class, doing anything."""
        return kind, integers(self.hash(own, 61), len(ACTIONS))


@dataclass(frozen=True)
class LitClips(PlainClips):
    """Several moving things on one stage, whose looks change with their place.

    The class is what the first thing is and how it moves; nothing else tells clips
    apart, and users differ in what they show alone.
    """

    things: int = 4

    name: ClassVar[str] = "clips-lit"
    description: ClassVar[str] = "clips of moving shapes whose looks change with place"
    all_classes: ClassVar[int] = len(THINGS) * _MOVES

    def class_name(self, kind: int) -> str:
        """`red square moves left`, say."""
        thing, action = divmod(kind, _MOVES)
        return f"{THINGS[thing]} {ACTIONS[action]}"

    def lead(
        self, own: NDArray[np.uint64], kind: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The thing of the class, and its move."""
        return kind // _MOVES, kind % _MOVES

    def other(
        self, names: NDArray[np.uint64], words: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Any other thing, and any move."""
        what, move = self.hash(words, 64), self.hash(words, 65)
        return integers(what, len(THINGS)), integers(move, _MOVES)

    @cached_property
    def studio(self) -> Studio:
        """The one stage."""
        return Stage(self.side, self.frames, self.seed)


@dataclass(frozen=True)
class Stills(AppearanceClips):
    """Single frames, with captions that say what there is."""

    frames: int = 1

    name: ClassVar[str] = "clips-stills"
    description: ClassVar[str] = "single frames of clips, with captions without verbs"
    verbs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames != 1:
            raise UserError(f"frames={self.frames}: a still picture has one.")


@dataclass(frozen=True)
class MotionClips(PlainClips):
    """One thing on a circle; the class is the order in which it visits its places.

    Every class shows the same frames: who looks at frames one by one, or in any order,
    finds nothing. Cameras stand still, and held-out clips are of the same classes.
    """

    things: int = 1

    name: ClassVar[str] = "clips-motion"
    description: ClassVar[str] = "clips that are told apart by the order of frames only"
    steps: ClassVar[tuple[int, ...]] = (1, 3, 5, 7)
    all_classes: ClassVar[int] = 4
    held_out_repeats: ClassVar[int] = 100
    closed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames != 8:
            raise UserError(f"frames={self.frames}: orders are defined for 8 frames.")

    def class_name(self, kind: int) -> str:
        """`circles in steps of 3`, say."""
        return f"circles in steps of {self.steps[kind]}"

    def lead(
        self, own: NDArray[np.uint64], kind: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Any thing, on a circle."""
        what = integers(self.hash(own, 62), len(THINGS))
        return what, np.full_like(what, ACTIONS.index("circles"))

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """The frames of a circle, in the order of the class from any place on."""
        rows = dict(super().render(names, own, kind))
        start = integers(self.hash(own, 63), self.frames)
        step = np.asarray(self.steps)[kind]
        order = start[:, None] + step[:, None] * np.arange(self.frames)
        which = np.arange(len(own))[:, None], order % self.frames
        return {**rows, "clip": rows["clip"][which], "boxes": rows["boxes"][which]}

    @cached_property
    def studio(self) -> Studio:
        """What films the clips, on a tripod."""
        return Studio(self.side, self.frames, self.seed, steady=True)
