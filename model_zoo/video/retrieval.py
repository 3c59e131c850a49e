"""Retrieval between two lists of paired embeddings: R@k and median rank."""

from collections.abc import Sequence

import torch
from torch import Tensor


def paired_ranks(queries: Tensor, gallery: Tensor, block: int = 1024) -> Tensor:
    """Rank of row i of `gallery` for query i, from 1; int64 `[n]`.

    Rows that score the same count as ahead of the right one, so that a constant
    embedding finds nothing.

    Args:
        queries: `[n, D]`.
        gallery: `[n, D]`.
        block: queries scored at a time.

    Example:
        >>> paired_ranks(torch.eye(3), torch.eye(3)).tolist()
        [1, 1, 1]
        >>> paired_ranks(torch.ones(3, 2), torch.ones(3, 2)).tolist()
        [3, 3, 3]
    """
    ranks = []
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ gallery.T
        rows = torch.arange(len(scores))
        right = scores[rows, rows + start]
        ranks.append((scores >= right[:, None]).sum(1))
    return torch.cat(ranks)


def retrieval_metrics(
    queries: Tensor, gallery: Tensor, name: str, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at each k, and the median rank (the lower the better).

    Example:
        >>> retrieval_metrics(torch.eye(4), torch.eye(4), "text_to_video", (1,))
        {'text_to_video_recall_at_1': 1.0, 'text_to_video_median_rank': 1.0}
    """
    ranks = paired_ranks(queries, gallery).float()
    found = {f"{name}_recall_at_{k}": float((ranks <= k).float().mean()) for k in ks}
    return found | {f"{name}_median_rank": float(ranks.quantile(0.5))}
