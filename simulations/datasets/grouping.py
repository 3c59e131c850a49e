"""From rows with a user and a label each to a data set grouped by user."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, InMemoryDataset, Provenance
from fedemb.errors import UserError

Name = str | int


def by_user(
    *,
    fields: Mapping[str, NDArray[np.generic]],
    users: Sequence[Name],
    labels: Sequence[Name],
    held_out: NDArray[np.bool_],
    provenance: Provenance,
) -> InMemoryDataset:
    """Group training rows by user and number the classes.

    Guarantees: users and classes are ordered by name (numbers by value), so the result
    does not depend on the order of the rows; training classes are 0 .. K-1 and classes
    that only the held-out rows have follow; within a user rows keep their order.

    Args:
        fields: arrays `[n, ...]`.
        users: whose row it is, `[n]`; empty for held-out rows that are nobody's.
        labels: class of each row, `[n]`.
        held_out: rows for evaluation, bool `[n]`.
        provenance: gets a notice if users have no training rows.

    Raises:
        UserError: training rows without users, no training rows, fewer than two
            training classes, or no held-out rows.
    """
    user_names, user_of = numbered(users)
    class_names, class_of = numbered(labels)
    nameless = int((~held_out & (np.array(users, dtype=object) == "")).sum())
    if nameless:
        raise UserError(f"{provenance.name}: {nameless} training rows have no user.")
    require_two_classes(class_of[~held_out], class_names, provenance.name)
    if not held_out.any():
        raise UserError(f"{provenance.name}: no held-out rows to evaluate on.")
    trained = np.isin(np.arange(len(class_names)), class_of[~held_out])
    order = np.concatenate([np.flatnonzero(trained), np.flatnonzero(~trained)])
    label = np.argsort(order)[class_of].astype(np.int64)

    rows = np.flatnonzero(~held_out)
    rows = rows[np.argsort(user_of[rows], kind="stable")]
    sizes = np.bincount(user_of[rows], minlength=len(user_names))
    named = len(user_names) - ("" in user_names)
    empty = named - int((sizes > 0).sum())
    if empty:
        notice = (
            f"{empty:,} of {named:,} users have no training examples and "
            "are left out of the population."
        )
        provenance = replace(provenance, notices=(*provenance.notices, notice))
    columns = {**fields, "label": label}
    offsets = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int64)
    evaluation = np.flatnonzero(held_out)
    return InMemoryDataset(
        Examples({name: values[rows] for name, values in columns.items()}, offsets),
        Examples(
            {name: values[evaluation] for name, values in columns.items()},
            np.array([0, len(evaluation)], dtype=np.int64),
        ),
        provenance,
        class_names=[str(class_names[i]) for i in order],
        user_ids=[str(user_names[i]) for i in np.flatnonzero(sizes)],
    )


def numbered(names: Sequence[Name]) -> tuple[list[Name], NDArray[np.int64]]:
    """Distinct names in order, and each row's position among them, int64 `[n]`.

    Example:
        >>> numbered(["b", "a", "b"])
        (['a', 'b'], array([1, 0, 1]))
        >>> numbered([10, 9])[0]
        [9, 10]
    """
    distinct = sorted(set(names), key=_natural)
    position = {name: i for i, name in enumerate(distinct)}
    return distinct, np.array([position[name] for name in names], dtype=np.int64)


def held_out_classes(
    labels: Sequence[Name], seed: int, share: float = 0.2
) -> NDArray[np.bool_]:
    """Rows of a seeded choice of classes, bool `[n]`; the choice depends on names only.

    At least two classes are held out, so that there is something to confuse, and at
    least two are left for training; of three classes one is held out. Classes with a
    single row are held out only if there are too few others.

    Raises:
        UserError: fewer than three classes.
    """
    names, class_of = numbered(labels)
    if len(names) < 3:
        raise UserError(
            f"{len(names)} classes are too few to hold one out and train on two; give "
            "a `split` column with train and test rows instead."
        )
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
    single = np.bincount(class_of) < 2
    order = sorted(range(len(names)), key=lambda i: (bool(single[i]), digests[i]))
    count = min(max(2, round(share * len(names))), len(names) - 2)
    return np.isin(class_of, order[:count])


def require_two_classes(
    class_of: NDArray[np.int64], class_names: Sequence[Name], name: str
) -> None:
    """Refuse training data in which there is nothing to tell apart.

    Raises:
        UserError: fewer than two classes among `class_of`.
    """
    present = np.unique(class_of)
    if len(present) == 0:
        raise UserError(f"{name}: no training rows.")
    if len(present) == 1:
        raise UserError(
            f"{name}: every training row has the label "
            f"{class_names[int(present[0])]!r}; at least two classes are needed."
        )


def _natural(name: Name) -> tuple[int, int, str]:
    text = str(name)
    plain = text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19
    return (0, int(text), text) if plain else (1, 0, text)
