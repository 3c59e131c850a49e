"""Clips of things that act, as data sets by user, with what a system may need known."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.clip_world.actions import ACTIONS, IN_PLACE
from simulations.datasets.clip_world.captions import THINGS, describe
from simulations.datasets.clip_world.studio import Cast, Studio
from simulations.datasets.counters import integers, uniform
from simulations.datasets.generated import Fields, Generated
from simulations.datasets.shapes import COLOURS


@dataclass(frozen=True)
class Clips(Generated):
    """Clips of a few things before a user's camera, some with a scene cut.

    The class of a clip is what its first thing is and does. A user has a favourite
    colour and a taste for crowds.

    Fields, with K things, T frames and A actions:

    - `clip` uint8 `[n, T, side, side, 3]`;
    - `caption` str `[n]`; `nouns` str `[n, K]`, empty where there is no thing;
    - `boxes` float32 `[n, T, K, 4]` as (ymin, xmin, ymax, xmax) in [0, 1], -1 where a
      thing is out of sight;
    - `thing` int64 `[n, K]` into `THINGS`, -1 where there is none;
    - `action` int64 `[n, K]` into `ACTIONS`, likewise; `doing` uint8 `[n, K, A]`, every
      action of each thing; `events` uint8 `[n, A]`, every action of the clip;
    - `segment` int64 `[n, T]`, the scene of each frame;
    - `label` int64 `[n]`.

    Attributes:
        frames: T.
        things: K, the most there are; two are always there, if K is 2 or more.
        cuts: share of clips with a scene cut.
        also: share of things that change in place besides moving.

    Raises:
        UserError: a number out of range.

    Example:
        >>> rows = Clips(100).fetch(np.array([7])).fields
        >>> rows["clip"].shape, rows["boxes"].shape
        ((16, 8, 32, 32, 3), (16, 8, 3, 4))
    """

    frames: int = 8
    things: int = 3
    cuts: float = 0.25
    also: float = 0.25

    name: ClassVar[str] = "clips"
    description: ClassVar[str] = "clips of acting shapes, with captions and boxes"
    all_classes: ClassVar[int] = len(THINGS) * len(ACTIONS)
    verbs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frames", "things"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("cuts", "also"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must be in [0, 1].")
        if self.cuts and (self.frames < 6 or self.things < 2):
            raise UserError(
                f"cuts={self.cuts} needs 6 frames and 2 things, not {self.frames} and "
                f"{self.things}; give cuts=0, or use clips-plain."
            )

    def class_name(self, kind: int) -> str:
        """`red square moves left`, say."""
        thing, action = divmod(kind, len(ACTIONS))
        return f"{THINGS[thing]} {ACTIONS[action]}"

    def lead(
        self, own: NDArray[np.uint64], kind: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What the first thing of each clip is, and what it does."""
        return kind // len(ACTIONS), kind % len(ACTIONS)

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """The clips, and everything that is known about them."""
        cast = self._cast(names, own, kind)
        clip, boxes = self.studio.film(cast)
        caption, nouns = describe(cast.thing, cast.doing, cast.scene, self.verbs)
        return {
            "clip": clip,
            "caption": caption,
            "nouns": nouns,
            "boxes": boxes,
            "thing": cast.thing,
            "action": np.where(cast.thing >= 0, cast.doing.argmax(2), -1),
            "doing": cast.doing.astype(np.uint8),
            "events": np.any(cast.doing, axis=1, keepdims=True)[:, 0].astype(np.uint8),
            "segment": self.studio.segments(cast.cut),
        }

    @cached_property
    def studio(self) -> Studio:
        """What films the clips."""
        return Studio(self.side, self.frames, self.seed)

    def other(
        self, names: NDArray[np.uint64], words: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Another thing, often in the user's favourite colour, and what it does."""
        what = integers(self.hash(words, 22), len(THINGS))
        favourite = integers(self.hash(names, 20), len(COLOURS))
        usual = uniform(self.hash(words, 23)) < 0.3
        what = np.where(usual, what - what % len(COLOURS) + favourite, what)
        return what, integers(self.hash(words, 24), len(ACTIONS))

    def _cast(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Cast:
        count, most = len(names), self.things
        thing = np.full((count, most), -1)
        doing = np.zeros((count, most, len(ACTIONS)), dtype=bool)
        here = np.ones(count, dtype=bool)
        crowd = uniform(self.hash(names, 21))
        for k in range(most):
            words = self.hash(own, 30 + k)
            what, act = self.lead(own, kind) if k == 0 else self.other(names, words)
            if k > 1:
                here = here & (uniform(self.hash(words, 25)) < crowd)
            thing[:, k] = np.where(here, what, -1)
            doing[np.flatnonzero(here), k, act[here]] = True
            more = here & (act < IN_PLACE) & (uniform(self.hash(words, 26)) < self.also)
            second = IN_PLACE + integers(self.hash(words, 27), len(ACTIONS) - IN_PLACE)
            doing[np.flatnonzero(more), k, second[more]] = True
        cutting = uniform(self.hash(own, 28)) < self.cuts
        middle = self.frames // 2 - 1 + integers(self.hash(own, 29), 3)
        # Things up to some number appear before the cut, at least one on either side.
        sides = np.maximum((thing >= 0).sum(1) - 1, 1).astype(np.uint64)
        split = 1 + (self.hash(own, 60) % sides).astype(np.int64)
        split = np.where(cutting, split, most)
        return Cast(
            user=names,
            place=own,
            own=own,
            thing=thing,
            doing=doing,
            scene=(np.arange(most) >= split[:, None]).astype(np.int64),
            cut=np.where(cutting, middle, self.frames),
        )
