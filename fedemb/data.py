"""What the core knows about data: ragged examples, grouped by user.

A data set is a list of users; a user owns a ragged list of examples; an example is one
row of every field (`image`, `label`, for video `clip`, for poses `pose`, ...). Nothing
here knows where the rows come from; readers live in `simulations.datasets`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

OWNER = "owner"
"""Field of the rows of virtual clients: equal for the rows of one user.

Tasks that may not mix users inside a virtual client read it; it goes nowhere else.
"""


class Source(StrEnum):
    """Where examples come from; printed in every output made from them."""

    REAL = "real"
    SAMPLE = "sample"
    STAND_IN = "stand-in"
    AMPLIFIED = "amplified"
    SYNTHETIC = "synthetic"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The source record of a data set.

    Attributes:
        name: the name the user gave, such as `inaturalist`.
        source: what kind of data this is; a stand-in says so everywhere.
        licence: licence of the examples, empty if the user's own.
        checksum: digest of the files or of the generator's parameters; part of what
            identifies a population to the privacy ledger.
        description: one sentence for people.
        notices: sentences that every output must show (stand-in, skipped files, ...).
    """

    name: str
    source: Source
    licence: str = ""
    checksum: str = ""
    description: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Rows of several fields, cut into consecutive groups.

    Attributes:
        fields: name -> array `[n, ...]`; all arrays have the same n.
        offsets: int64 `[groups + 1]`; group g owns rows `offsets[g]:offsets[g + 1]`.

    Raises:
        ValueError: if the offsets do not cover the rows of every field exactly.

    Example:
        >>> e = Examples({"label": np.array([3, 3, 7])}, np.array([0, 2, 3]))
        >>> e.num_groups, len(e), e.group(0)["label"].tolist()
        (2, 3, [3, 3])
    """

    fields: Mapping[str, NDArray[np.generic]]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = int(self.offsets[-1])
        wrong = {k: len(v) for k, v in self.fields.items() if len(v) != rows}
        if wrong or self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0):
            raise ValueError(
                f"offsets end at {rows} but the fields have {wrong} rows; offsets must "
                "start at 0, never fall, and end at the number of rows."
            )

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def num_groups(self) -> int:
        """Number of groups (users, or virtual clients after `regroup`)."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows in each group, int64 `[groups]`."""
        return np.diff(self.offsets)

    def group(self, index: int) -> dict[str, NDArray[np.generic]]:
        """The rows of one group, as views."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return {name: values[rows] for name, values in self.fields.items()}

    def take(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        """The named rows of every field, as copies."""
        return {name: values[rows] for name, values in self.fields.items()}

    def part(self, groups: slice) -> "Examples":
        """Some consecutive groups, as views.

        Example:
            >>> e = Examples({"label": np.arange(4)}, np.array([0, 1, 3, 4]))
            >>> part = e.part(slice(1, 3))
            >>> part.fields["label"].tolist(), part.offsets.tolist()
            ([1, 2, 3], [0, 2, 3])
        """
        offsets = self.offsets[groups.start : groups.stop + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        fields = {name: values[rows] for name, values in self.fields.items()}
        return Examples(fields, offsets - offsets[0])

    def only(self, rows: NDArray[np.int64]) -> "Examples":
        """The named rows as one group.

        Example:
            >>> e = Examples({"label": np.arange(4)}, np.array([0, 1, 4]))
            >>> e.only(np.array([3, 0])).fields["label"].tolist()
            [3, 0]
        """
        return Examples(self.take(rows), np.array([0, len(rows)], np.int64))

    def regroup(self, groups_per_group: Sequence[int]) -> "Examples":
        """Merge consecutive groups: the first `groups_per_group[0]` become one, ...

        Example:
            >>> e = Examples({"label": np.arange(4)}, np.array([0, 1, 3, 4]))
            >>> e.regroup([2, 1]).offsets.tolist()
            [0, 3, 4]
        """
        ends = np.concatenate([[0], np.cumsum(groups_per_group)])
        if ends[-1] != self.num_groups:
            raise ValueError(
                f"groups_per_group adds up to {ends[-1]}, not to {self.num_groups}."
            )
        return Examples(self.fields, self.offsets[ends])


class UserDataset(Protocol):
    """User-partitioned training examples and a held-out set.

    Every call costs O(users asked for), never O(population).
    """

    @property
    def provenance(self) -> Provenance:
        """Where the examples come from."""
        ...

    @property
    def num_users(self) -> int:
        """Number of users that can be sampled."""
        ...

    @property
    def num_classes(self) -> int:
        """Size of the global label space of the training examples."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Names of all classes, training and held out, by label; may be empty."""
        ...

    def user_id(self, index: int) -> str:
        """The public identifier of a user."""
        ...

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """Training examples of `users`, one group per user, in the order asked for."""
        ...

    def held_out(self) -> Examples:
        """Evaluation examples, one group; classes unseen in training where possible.

        These are treated as public: reports show them and metrics computed from them.
        """
        ...


@runtime_checkable
class Drafts(Protocol):
    """A `UserDataset` that knows of its rows before it renders or decodes them.

    A round may read two pictures of a user who owns a hundred; only those are made.
    `complete(draft(users))` is `fetch(users)`, and some rows of a draft become the same
    rows as they do among all.
    """

    def draft(self, users: NDArray[np.int64]) -> Examples:
        """Labels of all rows of `users`, and what `complete` makes the rest from."""
        ...

    def complete(self, drafted: Examples) -> Examples:
        """The rows of a draft, or of a part of one, with all their fields.

        What else the draft was given, such as a label that was renumbered, stays.
        """
        ...


@dataclass(frozen=True)
class InMemoryDataset:
    """A `UserDataset` over arrays in memory (or memory-mapped).

    Attributes:
        examples: training examples, one group per user.
        evaluation: held-out examples, one group.

    Example:
        >>> rows = {"image": np.zeros((3, 2, 2, 1), np.uint8), "label": np.arange(3)}
        >>> train = Examples(rows, np.array([0, 2, 3]))
        >>> source = Provenance(name="toy", source=Source.SYNTHETIC)
        >>> data = InMemoryDataset(train, train.regroup([2]), source)
        >>> data.num_users, data.num_classes, len(data.fetch(np.array([1, 0])))
        (2, 3, 3)
    """

    examples: Examples
    evaluation: Examples
    provenance: Provenance
    class_names: Sequence[str] = ()
    user_ids: Sequence[str] = field(default=(), repr=False)

    @property
    def num_users(self) -> int:
        """Number of users."""
        return self.examples.num_groups

    @property
    def num_classes(self) -> int:
        """One more than the largest training label."""
        return int(self.examples.fields["label"].max()) + 1

    def user_id(self, index: int) -> str:
        """The public identifier of a user: its given name, or its index."""
        return self.user_ids[index] if len(self.user_ids) else str(index)

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """Training examples of `users`, one group per user, in the order asked for."""
        starts, sizes = self.examples.offsets[users], self.examples.sizes[users]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Examples(self.examples.take(rows), offsets)

    def held_out(self) -> Examples:
        """The held-out examples."""
        return self.evaluation
