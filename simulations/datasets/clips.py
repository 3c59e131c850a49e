"""Procedural clips: coloured shapes that move, with captions and boxes.

The class of a clip is what its first shape is and does; a second shape does something
else. A user has a background, a tempo, a taste in sizes, and shakes the camera.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.counters import integers, signed, uniform
from simulations.datasets.generated import Fields, Generated
from simulations.datasets.registry import LoadOptions
from simulations.datasets.shapes import COLOURS, SHAPES, Things, article, boxes

MOTIONS = (
    "moves left",
    "moves right",
    "rises",
    "falls",
    "grows",
    "shrinks",
    "spins",
    "circles",
)
FRAMES = 8


def load(options: LoadOptions) -> "MovingShapes":
    """The data set for `--dataset clips`."""
    return MovingShapes(options.users or 10_000, options.seed, options.image_size or 32)


@dataclass(frozen=True)
class MovingShapes(Generated):
    """Clips of two shapes.

    Fields: `clip` uint8 `[n, T, side, side, 3]`; `caption` str `[n]`; `nouns` str
    `[n, 2]`, the shapes named in the caption; `boxes` float32 `[n, T, 2, 4]` as (ymin,
    xmin, ymax, xmax) in [0, 1], -1 when out of sight; `action` int64 `[n, 2]` into
    `MOTIONS`; `label` int64 `[n]`.

    Attributes:
        frames: T.

    Example:
        >>> rows = MovingShapes(100).fetch(np.array([7])).fields
        >>> rows["clip"].shape, rows["boxes"].shape
        ((16, 8, 32, 32, 3), (16, 8, 2, 4))
    """

    frames: int = FRAMES

    name: ClassVar[str] = "clips"
    description: ClassVar[str] = "clips of moving shapes with captions and boxes"
    all_classes: ClassVar[int] = len(SHAPES) * len(COLOURS) * len(MOTIONS)

    def class_name(self, kind: int) -> str:
        """`red square moves left`, say."""
        rest, motion = divmod(kind, len(MOTIONS))
        shape, colour = divmod(rest, len(COLOURS))
        return f"{COLOURS[colour]} {SHAPES[shape]} {MOTIONS[motion]}"

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """The clips, two shapes each, the second behind the first."""
        count, side, frames = len(names), self.side, self.frames
        other = integers(self.hash(own, 20), self.all_classes)
        pictures = self._backgrounds(names, own)
        parts = []
        for place, what in ((1, other), (0, kind)):
            words = self.hash(own, 30 + place)
            things = self._things(names, words, what, 0.3 if place else 0.7)
            mask = things.mask(side)
            things.paint(pictures, mask)
            parts.append(boxes(mask).reshape(count, frames, 1, 4))
        pictures += self._grain
        clip = np.clip(pictures, 0, 255).astype(np.uint8)
        kinds = np.stack([kind, other], axis=1)
        words_of = np.array([self.class_name(k) for k in range(self.all_classes)])
        named = words_of[kinds]
        captions = [
            f"{article(first)} and {article(second)}" for first, second in named
        ]
        nouns = [[" ".join(words.split()[:2]) for words in pair] for pair in named]
        return {
            "clip": clip.reshape(count, frames, side, side, 3),
            "caption": np.array(captions),
            "nouns": np.array(nouns),
            "boxes": np.concatenate(parts[::-1], axis=2),
            "action": kinds % len(MOTIONS),
        }

    def _things(
        self,
        names: NDArray[np.uint64],
        words: NDArray[np.uint64],
        kind: NDArray[np.int64],
        lane: float,
    ) -> Things:
        """One shape per frame, `[n * T]`."""
        motion = (kind % len(MOTIONS))[:, None]
        tempo = (0.8 + 0.4 * uniform(self.hash(names, 40)))[:, None]
        time = np.linspace(-0.5, 0.5, self.frames)[None, :] * tempo
        size = 0.13 + 0.03 * signed(self.hash(names, 41))
        size = size + 0.02 * signed(self.hash(words, 42))
        x = 0.5 + 0.15 * signed(self.hash(words, 43))[:, None]
        y = lane + 0.1 * signed(self.hash(words, 44))[:, None]
        angle = 0.4 * signed(self.hash(words, 45))[:, None]
        shake = 0.01 * signed(self.hash(names, 46))[:, None] * np.sin(9 * time)
        turn = 2 * np.pi * time

        def when(name: str) -> NDArray[np.float64]:
            return np.asarray(motion == MOTIONS.index(name), dtype=np.float64)

        x = x + time * 0.6 * (when("moves right") - when("moves left"))
        y = y + time * 0.5 * (when("falls") - when("rises"))
        x = x + shake + 0.15 * np.cos(turn) * when("circles")
        y = y + 0.15 * np.sin(turn) * when("circles")
        growth = np.exp(1.4 * time * (when("grows") - when("shrinks")))
        rest = np.repeat(kind // len(MOTIONS), self.frames)
        return Things(
            shape=rest // len(COLOURS),
            colour=rest % len(COLOURS),
            x=x.reshape(-1),
            y=y.reshape(-1),
            size=(size[:, None] * growth).reshape(-1),
            angle=(angle + turn * when("spins")).reshape(-1),
            tint=np.repeat(15 * signed(self.hash(names, 47)), self.frames),
        )

    def _backgrounds(
        self, names: NDArray[np.uint64], own: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        """A user's shade with a gradient, float32 `[n * T, side, side, 3]`."""
        shade = np.stack([uniform(self.hash(names, 50 + k)) for k in range(3)], axis=1)
        slope = 25 * signed(self.hash(own, 53))
        ramp = np.linspace(-1, 1, self.side)
        levels = 30 + 90 * shade[:, None, :] + (slope[:, None] * ramp)[:, :, None]
        picture = np.broadcast_to(
            levels.astype(np.float32)[:, None, :, None, :],
            (len(names), self.frames, self.side, self.side, 3),
        )
        return np.array(picture).reshape(-1, self.side, self.side, 3)

    @cached_property
    def _grain(self) -> NDArray[np.float32]:
        draw = np.random.default_rng([self.seed, 41])
        return draw.normal(0, 4, (self.side, self.side, 3)).astype(np.float32)
