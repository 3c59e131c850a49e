"""Who does what: actions of given boxes, each asking all space-time tokens.

The head of Girdhar et al. (2019), arXiv:1812.02707, as VideoGLUE uses it: places are
appended to features, features are averaged over time and cut out at each box, and the
largest of each becomes a query of a transformer decoder.
"""

import torch
from torch import Tensor, nn

from model_zoo.attention import CrossAttention
from model_zoo.video.places import CODE, PlaceCode
from model_zoo.video.roi import roi_align

_CROP = 7


class ActionHead(nn.Module):
    """Logits of every box, with a sigmoid of its own for each class.

    Args:
        tokens: D of the encoder's tokens.
        width: of the decoder.
        layers: of the decoder.
        heads: of its attention.
        classes: of the answer.
        dropout: before the classifier.
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        classes: int,
        layers: int = 1,
        heads: int = 6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.places = PlaceCode()
        placed = tokens + 2 * CODE
        self.inward = nn.Linear(placed, width)
        self.memory = nn.Linear(placed, width)
        self.decoder = nn.ModuleList(DecoderBlock(width, heads) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, grid: Tensor, boxes: Tensor) -> Tensor:
        """Logits `[B, K, classes]`.

        Args:
            grid: tokens of the last block, `[B, t, h, w, D]`.
            boxes: (ymin, xmin, ymax, xmax) in [0, 1], `[B, K, 4]`.
        """
        placed = torch.cat([grid, self.places(grid)], dim=-1)
        flat = placed.mean(1).movedim(-1, 1)
        queries = self.inward(roi_align(flat, boxes, _CROP).amax((-2, -1)))
        memory = self.memory(placed.flatten(1, 3))
        for block in self.decoder:
            queries = block(queries, memory)
        out: Tensor = self.classifier(self.dropout(queries))
        return out


class DecoderBlock(nn.Module):
    """Queries look at each other, then at a memory, then think."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = CrossAttention(width, heads)
        self.across = CrossAttention(width, heads)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries `[B, q, D]` after one block."""
        first, second, third = self.norms
        x = first(queries)
        queries = queries + self.own(x, x)
        queries = queries + self.across(second(queries), memory)
        out: Tensor = queries + self.perceptron(third(queries))
        return out
