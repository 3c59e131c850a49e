"""Heads that stay with their user from round to round (`head_init = "persistent"`).

A large local head learns little in the few steps of one round. Where it persists, the
user's next round goes on from the head that the last one left. It lies in a file beside
the checkpoints, is read for that user alone, is in no release, and is deleted with the
run's secret key when the run is complete.

Why the guarantee stays. Let a virtual client hold one user alone, let every user take
part by an independent coin of probability q (or always), and let the noise of rounds be
independent. Compare a population with and without user i.

1. Fix the coins and local seeds of all others for all rounds; they are drawn alike in
   both worlds. The hockey-stick divergence is jointly convex, so what bounds it for all
   fixed values bounds it for the mixture. Now the heads of the others are functions of
   what earlier rounds released, and so is the sum s of their clipped updates.
2. Without i, the release of a round given all earlier ones is N(s, (zC)^2). With i, it
   is that or, with probability q, N(s + g, (zC)^2), where g is i's update from i's
   head. That head depends on i's earlier coins, which no release determines; but this
   round's coin is independent of them, and |g| <= C for every head. So the
   release is a mixture, over what i's head may be, of sampled Gaussian mechanisms of
   sensitivity C with the same counterpart N(s, (zC)^2). By convexity in either argument
   no divergence of it, in either direction, exceeds that of the worst of them, which is
   the pair that is accounted.
3. That holds given *any* earlier releases, so the accounted pairs compose (Zhu, Dong
   and Wang, 2022, "Optimal accounting of differential privacy via characteristic
   function", arXiv:2106.08567, theorem 10).

The first step needs coins that do not depend on each other; the second, that no other
user's data enter i's update and that i's presence moves no other virtual client. Where
a sampler or several users in a virtual client break that, such heads are refused.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedemb.protocols import Parameters

Shapes: TypeAlias = Mapping[str, torch.Size]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (
    user INTEGER, round INTEGER, head BLOB NOT NULL, PRIMARY KEY (user, round)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_round ON heads (round);
"""


class PersistentHeads:
    """The heads of users, one file per stage of a run; several processes may share it.

    A head is filed under the round that left it. A round reads those of earlier rounds
    only, so a round that is repeated finds what it found the first time.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> heads = PersistentHeads(Path(folder.name) / "heads")
        >>> heads.put(7, {"scale": torch.tensor(2.0)})
        >>> heads.write(round_index=3)
        >>> heads.before(3, [7]), heads.before(4, [7, 8])
        ({}, {7: {'scale': tensor(2.)}})
        >>> heads.close(); folder.cleanup()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._put: dict[int, Parameters] = {}
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.executescript(_SCHEMA)

    def before(
        self, round_index: int, users: Iterable[int]
    ) -> dict[int, dict[str, Tensor]]:
        """The newest heads of `users` that rounds before `round_index` left."""
        found = {}
        with self._lock:
            for user in users:
                row = self._connection.execute(
                    "SELECT head FROM heads WHERE user = ? AND round < ? "
                    "ORDER BY round DESC LIMIT 1",
                    (user, round_index),
                ).fetchone()
                if row is not None:
                    found[user] = load(row[0])
        return found

    def put(self, user: int, head: Parameters) -> None:
        """Take a user's head of the present round; any thread may call this.

        A head that is not finite is not taken: its user would contribute zero for ever.
        """
        if all(bool(values.isfinite().all()) for values in head.values()):
            own = {name: v.detach().cpu().contiguous() for name, v in head.items()}
            with self._lock:
                self._put[user] = own

    def write(self, round_index: int) -> None:
        """Make durable what was put, as left by `round_index`."""
        with self._lock, self._connection as connection:
            rows = [
                (user, round_index, save(dict(head)))
                for user, head in self._put.items()
            ]
            connection.executemany(
                "INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", rows
            )
            self._put = {}

    def begin_at(self, round_index: int) -> None:
        """Forget what `round_index` and later rounds left: they run again."""
        with self._lock, self._connection as connection:
            connection.execute("DELETE FROM heads WHERE round >= ?", (round_index,))

    def settle(self, round_index: int) -> None:
        """Forget what `round_index` has replaced, once it cannot be repeated."""
        with self._lock, self._connection as connection:
            connection.execute(
                "DELETE FROM heads WHERE round < ?1 AND user IN "
                "(SELECT user FROM heads WHERE round = ?1)",
                (round_index,),
            )

    def close(self) -> None:
        """Give the file back; it stays."""
        self._connection.close()


def of_shape(values: Parameters, shapes: Shapes) -> dict[str, Tensor]:
    """The beginning of `values` along every axis: without room for more classes.

    Example:
        >>> of_shape({"weight": torch.ones(3, 2)}, {"weight": torch.Size([1, 2])})
        {'weight': tensor([[1., 1.]])}
    """
    return {name: values[name][_beginning(shape)] for name, shape in shapes.items()}


def placed(heads: Parameters, client: int, kept: Parameters) -> None:
    """Put a kept head where `heads` `[V, ...]` have that of a client."""
    for name, values in kept.items():
        heads[name][client][_beginning(values.shape)] = values.to(heads[name].dtype)


def _beginning(shape: torch.Size) -> tuple[slice, ...]:
    return tuple(slice(int(n)) for n in shape)
