"""Exact verification and retrieval metrics over all pairs of held-out embeddings.

The similarity of two embeddings is s = (1 + cos) / 2, in [0, 1], which is the published
1 - |a - b|^2 / 4 of unit-length a and b. A pair i < j is positive if both rows have the
same identity and negative otherwise. Pairs are streamed in blocks and never held in
memory together: 50,000 embeddings, 1.25 billion pairs, need well under 2 GB.

Ties. Similarities that differ by less than a rounding error are the same number (the
grid of `fedemb._metrics_pairs`: 2^-40 up to 2.1 million pairs, 2^-20 beyond). A tie is
never a success: a positive pair counts only if it is strictly above the threshold, a
neighbour only if it is strictly nearer than the rows of other identities, and in the
ROC-AUC a tie counts half. So a collapsed backbone scores 0, 0 and 0.5.

Without positive pairs, or without negative ones, nothing can be found or confused. Then
`identity_metrics`, which reports are made of, gives NaN: not defined, which is not bad.
The single metrics are 0 there, as the published code reports them.
"""

import math
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb._metrics_pairs import PairCounts, SortedRows, count_pairs

IDENTITY_METRICS = (
    "recall_at_far_1e-3",
    "recall_at_far_1e-1",
    "recall_at_1",
    "roc_auc",
)
_BLOCK = 1024


def identity_metrics(
    embeddings: Tensor,
    labels: Tensor | NDArray[np.generic],
    *,
    block: int = _BLOCK,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """All metrics of an identity task, in one pass over all pairs.

    Args:
        embeddings: `[n, D]`, of any length; zero vectors stay zero.
        labels: `[n]`, identities.
        block: rows compared at a time; memory is about 100 bytes * block^2.
        device: where to compute; by default where the embeddings are.

    Returns:
        `recall_at_far_1e-3`, `recall_at_far_1e-1`, `recall_at_1` and `roc_auc`, each in
        [0, 1]; or each NaN if no two rows share an identity, or all rows do.

    Raises:
        ValueError: if an embedding is not finite, or the shapes disagree.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> identity_metrics(e, torch.tensor([0, 0, 1, 1]))["recall_at_far_1e-3"]
        1.0
    """
    rows = SortedRows.of(embeddings, labels, device)
    pairs = count_pairs(rows, block)
    if not (pairs.positives.any() and pairs.negatives.any()):
        return dict.fromkeys(IDENTITY_METRICS, math.nan)
    found = pairs.best_positive > pairs.best_negative
    return {
        "recall_at_far_1e-3": _recall_at_far(pairs, 1e-3),
        "recall_at_far_1e-1": _recall_at_far(pairs, 1e-1),
        "recall_at_1": _share(found, pairs.best_positive > 0),
        "roc_auc": _roc_auc(pairs),
    }


def recall_at_far(
    embeddings: Tensor, labels: Tensor | NDArray[np.generic], far: float
) -> float:
    """Share of positive pairs accepted when a share `far` of negatives may be.

    The threshold is the (floor(far * N) + 1)-th largest similarity of the N negative
    pairs; `far` is read as the decimal it is written as. Pairs strictly above it count.

    Raises:
        ValueError: if `far` is not in [0, 1], or as `identity_metrics`.

    Example:
        >>> e = torch.tensor([[.8, .6], [-.6, .8], [.6, .8], [-.8, .6], [-.8, -.6]])
        >>> recall_at_far(e, torch.tensor([0, 1, 0, 1, 0]), 0.2)
        0.5
    """
    _check_far(far)
    return _recall_at_far(count_pairs(SortedRows.of(embeddings, labels), _BLOCK), far)


def recall_at_far_binned(
    embeddings: Tensor,
    labels: Tensor | NDArray[np.generic],
    far: float,
    thresholds: int = 200,
) -> float:
    """The same at evenly spaced thresholds, as the published code reports it.

    The largest share of positive pairs with s > t over `thresholds` values t from just
    below 0 to just above 1 at which at most floor(far * N) of N negative pairs have
    s > t (Keras' SensitivityAtSpecificity(1 - far)). Never above `recall_at_far`.

    Raises:
        ValueError: if `far` is not in [0, 1], if `thresholds` is below 3, or as
            `identity_metrics`.

    Example:
        >>> e = torch.tensor([[.8, .6], [-.6, .8], [.6, .8], [-.8, .6], [-.8, -.6]])
        >>> recall_at_far_binned(e, torch.tensor([0, 1, 0, 1, 0]), 0.2)
        0.5
    """
    _check_far(far)
    if thresholds < 3:
        raise ValueError(f"thresholds={thresholds} must be at least 3; 200 is usual.")
    pairs = count_pairs(SortedRows.of(embeddings, labels), _BLOCK)
    cuts = np.linspace(0.0, 1.0, thresholds)
    cuts[[0, -1]] = -1e-7, 1 + 1e-7
    first_above = np.searchsorted(pairs.similarity, cuts, side="right")
    accepted = np.append(_at_or_above(pairs.negatives), 0)[first_above]
    hits = np.append(_at_or_above(pairs.positives), 0)[first_above]
    if not (accepted[0] and hits[0]):
        return 0.0
    allowed = accepted <= _allowed(far, int(accepted[0]))
    return float(hits[allowed].max(initial=0) / hits[0])


def recall_at_k(
    embeddings: Tensor, labels: Tensor | NDArray[np.generic], k: int
) -> float:
    """Share of rows whose k nearest other rows include one of their identity.

    Rows without another row of their identity do not count.

    Raises:
        ValueError: if k is below 1, or as `identity_metrics`.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> [recall_at_k(e, torch.tensor([0, 1, 0, 2]), k) for k in (1, 2)]
        [0.0, 1.0]
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    rows = SortedRows.of(embeddings, labels)
    n = len(rows)
    found, asked = [], []
    for top in range(0, n, _BLOCK // 4):
        down = slice(top, min(top + _BLOCK // 4, n))
        points = rows.on_grid(down, slice(0, n))
        points.diagonal(top).zero_()
        best = points.new_zeros(len(points))
        for inside, identity in rows.identities(down):
            own = slice(inside.start - top, inside.stop - top)
            best[own] = points[own, identity].amax(1)
            points[own, identity] = 0
        # 0 where there are fewer than k rows of other identities
        rival = points.amax(1) if k == 1 else points.topk(min(k, n)).values[:, -1]
        found.append(best > rival)
        asked.append(best > 0)
    return _share(torch.cat(found), torch.cat(asked)) if n else 0.0


def one_shot_accuracy(
    embeddings: Tensor,
    labels: Tensor | NDArray[np.generic],
    ways: int = 20,
    trials: int = 1000,
    seed: int = 0,
) -> float:
    """Accuracy of telling `ways` identities apart from one example of each.

    Every trial draws `ways` identities with two rows or more, and of each an example
    and a query. A query is given the identity of its nearest example, the first drawn
    if several are nearest. The task is that of Lake, Salakhutdinov and Tenenbaum
    (2015), "Human-level concept learning through probabilistic program induction", with
    identities drawn from all of `labels`.

    Raises:
        ValueError: if there are too few identities with two rows, or as
            `identity_metrics`.

    Example:
        >>> e = torch.eye(3).repeat_interleave(2, 0)
        >>> one_shot_accuracy(e, torch.tensor([0, 0, 1, 1, 2, 2]), ways=3, trials=5)
        1.0
    """
    if ways < 2 or trials < 1:
        raise ValueError(
            f"ways={ways} must be at least 2 and trials={trials} at least 1."
        )
    rows = SortedRows.of(embeddings, labels)
    several = np.flatnonzero(rows.ends - rows.starts > 1)
    if len(several) < ways:
        raise ValueError(
            f"ways={ways} needs as many identities with two embeddings or more, and "
            f"there are {len(several)}; lower ways or evaluate on more data."
        )
    draw = np.random.default_rng(seed)
    correct = 0
    for _ in range(trials):
        chosen = draw.choice(several, ways, replace=False)
        sizes = rows.ends[chosen] - rows.starts[chosen]
        example = draw.integers(sizes)
        query = draw.integers(sizes - 1)
        query += query >= example
        first = rows.unit[torch.from_numpy(rows.starts[chosen] + example)]
        second = rows.unit[torch.from_numpy(rows.starts[chosen] + query)]
        nearest = (second @ first.T).argmax(1).cpu()
        correct += int((nearest == torch.arange(ways)).sum())
    return correct / (trials * ways)


def _recall_at_far(pairs: PairCounts, far: float) -> float:
    accepted = _at_or_above(pairs.negatives)
    hits = _at_or_above(pairs.positives)
    if not (accepted.any() and hits.any()):
        return 0.0
    allowed = _allowed(far, int(accepted[0]))
    # the highest similarity reached by more negative pairs than allowed
    threshold = int((accepted > allowed).sum()) - 1
    return float(np.append(hits, 0)[threshold + 1] / hits[0])


def _roc_auc(pairs: PairCounts) -> float:
    """P(positive > negative) + P(equal) / 2 (the Mann-Whitney statistic)."""
    positives, negatives = pairs.positives.sum(), pairs.negatives.sum()
    below = np.cumsum(pairs.negatives) - pairs.negatives / 2
    return float((pairs.positives / positives) @ (below / negatives))


def _at_or_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts[::-1])[::-1]


def _allowed(far: float, negatives: int) -> int:
    return math.floor(Fraction(str(far)) * negatives)


def _check_far(far: float) -> None:
    if not 0 <= far <= 1:
        raise ValueError(f"far={far} must be between 0 and 1.")


def _share(found: Tensor, among: Tensor) -> float:
    asked = int(among.sum())
    return int((found & among).sum()) / asked if asked else 0.0
