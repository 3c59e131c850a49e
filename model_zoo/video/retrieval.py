"""Retrieval between two lists of paired embeddings: R@k and median rank."""

from collections.abc import Sequence
from math import nan
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.devices import device_of

GALLERY = 256
"""Clips of different captions that are looked for among each other."""


class Reader(Protocol):
    """A network that embeds texts."""

    def read(self, ids: Tensor) -> Tensor:
        """Unit-length embeddings `[n, D]` of ids `[n, L]`."""
        ...


def embedded_texts(network: nn.Module, ids: Tensor) -> Tensor:
    """What a network, a `Reader`, makes of texts `[n, L]`: `[n, D]` on the host."""
    with torch.inference_mode():
        reader = cast(Reader, network)
        return reader.read(ids.to(device_of(network))).float().cpu()


def paired_ranks(queries: Tensor, gallery: Tensor, block: int = 1024) -> Tensor:
    """Rank of row i of `gallery` for query i, from 1; int64 `[n]`.

    Rows that score the same, or no number, count as ahead of the right one, so that
    constant embeddings and those that are not finite find nothing.

    Args:
        queries: `[n, D]`.
        gallery: `[n, D]`.
        block: queries scored at a time.

    Raises:
        ValueError: for lists of different lengths.

    Example:
        >>> paired_ranks(torch.eye(3), torch.eye(3)).tolist()
        [1, 1, 1]
        >>> paired_ranks(torch.ones(3, 2), torch.ones(3, 2)).tolist()
        [3, 3, 3]
    """
    if len(queries) != len(gallery):
        raise ValueError(
            f"{len(queries)} queries need as many rows, not {len(gallery)}."
        )
    ranks = [torch.empty(0, dtype=torch.int64)]
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ gallery.T
        rows = torch.arange(len(scores))
        right = scores[rows, rows + start]
        ranks.append((~(scores < right[:, None])).sum(1))
    return torch.cat(ranks)


def first_of_each(captions: NDArray[np.str_], most: int = GALLERY) -> NDArray[np.int64]:
    """Rows of the first `most` captions that differ, in order, int64 `[m]`.

    Two clips of one caption would be right answers that count as wrong.

    Example:
        >>> first_of_each(np.array(["b", "b", "a", "c"]), 2).tolist()
        [0, 2]
    """
    return np.sort(np.unique(captions, return_index=True)[1])[:most].astype(np.int64)


def both_ways(texts: Tensor, videos: Tensor) -> dict[str, float]:
    """`retrieval_metrics` of videos by their texts, and of texts by their videos.

    Example:
        >>> found = both_ways(torch.eye(4), torch.eye(4).roll(1, 0))
        >>> found["text_to_video_median_rank"] == found["video_to_text_median_rank"]
        True
    """
    found = retrieval_metrics(texts, videos, "text_to_video")
    return found | retrieval_metrics(videos, texts, "video_to_text")


def retrieval_metrics(
    queries: Tensor, gallery: Tensor, name: str, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at each k, and the median rank (the lower the better).

    Recall at k says nothing among k rows or fewer, where everything is found, nor the
    rank without rows: they are not a number then.

    Example:
        >>> retrieval_metrics(torch.eye(4), torch.eye(4), "text_to_video", (1,))
        {'text_to_video_recall_at_1': 1.0, 'text_to_video_median_rank': 1.0}
    """
    ranks = paired_ranks(queries, gallery).float()
    shares = {k: float((ranks <= k).float().mean()) for k in ks}
    found = {
        f"{name}_recall_at_{k}": share if k < len(ranks) else nan
        for k, share in shares.items()
    }
    middle = float(ranks.quantile(0.5)) if len(ranks) else nan
    return found | {f"{name}_median_rank": middle}
