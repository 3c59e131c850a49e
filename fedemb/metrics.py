"""Exact verification and retrieval metrics over all pairs of held-out embeddings.

Similarity of two embeddings is s = (1 + cos) / 2, in [0, 1]; a pair is positive iff
both have the same identity. Pairs are streamed in blocks and never all held in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BINS = 1 << 16
_BLOCK = 1024


def identity_metrics(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of an identity task.

    Args:
        embeddings: `[n, D]`, of any length; zero vectors stay zero.
        labels: `[n]`, identities.

    Returns:
        `recall_at_far_1e-3`, `recall_at_far_1e-1` (exact), `recall_at_1` (exact, among
        rows that have another row of their identity) and `roc_auc` (exact below a
        million negative pairs; beyond, within 1 / 65,536).

    Raises:
        ValueError: if an embedding is not finite, or the shapes disagree.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> identity_metrics(e, torch.tensor([0, 0, 1, 1]))["recall_at_far_1e-3"]
        1.0
    """
    pairs = _Pairs.of(embeddings, labels)
    positives = pairs.positives()
    far_low, far_high = _recalls(pairs, positives, (1e-3, 1e-1))
    return {
        "recall_at_far_1e-3": far_low,
        "recall_at_far_1e-1": far_high,
        "recall_at_1": recall_at_k(embeddings, labels, 1),
        "roc_auc": _roc_auc(pairs, positives),
    }


def recall_at_far(embeddings: Tensor, labels: Tensor, far: float) -> float:
    """Share of positive pairs above the exact threshold of a false accept rate.

    The threshold is the (floor(far * N) + 1)-th largest similarity of the N negative
    pairs; a positive pair counts if it is strictly above. 0 without positive pairs, 1
    without negative ones.

    Example:
        >>> e = torch.tensor([[.8, .6], [-.6, .8], [.6, .8], [-.8, .6], [-.8, -.6]])
        >>> recall_at_far(e, torch.tensor([0, 1, 0, 1, 0]), 0.2)
        0.5
    """
    pairs = _Pairs.of(embeddings, labels)
    return _recalls(pairs, pairs.positives(), (far,))[0]


def recall_at_far_binned(
    embeddings: Tensor, labels: Tensor, far: float, thresholds: int = 200
) -> float:
    """The same at evenly spaced thresholds, as the published code reports it.

    The largest share of positive pairs with s > t over thresholds t whose share of
    negative pairs with s > t is at most `far` (Keras' SensitivityAtSpecificity).
    """
    pairs = _Pairs.of(embeddings, labels)
    positives = np.sort(pairs.positives())
    negatives = np.sort(np.concatenate([*pairs.negatives(), np.empty(0, np.float32)]))
    inner = (np.arange(thresholds - 2) + 1) / (thresholds - 1)
    cuts = np.concatenate([[-1e-7], inner, [1 + 1e-7]])
    above = 1 - np.searchsorted(negatives, cuts, side="right") / max(len(negatives), 1)
    hits = 1 - np.searchsorted(positives, cuts, side="right") / max(len(positives), 1)
    if len(positives) == 0:
        return 0.0
    return float(hits[above <= far + 1e-12].max(initial=0.0))


def recall_at_k(embeddings: Tensor, labels: Tensor, k: int) -> float:
    """Share of rows whose k nearest other rows include one of their identity.

    Rows without another row of their identity do not count; 0 if none counts.
    """
    pairs = _Pairs.of(embeddings, labels)
    counts = torch.bincount(pairs.labels)[pairs.labels]
    neighbours = min(k, len(pairs.labels) - 1)
    if neighbours < 1:
        return 0.0
    hits, asked = 0, 0
    for start in range(0, len(pairs.labels), _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, len(pairs.labels)))
        similarity = pairs.unit[rows] @ pairs.unit.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        nearest = similarity.topk(neighbours, dim=1).indices
        found = (pairs.labels[nearest] == pairs.labels[rows, None]).any(1)
        counted = counts[rows] > 1
        hits += int((found & counted).sum())
        asked += int(counted.sum())
    return hits / asked if asked else 0.0


def one_shot_accuracy(
    embeddings: Tensor, labels: Tensor, *, ways: int = 20, trials: int = 400, seed: int = 0
) -> float:
    """Accuracy of telling `ways` identities apart from one example of each.

    Every trial draws `ways` identities, one example and one query of each, and assigns
    the queries to their nearest examples (Lake, Salakhutdinov and Tenenbaum 2015).
    """
    pairs = _Pairs.of(embeddings, labels)
    groups = [torch.where(pairs.labels == c)[0] for c in range(int(pairs.labels.max()) + 1)]
    usable = [g.numpy() for g in groups if len(g) > 1]
    if len(usable) < ways:
        raise ValueError(f"ways={ways} needs as many identities with two rows or more.")
    draw = np.random.default_rng(seed)
    correct = 0
    for _ in range(trials):
        chosen = draw.choice(len(usable), ways, replace=False)
        two = np.stack([draw.choice(usable[c], 2, replace=False) for c in chosen])
        examples, queries = pairs.unit[two[:, 0]], pairs.unit[two[:, 1]]
        correct += int(((queries @ examples.T).argmax(1) == torch.arange(ways)).sum())
    return correct / (trials * ways)


@dataclass(frozen=True)
class _Pairs:
    """All pairs i < j of unit-length rows `[n, D]` and labels counted from 0."""

    unit: Tensor
    labels: Tensor

    @staticmethod
    def of(embeddings: Tensor, labels: Tensor) -> "_Pairs":
        if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} and labels "
                f"{tuple(labels.shape)} must be [n, D] and [n]."
            )
        bad = int((~torch.isfinite(embeddings)).any(1).sum())
        if bad:
            raise ValueError(f"{bad} of {len(embeddings)} embeddings are not finite.")
        values = embeddings.detach().to("cpu", torch.float32)
        unit = torch.nn.functional.normalize(values, dim=1)
        return _Pairs(unit, torch.unique(labels.cpu(), return_inverse=True)[1])

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(similarity, is-positive) `[b, c]` of blocks on and above the diagonal."""
        n = len(self.labels)
        for i in range(0, n, _BLOCK):
            rows = slice(i, i + _BLOCK)
            for j in range(i, n, 8 * _BLOCK):
                columns = slice(j, j + 8 * _BLOCK)
                cosine = self.unit[rows] @ self.unit[columns].T
                positive = self.labels[rows, None] == self.labels[None, columns]
                yield cosine.add_(1).mul_(0.5), positive

    def positives(self) -> NDArray[np.float32]:
        """Similarities of all positive pairs, group by group, in any order."""
        order = torch.argsort(self.labels, stable=True)
        sizes = torch.bincount(self.labels).tolist() if len(self.labels) else []
        found = [np.empty(0, np.float32)]
        for group in order.split(sizes):
            own = self.unit[group]
            cosine = own @ own.T
            upper = torch.triu_indices(len(group), len(group), offset=1)
            found.append(((cosine[upper[0], upper[1]] + 1) / 2).numpy())
        return np.concatenate(found)

    def negatives(self) -> Iterator[NDArray[np.float32]]:
        """Similarities of all negative pairs, in blocks."""
        n = len(self.labels)
        for i in range(0, n, _BLOCK):
            rows = slice(i, min(i + _BLOCK, n))
            for j in range(i, n, 8 * _BLOCK):
                columns = slice(j, min(j + 8 * _BLOCK, n))
                cosine = self.unit[rows] @ self.unit[columns].T
                negative = self.labels[rows, None] != self.labels[None, columns]
                if j < i + _BLOCK:  # the block on the diagonal: pairs i < j only
                    negative &= (
                        torch.arange(n)[rows, None] < torch.arange(n)[None, columns]
                    )
                yield cosine.add_(1).mul_(0.5)[negative].numpy()

    def count_negatives(self) -> int:
        """Number of negative pairs."""
        sizes = torch.bincount(self.labels)
        n = len(self.labels)
        return (n * (n - 1) - int((sizes * (sizes - 1)).sum())) // 2


def _recalls(
    pairs: _Pairs, positives: NDArray[np.float32], fars: tuple[float, ...]
) -> list[float]:
    negatives = pairs.count_negatives()
    if len(positives) == 0:
        return [0.0 for _ in fars]
    if negatives == 0:
        return [1.0 for _ in fars]
    ranks = [min(int(far * negatives), negatives - 1) for far in fars]
    thresholds = _largest(pairs, ranks)
    return [float((positives > t).mean()) for t in thresholds]


def _largest(pairs: _Pairs, ranks: list[int]) -> list[np.float32]:
    """The (rank + 1)-th largest negative similarities, exactly, in two passes.

    The first pass counts similarities in equal bins; the second collects the few that
    fall into the bins of the wanted ranks.
    """
    counts = np.zeros(_BINS + 1, np.int64)
    for values in pairs.negatives():
        counts += np.bincount(_bin(values), minlength=_BINS + 1)
    above = np.cumsum(counts[::-1])[::-1]  # similarities in this bin or higher
    bins = [int(np.searchsorted(-above, -rank, side="left")) - 1 for rank in ranks]
    kept: dict[int, list[NDArray[np.float32]]] = {b: [] for b in bins}
    for values in pairs.negatives():
        where = _bin(values)
        for b, parts in kept.items():
            parts.append(values[where == b])
    out = []
    for rank, b in zip(ranks, bins, strict=True):
        inside = np.sort(np.concatenate(kept[b]))[::-1]
        higher = int(above[b + 1]) if b < _BINS else 0
        out.append(inside[rank - higher])
    return out


def _bin(values: NDArray[np.float32]) -> NDArray[np.int32]:
    # Similarities may leave [0, 1] by a rounding error.
    return np.clip(values * _BINS, 0, _BINS).astype(np.int32)


def _roc_auc(pairs: _Pairs, positives: NDArray[np.float32]) -> float:
    """P(positive > negative) + P(equal) / 2; 0.5 without pairs of both kinds."""
    negatives = pairs.count_negatives()
    if len(positives) == 0 or negatives == 0:
        return 0.5
    if negatives <= 1_000_000:
        ordered = np.sort(np.concatenate([*pairs.negatives()]))
        below = np.searchsorted(ordered, positives, side="left").astype(np.float64)
        ties = np.searchsorted(ordered, positives, side="right") - below
        return float((below + ties / 2).mean() / negatives)
    counts = np.zeros(_BINS + 1, np.int64)
    for values in pairs.negatives():
        counts += np.bincount(_bin(values), minlength=_BINS + 1)
    lower = np.concatenate([[0], np.cumsum(counts)[:-1]])
    where = _bin(positives)
    return float((lower[where] + counts[where] / 2).mean() / negatives)
