"""Scenes annotated by people who use different words for the same things.

Stands in for training on HICO-DET, Visual Genome and a detection data set together:
every user annotates in the words of one of three *sources*, whose label spaces are
synonymous or overlap, and one of which has boxes only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.counters import integers
from simulations.datasets.generated import USERS, Fields, Generated
from simulations.datasets.registry import LoadOptions
from simulations.datasets.scenes import PREDICATES, Scenes
from simulations.datasets.shapes import COLOURS, SHAPES, Things

SOURCES = ("words-a", "words-b", "boxes-only")
OTHER_SHAPES = ("box", "sphere", "pyramid", "plus", "hoop", "rhombus")
OTHER_PREDICATES = (
    "to the left of",
    "over",
    "grasping",
    "within",
    "beside",
    "to the right of",
    "under",
    "grasped by",
    "surrounding",
)
NAMES = (*SHAPES, *OTHER_SHAPES)
RELATIONS = (*PREDICATES, *OTHER_PREDICATES)

_MAIN = 5
_OBJECT_WORDS = np.array(
    [range(6), range(6, 12), [0, 7, 2, 9, 4, 11]]
)  # the third source takes its words from both
_BOXES_ONLY = SOURCES.index("boxes-only")


def load(options: LoadOptions) -> "RelationScenes":
    """The data set for `--dataset relation-scenes`."""
    return RelationScenes(
        options.users or USERS, options.seed, options.image_size or 48
    )


@dataclass(frozen=True)
class RelationScenes(Generated):
    """Pictures of two to four shapes with boxes, names and relations.

    Every kind of shape has a colour of its own, in the user's light.

    Fields: `image` uint8 `[n, side, side, 3]`; `boxes` float32 `[n, 4, 4]` as (ymin,
    xmin, ymax, xmax) of what can be seen, -1 if nothing; `object_name` int64 `[n, 4]`
    into `NAMES`, -1 if none; `relations` int64 `[n, 2, 3]` as (subject, predicate in
    `RELATIONS`, object), -1 if none; `source` int64 `[n]` into `SOURCES`, the same for
    all rows of a user; `label` int64 `[n]`, the triplet whatever it is called. The last
    fifth of the triplets is held out.

    Example:
        >>> rows = RelationScenes(100).fetch(np.array([7])).fields
        >>> rows["image"].shape, rows["relations"].shape
        ((3, 48, 48, 3), (3, 2, 3))
    """

    side: int = 48
    classes_per_user: int = 3
    repeats: int = 1

    name: ClassVar[str] = "relation-scenes"
    description: ClassVar[str] = "scenes with relations in three sources' words"
    all_classes: ClassVar[int] = len(SHAPES) * _MAIN * len(SHAPES)
    held_out_repeats: ClassVar[int] = 16

    @property
    def vocabularies(self) -> Mapping[str, tuple[str, ...]]:
        """Names for integer fields, in all and by source."""
        found: dict[str, tuple[str, ...]] = {
            "object_name": NAMES,
            "relations": RELATIONS,
            "source": SOURCES,
        }
        for number, source in enumerate(SOURCES):
            words = _OBJECT_WORDS[number]
            found[f"object_name/{source}"] = tuple(NAMES[w] for w in words)
        found["relations/words-a"] = PREDICATES
        found["relations/words-b"] = OTHER_PREDICATES
        found["relations/boxes-only"] = ()
        return found

    def class_name(self, kind: int) -> str:
        """`square left of ball`, say."""
        rest, target = divmod(kind, len(SHAPES))
        subject, predicate = divmod(rest, _MAIN)
        return f"{SHAPES[subject]} {PREDICATES[predicate]} {SHAPES[target]}"

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """The scenes of `Scenes`, in the words of the user's source."""
        rest, target = np.divmod(kind, len(SHAPES))
        subject, predicate = np.divmod(rest, _MAIN)
        coloured = subject * len(COLOURS) * _MAIN + predicate
        rows = self._scenes.render(names, own, coloured * len(SHAPES) + target)
        source = integers(self.hash(names, 91), len(SOURCES))
        shape = np.asarray(rows["object_label"], dtype=np.int64)
        words = _OBJECT_WORDS[source[:, None], shape]
        relations = np.array(rows["relations"], dtype=np.int64)
        relations[..., 1] += len(PREDICATES) * (source == 1)[:, None]
        relations[source == _BOXES_ONLY] = -1
        return {
            "image": rows["image"],
            "boxes": rows["boxes"],
            "object_name": np.where(shape >= 0, words, -1),
            "relations": relations,
            "source": source,
        }

    @cached_property
    def _scenes(self) -> Scenes:
        return _TypicalColours(self.num_users, self.seed, self.side)


@dataclass(frozen=True)
class _TypicalColours(Scenes):
    """Scenes whose things have the colour of their kind, as bananas are yellow."""

    def _things(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
        predicate: NDArray[np.int64],
    ) -> list[Things]:
        things = super()._things(names, own, kind, predicate)
        return [replace(thing, colour=thing.shape) for thing in things]
