"""What procedural data sets share: rows that are functions of (seed, user, number)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, Provenance, Source
from fedemb.errors import UserError
from simulations.datasets.counters import integers, mix_seed

_HELD_OUT_USERS = np.uint64(1) << np.uint64(62)  # no training user is numbered so high
_WORDS = ("word of the user", "word of the row", "kind")  # what a row is rendered from
Fields = Mapping[str, NDArray[np.generic]]

USERS = 1_000_000
"""Training users of a generated population unless told otherwise.

Users that no round draws cost nothing, and with fewer the noise of a small epsilon
would drown what is to be learned.
"""


@dataclass(frozen=True)
class Generated(ABC):
    """A `UserDataset` made on demand; a user's rows never depend on other users.

    A user shows a few classes of her own, each several times. Classes are numbered in
    an order that the seed shuffles; the last fifth is held out. A `closed` data set
    holds out no class: its held-out rows are of the same classes and other users.

    Attributes:
        num_users: number of training users.
        seed: of everything; public.
        side: of the images, in pixels.
        classes_per_user: classes a user shows (some may coincide).
        repeats: rows of each.

    Raises:
        UserError: a number below 1.
    """

    num_users: int = USERS
    seed: int = 0
    side: int = 32
    classes_per_user: int = 4
    repeats: int = 4

    name: ClassVar[str]
    description: ClassVar[str]
    all_classes: ClassVar[int]
    held_out_repeats: ClassVar[int] = 10
    closed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("num_users", "side", "classes_per_user", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")

    @abstractmethod
    def class_name(self, kind: int) -> str:
        """Name of a class before the shuffle, `0 <= kind < all_classes`."""

    @abstractmethod
    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """Fields `[n, ...]` of rows.

        Args:
            names: one word per row, the same for all rows of a user.
            own: one word per row, another for each.
            kind: class before the shuffle.
        """

    @property
    def num_classes(self) -> int:
        """Training classes."""
        return self.all_classes - (0 if self.closed else self.all_classes // 5)

    @property
    def class_names(self) -> list[str]:
        """Names of all classes, training and held out, by label."""
        return [self.class_name(int(kind)) for kind in self._shuffle]

    @cached_property
    def provenance(self) -> Provenance:
        """The source record; the checksum names the generator's parameters."""
        knobs = (str(getattr(self, knob.name)) for knob in fields(self))
        facts = " ".join([f"{self.name}-2", *knobs])
        return Provenance(
            name=self.name,
            source=Source.SYNTHETIC,
            licence="CC0-1.0",
            checksum=hashlib.sha256(facts.encode()).hexdigest()[:16],
            description=f"{self.description} by {self.num_users:,} users",
        )

    def user_id(self, index: int) -> str:
        """`user-7`, say."""
        return f"user-{index}"

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """The rows of `users`, one group per user."""
        return self.complete(self.draft(users))

    def draft(self, users: NDArray[np.int64]) -> Examples:
        """Labels of the rows of `users`, and the words that they are rendered from."""
        each = self.classes_per_user * self.repeats
        names = np.repeat(np.asarray(users, dtype=np.uint64), each)
        number = np.tile(np.arange(each, dtype=np.uint64), len(users))
        choice = self.hash(names, 1) + number // np.uint64(self.repeats)
        labels = integers(self.hash(choice, 2), self.num_classes)
        offsets = np.arange(len(users) + 1, dtype=np.int64) * each
        return Examples(self._drafted(names, number, labels), offsets)

    def complete(self, drafted: Examples) -> Examples:
        """The rows of a draft, rendered."""
        rest = dict(drafted.fields)
        user, own, kind = (rest.pop(name) for name in _WORDS)
        rendered = self.render(
            user.astype(np.uint64), own.astype(np.uint64), kind.astype(np.int64)
        )
        return Examples({**rendered, **rest}, drafted.offsets)

    def held_out(self) -> Examples:
        """Rows of every held-out class, each by another user."""
        first = 0 if self.closed else self.num_classes
        classes = np.arange(first, self.all_classes)
        labels = np.repeat(classes, self.held_out_repeats)
        names = np.arange(len(labels), dtype=np.uint64) + _HELD_OUT_USERS
        rows = self._drafted(names, np.zeros_like(names), labels)
        one_group = np.array([0, len(labels)], dtype=np.int64)
        return self.complete(Examples(rows, one_group))

    def hash(self, names: NDArray[np.uint64], purpose: int) -> NDArray[np.uint64]:
        """One word per name and purpose."""
        return mix_seed(names, self.seed, 1000 + purpose)

    @cached_property
    def _shuffle(self) -> NDArray[np.int64]:
        draw = np.random.default_rng([self.seed, 31])
        return draw.permutation(self.all_classes)

    def _drafted(
        self,
        names: NDArray[np.uint64],
        number: NDArray[np.uint64],
        labels: NDArray[np.int64],
    ) -> Fields:
        own = self.hash(self.hash(names, 3) + number, 4)
        words = (self.hash(names, 5), own, self._shuffle[labels])
        drafted = dict(zip(_WORDS, words, strict=True))
        return {**drafted, "label": labels.astype(np.int64)}
