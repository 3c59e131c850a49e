"""Procedural scenes of shapes, with panoptic maps, relations and captions.

The class of a scene is its main triplet (coloured subject, relation, object). A user
has favourite grounds, a light and a grain of her own. Serves panoptic segmentation,
visual relationships, and text-image pairs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.counters import integers, signed, uniform
from simulations.datasets.generated import USERS, Fields, Generated
from simulations.datasets.registry import LoadOptions
from simulations.datasets.shapes import COLOURS, SHAPES, Things, article, boxes

STUFF = ("sky", "water", "grass", "sand")
PREDICATES = (
    "left of",
    "above",
    "holding",
    "inside",
    "next to",
    "right of",
    "below",
    "held by",
    "around",
)
LABEL_DIVISOR = 256
"""`panoptic = category * 256 + instance`, as COCO's; category 0 is void."""

_MAIN = 5  # the first five predicates make classes; the others are their inverses
_INVERSE = (5, 6, 7, 8, 4)
_GROUND = np.array([(150, 190, 225), (50, 95, 150), (80, 130, 60), (205, 180, 130)])
_MAX_THINGS = 4


def load(options: LoadOptions) -> "Scenes":
    """The data set for `--dataset scenes`."""
    return Scenes(options.users or USERS, options.seed, options.image_size or 64)


def categories() -> list[dict[str, int | str]]:
    """COCO-style records of the categories: stuff 1-4, things from 5."""
    names = [*((name, 0) for name in STUFF), *((name, 1) for name in SHAPES)]
    return [
        {"id": i + 1, "name": name, "isthing": thing}
        for i, (name, thing) in enumerate(names)
    ]


@dataclass(frozen=True)
class Scenes(Generated):
    """Pictures of two to four shapes on two kinds of ground.

    Fields: `image` uint8 `[n, side, side, 3]`; `panoptic` int32 `[n, side, side]`;
    `boxes` float32 `[n, 4, 4]` as (ymin, xmin, ymax, xmax) of what can be seen, -1 if
    nothing; `object_label` int64 `[n, 4]` into `SHAPES`, -1 if none; `object_colour`
    likewise into `COLOURS`; `relations` int64 `[n, 2, 3]` as (subject, predicate,
    object), the second the inverse of the first; `caption` and `caption_long` str
    `[n]`; `label` int64 `[n]`.

    Example:
        >>> rows = Scenes(100).fetch(np.array([7])).fields
        >>> rows["image"].shape, rows["relations"].shape
        ((16, 64, 64, 3), (16, 2, 3))
    """

    side: int = 64

    name: ClassVar[str] = "scenes"
    description: ClassVar[str] = "scenes of shapes with maps, relations and captions"
    all_classes: ClassVar[int] = len(SHAPES) * len(COLOURS) * _MAIN * len(SHAPES)
    held_out_repeats: ClassVar[int] = 8

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """Names of panoptic categories (0 is void), and which of them are things."""
        return {"panoptic": ("void", *STUFF, *SHAPES), "things": SHAPES}

    def class_name(self, kind: int) -> str:
        """`red square left of ball`, say."""
        rest, target = divmod(kind, len(SHAPES))
        rest, predicate = divmod(rest, _MAIN)
        shape, colour = divmod(rest, len(COLOURS))
        return (
            f"{COLOURS[colour]} {SHAPES[shape]} {PREDICATES[predicate]} "
            f"{SHAPES[target]}"
        )

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """The scenes, painted object first, then subject, then up to two more."""
        predicate = kind // len(SHAPES) % _MAIN
        pictures, panoptic, grounds = self._ground(names, own)
        things = self._things(names, own, kind, predicate)
        extra = integers(self.hash(own, 60), _MAX_THINGS - 1)  # 0, 1 or 2 more
        masks = np.zeros((_MAX_THINGS, len(own), self.side, self.side), dtype=bool)
        for place in (1, 0, 2, 3):
            mask = things[place].mask(self.side)
            mask[extra < place - 1] = False
            masks[:, mask] = False  # hides what was painted before
            masks[place] = mask
            things[place].paint(pictures, mask)
            category = len(STUFF) + 1 + things[place].shape
            identity = (category * LABEL_DIVISOR + place + 1).astype(np.int32)
            np.copyto(panoptic, identity[:, None, None], where=mask)
        pictures += self._grain[integers(self.hash(names, 61), len(self._grain))]
        present = masks.any(axis=(2, 3)).T
        shapes = np.stack([thing.shape for thing in things], axis=1)
        colours = np.stack([thing.colour for thing in things], axis=1)
        inverse = np.asarray(_INVERSE)[predicate]
        zero, one = np.zeros_like(predicate), np.ones_like(predicate)
        forth = np.stack([zero, predicate, one], axis=1)
        back = np.stack([one, inverse, zero], axis=1)
        short, long = self._captions(kind, colours[:, 1], extra, grounds)
        return {
            "image": np.clip(pictures, 0, 255).astype(np.uint8),
            "panoptic": panoptic,
            "boxes": np.stack([boxes(mask) for mask in masks], axis=1),
            "object_label": np.where(present, shapes, -1),
            "object_colour": np.where(present, colours, -1),
            "relations": np.stack([forth, back], axis=1),
            "caption": short,
            "caption_long": long,
        }

    def _things(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
        predicate: NDArray[np.int64],
    ) -> list[Things]:
        """Subject, object and two more, placed as the relation says."""
        offsets = np.array([(-0.34, 0), (0, -0.34), (0.13, 0.13), (0, 0), (0.3, 0.02)])
        dx, dy = offsets[predicate].T
        inside = predicate == PREDICATES.index("inside")
        size = 0.13 + 0.02 * signed(self.hash(own, 62))
        wide = np.where(inside, 0.27, 0.14 + 0.02 * signed(self.hash(own, 63)))
        x = 0.5 - dx / 2 + 0.1 * signed(self.hash(own, 64))
        y = 0.5 - dy / 2 + 0.1 * signed(self.hash(own, 65))
        tint = 20 * signed(self.hash(names, 66))
        rest = kind // len(SHAPES) // _MAIN
        subject = rest // len(COLOURS)
        colour = rest % len(COLOURS)
        other = 1 + integers(self.hash(own, 67), len(COLOURS) - 1)
        turn = [0.3 * signed(self.hash(own, 68 + k)) for k in range(4)]
        small = np.where(inside, 0.5 * size, size)
        out = [
            Things(subject, colour, x + dx, y + dy, small, turn[0], tint),
            Things(
                kind % len(SHAPES),
                (colour + other) % len(COLOURS),
                x,
                y,
                wide,
                turn[1],
                tint,
            ),
        ]
        for k in (2, 3):
            word = self.hash(own, 70 + k)
            out.append(
                Things(
                    integers(self.hash(word, 74), len(SHAPES)),
                    integers(self.hash(word, 75), len(COLOURS)),
                    np.where(uniform(self.hash(word, 76)) < 0.5, 0.12, 0.88),
                    0.12 + 0.76 * uniform(self.hash(word, 77)),
                    np.full(len(own), 0.09),
                    turn[k],
                    tint,
                )
            )
        return out

    def _ground(
        self, names: NDArray[np.uint64], own: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
        """Two bands of stuff: pictures, panoptic maps, and which stuff `[n, 2]`."""
        first = integers(self.hash(names, 80), len(STUFF))
        second = (first + 1 + integers(self.hash(own, 81), len(STUFF) - 1)) % len(STUFF)
        horizon = 0.35 + 0.3 * uniform(self.hash(own, 82))
        tilt = 0.1 * signed(self.hash(own, 83))
        axis = (np.arange(self.side) + 0.5) / self.side
        line = horizon[:, None] + tilt[:, None] * (axis - 0.5)
        upper = axis[None, :, None] < line[:, None, :]
        stuff = np.where(upper, first[:, None, None], second[:, None, None])
        light = 1 + 0.2 * signed(self.hash(names, 84))
        pictures = _GROUND.astype(np.float32)[stuff]
        pictures *= light.astype(np.float32)[:, None, None, None]
        panoptic = ((stuff + 1) * LABEL_DIVISOR).astype(np.int32)
        return pictures, panoptic, np.stack([first, second], axis=1)

    def _captions(
        self,
        kind: NDArray[np.int64],
        colour: NDArray[np.int64],
        extra: NDArray[np.int64],
        grounds: NDArray[np.int64],
    ) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        short, long = [], []
        for row, number in enumerate(kind):
            words = self.class_name(int(number)).rsplit(" ", 1)
            more = int(extra[row])
            one, two = (STUFF[g] for g in grounds[row])
            short.append(f"{article(words[0])} a {words[1]}")
            long.append(
                f"a picture of {article(words[0])} "
                f"{article(COLOURS[colour[row]])} {words[1]}, with {one} over "
                f"{two} and {more} more shape{'' if more == 1 else 's'}"
            )
        return np.array(short), np.array(long)

    @cached_property
    def _grain(self) -> NDArray[np.float32]:
        draw = np.random.default_rng([self.seed, 51])
        strength = draw.uniform(2, 12, (32, 1, 1, 1))
        noise = draw.normal(0, 1, (32, self.side, self.side, 1))
        return np.asarray((strength * noise).astype(np.float32))
