"""Cleaning of the columns that people bring: users, labels, splits."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import held_out_classes
from simulations.datasets.partitions import is_partition, partition

_HELD_OUT = frozenset({"test", "held_out", "held-out", "validation", "val", "valid"})
_NOT_NAMES = frozenset({"", "nan", "none", "null", "<na>"})


def clean_names(values: Iterable[object], column: str, bad: BadRows) -> list[str]:
    """Users or labels as text; rows without a usable one go to `bad`.

    Whole numbers keep their digits (`7` and `7.0` are the same name).

    Example:
        >>> bad = BadRows(4)
        >>> clean_names([7.0, b"x", float("nan"), None], "label", bad)
        ['7', 'x', '', '']
        >>> bad.good.tolist()
        [True, True, False, False]
    """
    names = []
    for row, value in enumerate(values):
        name, reason = _name(value)
        if reason:
            bad.add(row, f"{column} is {reason}")
        names.append(name)
    return names


def _name(value: object) -> tuple[str, str]:
    """The name, or an empty name and what is wrong with the value."""
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return str(int(value)), ""
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return "", "not a number"
        return (str(int(value)), "") if value == int(value) else ("", f"{value:g}")
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return "", "not UTF-8"
    if value is None:
        return "", "missing"
    if isinstance(value, list | tuple | dict):
        return "", "neither text nor a number"
    text = " ".join(str(value).split())
    return ("", "missing") if text.lower() in _NOT_NAMES else (text, "")


def users_of(
    values: Iterable[object] | None,
    user_column: str | None,
    labels: Sequence[str],
    seed: int,
    bad: BadRows,
) -> tuple[list[str], tuple[str, ...]]:
    """Users from a column, or from an artificial partition that the column names.

    Returns:
        Names `[n]`, and a notice if the users are artificial.
    """
    if user_column is not None and is_partition(user_column):
        return partition(labels, user_column, seed)
    if values is None:
        raise UserError(
            "there is no column of users; name one with --user-column, or make "
            "artificial users with --user-column iid:100, dirichlet:100:0.3 or "
            "shards:100:2."
        )
    return clean_names(values, user_column or "user", bad), ()


def split_rows(
    values: Iterable[object] | None, labels: Sequence[str], seed: int, bad: BadRows
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which rows are held out: as a `split` column says, or by a choice of classes.

    Returns:
        Bool `[n]`, and a notice if the choice was made here.

    Raises:
        UserError: the column has other values than train and test.
    """
    if values is not None:
        names = [
            value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            for value in values
        ]
        names = [name.strip().lower() for name in names]
        known = _HELD_OUT | {"train", "training"}
        for row, name in enumerate(names):
            if name not in known:
                bad.add(row, f"split is {name[:20]!r}, not train or test")
        return np.array([name in _HELD_OUT for name in names], dtype=bool), ()
    good = bad.good
    kept = [label for label, fine in zip(labels, good, strict=True) if fine]
    mask = np.zeros(len(labels), dtype=bool)
    if kept:
        mask[good] = held_out_classes(kept, seed)
    chosen = {label for label, out in zip(labels, mask, strict=True) if out}
    notice = (
        f"no split column: {len(chosen)} of {len(set(kept))} classes, chosen with seed "
        f"{seed}, are held out for evaluation."
    )
    return mask, (notice,)
