"""Artificial users for data that have none; every output says that they are.

`iid:N` deals the rows out evenly; `dirichlet:N:ALPHA` divides every class among N users
by shares drawn from a symmetric Dirichlet distribution (Yurochkin et al. 2019,
arXiv:1905.12022); `shards:N:S` sorts by class and deals S runs of rows to each user
(McMahan et al. 2017, arXiv:1602.05629). All are functions of the seed.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.grouping import numbered

_KINDS = {"iid": 1, "dirichlet": 2, "shards": 2}
Divide = Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]


def is_partition(text: str) -> bool:
    """Whether this names a partition rather than a column.

    Example:
        >>> is_partition("iid:10"), is_partition("author")
        (True, False)
    """
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in _KINDS


def partition(
    labels: Sequence[str], text: str, seed: int
) -> tuple[list[str], tuple[str, ...]]:
    """Users `[n]` for rows with these labels, and the notice that goes with them.

    Raises:
        UserError: not `iid:N`, `dirichlet:N:ALPHA` or `shards:N:S`, or more users than
            rows.

    Example:
        >>> users, notice = partition(["a", "b"] * 50, "iid:20", 0)
        >>> sorted(set(users))[:2], users.count("user-3")
        (['user-0', 'user-1'], 5)
    """
    divide = _parse(text, len(labels))
    _, class_of = numbered(labels)
    users = divide(class_of, np.random.default_rng([seed, 21]))
    count = len(np.unique(users))
    notice = (
        f"ARTIFICIAL USERS: the rows were divided among {count:,} made-up users "
        f"({text}, seed {seed}); nobody is protected by a guarantee for them."
    )
    return [f"user-{user}" for user in users], (notice,)


def _parse(text: str, rows: int) -> Divide:
    kind, *numbers = text.split(":")
    try:
        users, extra = int(numbers[0]), float(numbers[1] if kind != "iid" else 1)
        good = users > 0 and 0 < extra < float("inf") and len(numbers) == _KINDS[kind]
    except (ValueError, IndexError):
        good = False
    if not good:
        raise UserError(
            f"user_column={text!r} must be iid:USERS, dirichlet:USERS:ALPHA or "
            "shards:USERS:SHARDS_PER_USER, with positive numbers."
        )
    if users > rows:
        raise UserError(f"user_column={text!r} asks for more users than {rows} rows.")
    if kind == "iid":
        return partial(deal_evenly, users=users)
    if kind == "dirichlet":
        return partial(deal_by_class_mix, users=users, alpha=extra)
    if extra != int(extra) or users * extra > rows:
        raise UserError(
            f"user_column={text!r}: {users} users with {extra:g} shards each must be "
            f"whole numbers with a product of at most {rows} rows."
        )
    return partial(deal_shards, users=users, shards_per_user=int(extra))


def deal_evenly(
    class_of: NDArray[np.int64], draw: np.random.Generator, *, users: int
) -> NDArray[np.int64]:
    """User of each row, `[n]`; sizes differ by at most one."""
    return draw.permutation(np.arange(len(class_of)) % users)


def deal_by_class_mix(
    class_of: NDArray[np.int64], draw: np.random.Generator, *, users: int, alpha: float
) -> NDArray[np.int64]:
    """User of each row, `[n]`: user u gets a share of class c, Dirichlet over users."""
    out = np.empty(len(class_of), dtype=np.int64)
    for label in range(int(class_of.max()) + 1):
        rows = draw.permutation(np.flatnonzero(class_of == label))
        ends = np.cumsum(draw.dirichlet(np.full(users, alpha)))
        place = (np.arange(len(rows)) + 0.5) / len(rows)
        out[rows] = np.minimum(np.searchsorted(ends, place), users - 1)
    return out


def deal_shards(
    class_of: NDArray[np.int64],
    draw: np.random.Generator,
    *,
    users: int,
    shards_per_user: int,
) -> NDArray[np.int64]:
    """User of each row, `[n]`: runs of rows sorted by class, a few to each user."""
    count = users * shards_per_user
    order = np.lexsort((draw.random(len(class_of)), class_of))
    shard = np.empty(len(class_of), dtype=np.int64)
    shard[order] = np.arange(len(class_of)) * count // len(class_of)
    owner: NDArray[np.int64] = draw.permutation(np.arange(count) % users)
    return np.asarray(owner[shard])
