"""Counting all pairs of embeddings by similarity, a block of pairs at a time.

Similarities are put on a grid before anything is compared, so that two pairs whose
similarities differ only by the rounding of a dot product are *tied*, whatever the block
size, the number of threads or the library that multiplies the matrices. Up to
`EXACT_PAIRS` pairs the products are float64 and the grid has steps of 2^-40; beyond,
they are float32 (off by about 1e-7 for 128 dimensions) and the steps are 2^-20. Every
count is exact on the grid. A similarity within one rounding error of the middle between
two grid points may still fall to either side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EXACT_PAIRS = 1 << 21
"""Up to this many pairs (2,048 rows) products are float64 on the fine grid."""

_FINE, _COARSE = 1 << 40, 1 << 20
_COLUMNS_PER_ROW = 8


@dataclass(frozen=True)
class SortedRows:
    """Unit-length rows sorted by identity, and the grid their similarities live on.

    Attributes:
        unit: `[n, D]`, float64 or float32; zero rows stay zero.
        starts: int64 `[identities]`, first row of each identity.
        ends: int64 `[identities]`, one past its last row.
        steps: grid points between similarity 0 and similarity 1.
    """

    unit: Tensor
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    steps: int

    def __len__(self) -> int:
        return len(self.unit)

    @staticmethod
    def of(
        embeddings: Tensor,
        labels: Tensor | NDArray[np.generic],
        device: torch.device | str | None = None,
    ) -> "SortedRows":
        """Checks, sorts and normalises; computes on `device`, by default the rows' own.

        Raises:
            ValueError: if the shapes disagree or an embedding is not finite.
        """
        names = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
        if embeddings.dim() != 2 or names.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} and labels {names.shape} must "
                "be [n, D] and [n]: one identity for each row."
            )
        values = embeddings.detach().to(device or embeddings.device, torch.float64)
        bad = (~torch.isfinite(values)).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"{len(bad)} of {len(values)} embeddings are not finite, the first in "
                f"row {bad[0]}; look for a diverged backbone (lower the learning rate) "
                "or leave these rows out."
            )
        order = np.argsort(names, kind="stable")
        sizes = np.unique(names, return_counts=True)[1].astype(np.int64)
        ends = np.cumsum(sizes)
        n = len(names)
        exact = n * (n - 1) // 2 <= EXACT_PAIRS
        unit = _unit(values[torch.from_numpy(order).to(values.device)])
        return SortedRows(
            unit if exact else unit.to(torch.float32),
            ends - sizes,
            ends,
            _FINE if exact else _COARSE,
        )

    def on_grid(self, rows: slice, columns: slice) -> Tensor:
        """Similarities `[rows, columns]` as integers: 1 + the nearest grid point.

        0 is left free to mean "not a pair".
        """
        half = self.steps // 2
        cosine = (self.unit[rows] * half) @ self.unit[columns].T
        points = torch.empty_like(
            cosine, dtype=torch.int64 if self.steps > _COARSE else torch.int32
        )
        return points.copy_(cosine.add_(half + 1.5))

    def identities(self, rows: slice) -> Iterator[tuple[slice, slice]]:
        """(the part inside `rows`, all rows) of each identity with several rows."""
        first = int(np.searchsorted(self.ends, rows.start, side="right"))
        last = int(np.searchsorted(self.starts, rows.stop, side="left"))
        for start, end in zip(
            self.starts[first:last].tolist(),
            self.ends[first:last].tolist(),
            strict=True,
        ):
            if end - start > 1:
                inside = slice(max(start, rows.start), min(end, rows.stop))
                yield inside, slice(start, end)


@dataclass(frozen=True)
class PairCounts:
    """How many pairs i < j there are of every similarity.

    Attributes:
        similarity: float64 `[K]`, ascending and distinct.
        positives: int64 `[K]`, pairs of one identity.
        negatives: int64 `[K]`, pairs of two identities.
        best_positive: `[n]`, by sorted row: 1 + grid point of the most similar other
            row of the same identity; 0 if there is none.
        best_negative: `[n]`, the same over rows of other identities.
    """

    similarity: NDArray[np.float64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    best_positive: Tensor
    best_negative: Tensor


def count_pairs(rows: SortedRows, block: int) -> PairCounts:
    """Counts all pairs in one pass over the blocks on and above the diagonal.

    A block has `block` rows and 8 times as many columns, so that memory is about
    100 bytes * block^2 beyond the rows themselves.
    """
    if block < 1:
        raise ValueError(f"block={block} must be at least 1; 1024 is usual.")
    n = len(rows)
    best_positive = torch.zeros(n, dtype=torch.int64, device=rows.unit.device)
    best_negative = torch.zeros_like(best_positive)
    positives, negatives = _Counter(rows), _Counter(rows)
    for top in range(0, n, block):
        down = slice(top, min(top + block, n))
        same: list[Tensor] = []
        for left in range(top, n, _COLUMNS_PER_ROW * block):
            across = slice(left, min(left + _COLUMNS_PER_ROW * block, n))
            points = rows.on_grid(down, across)
            if left == top:
                points.triu_(diagonal=1)
            for inside, identity in rows.identities(down):
                columns = slice(
                    max(inside.start, left), min(identity.stop, across.stop)
                )
                if columns.start < columns.stop:
                    part = points[_shift(inside, top), _shift(columns, left)]
                    _raise_to(best_positive, inside, columns, part)
                    same.append(part.clone().flatten())
                    part.zero_()
            _raise_to(best_negative, down, across, points)
            negatives.add(points)
        if same:
            positives.add(torch.cat(same))
    tables = positives.table(), negatives.table()
    grid = torch.unique(torch.cat([points for points, _ in tables]))
    counts = torch.zeros(2, len(grid), dtype=torch.int64)
    for kind, (points, often) in zip(counts, tables, strict=True):
        kind[torch.searchsorted(grid, points)] = often
    return PairCounts(
        (grid.numpy() - 1) / rows.steps,
        counts[0].numpy(),
        counts[1].numpy(),
        best_positive,
        best_negative,
    )


class _Counter:
    """Counts grid points 1 .. steps + 1; 0 is not a pair."""

    def __init__(self, rows: SortedRows) -> None:
        size = rows.steps + 2
        self._dense = torch.zeros(
            size if rows.steps == _COARSE else 0,
            dtype=torch.int64,
            device=rows.unit.device,
        )
        self._sparse: list[Tensor] = []

    def add(self, points: Tensor) -> None:
        """Counts every element of `points`, of any shape."""
        flat = points.flatten()
        if len(self._dense):
            self._dense += torch.bincount(flat, minlength=len(self._dense))
        else:
            self._sparse.append(flat[flat > 0])

    def table(self) -> tuple[Tensor, Tensor]:
        """(points that occur, ascending; how often), on the CPU."""
        if len(self._dense):
            counts = self._dense.cpu()
            counts[0] = 0
            points = counts.nonzero().flatten()
            return points, counts[points]
        seen = torch.cat([*self._sparse, self._dense]).cpu()
        points, counts = torch.unique(seen, return_counts=True)
        return points, counts


def _unit(values: Tensor) -> Tensor:
    """Rows scaled to unit length without overflow; a zero row stays zero."""
    largest = values.abs().amax(1, keepdim=True) if values.numel() else values[:, :1]
    scaled = values / largest.masked_fill(largest == 0, 1.0)
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    unit: Tensor = scaled / norm.masked_fill(norm == 0, 1.0)
    return unit


def _raise_to(best: Tensor, rows: slice, columns: slice, points: Tensor) -> None:
    """best[i] = max(best[i], points[i, j]) for both ends i and j of every pair."""
    best[rows] = torch.maximum(best[rows], points.amax(1))
    best[columns] = torch.maximum(best[columns], points.amax(0))


def _shift(rows: slice, origin: int) -> slice:
    return slice(rows.start - origin, rows.stop - origin)
