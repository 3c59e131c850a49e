"""Heads that pool tokens into a few answers: one attention pooler, or one per layer.

Yuan et al. (2024), arXiv:2307.03166, section 3.3 and appendix C.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.attention import CrossAttention


class AttentionPooler(nn.Module):
    """A learned query that looks at normalised tokens: `[B, n, D]` to `[B, D]`.

    2,364,672 parameters at D = 768.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """The pooled token."""
        queries = self.query.expand(len(tokens), -1, -1)
        pooled: Tensor = self.attention(queries, self.norm(tokens))
        return pooled[:, 0]


class PoolerHead(nn.Module):
    """One pooler over the last block, then a linear classifier.

    Args:
        width: D of the tokens.
        heads: of the attention.
        classes: of the answer.
        dropout: before the classifier.
    """

    layers = 1

    def __init__(
        self, width: int, heads: int, classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.pooler = AttentionPooler(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        """Logits `[B, classes]` from the last of `grids` `[B, t, h, w, D]`."""
        pooled = self.pooler(grids[-1].flatten(1, 3))
        out: Tensor = self.classifier(self.dropout(pooled))
        return out


class MlapHead(nn.Module):
    """Multi-layer attention pooling: one query wanders through the last k blocks.

    The query of a block is what the perceptron made of the block before it, earliest
    first; the classifier sees the last one.

    Args:
        widths: D of each of the last k blocks; equal widths pass through unchanged,
            others by way of the key and value projections.
        heads: of the attention.
        classes: of the answer.
    """

    def __init__(self, widths: Sequence[int], heads: int, classes: int) -> None:
        super().__init__()
        width = widths[-1]
        self.layers = len(widths)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attentions = nn.ModuleList(
            CrossAttention(width, heads, own) for own in widths
        )
        self.perceptrons = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )
            for _ in widths
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        """Logits `[B, classes]` from the last k grids `[B, t, h, w, D]`."""
        if len(grids) != self.layers:
            raise UserError(
                f"{len(grids)} grids were given to a head for {self.layers} blocks."
            )
        query = self.query.expand(len(grids[-1]), -1, -1)
        for attend, perceive, grid in zip(
            self.attentions, self.perceptrons, grids, strict=True
        ):
            query = perceive(attend(query, grid.flatten(1, 3)))
        out: Tensor = self.classifier(query[:, 0])
        return out
