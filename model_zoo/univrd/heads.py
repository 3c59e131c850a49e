"""What every token predicts: one box, and one class embedding compared with texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.heads import unit_rows
from model_zoo.univrd.geometry import grid_bias

_PADDED = -1e6  # the published logit of a padded query


class PredictorMLP(nn.Sequential):
    """Linear layers with GELU between them; 2 arrays per layer.

    Args:
        widths: input, hidden ..., output.
        zero: whether the last layer starts at zero.

    Example:
        >>> PredictorMLP((20, 16, 30))(torch.zeros(8, 20)).shape
        torch.Size([8, 30])
    """

    def __init__(self, widths: Sequence[int], *, zero: bool = False) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
        super().__init__(*layers[:-1])
        if zero:
            for value in self[-1].parameters():
                nn.init.zeros_(value)


class BoxHead(nn.Module):
    """Tokens `[B, N, d]` to boxes (cx, cy, w, h) in [0, 1], `[B, N, 4]`.

    The last layer starts at zero, so that at first every token's box is its grid cell.
    """

    bias: Tensor

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.mlp = PredictorMLP((width, width, width, 4), zero=True)
        self.register_buffer("bias", grid_bias(*grid), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Boxes, one per token."""
        return torch.sigmoid(self.mlp(tokens) + self.bias)


class LogitScaling(nn.Module):
    """(cos + shift(x)) * (elu(scale(x)) + 1): a temperature and threshold per token.

    Local: it stays on the virtual client. It starts as a public constant, a threshold
    of `threshold` and a factor of `factor`, whatever the token.
    """

    def __init__(
        self, width: int, *, threshold: float = 0.4, factor: float = 10.0
    ) -> None:
        super().__init__()
        self.shift, self.scale = nn.Linear(width, 1), nn.Linear(width, 1)
        for layer, value in ((self.shift, -threshold), (self.scale, factor - 1)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, value)

    def forward(self, cosines: Tensor, tokens: Tensor) -> Tensor:
        """Logits `[B, N, Q]` from cosines `[B, N, Q]` and tokens `[B, N, d]`."""
        factor = F.elu(self.scale(tokens)) + 1
        logits: Tensor = (cosines + self.shift(tokens)) * factor
        return logits


class LocalScaling(nn.Module):
    """The local head: temperatures and thresholds of names, phrases and pointers.

    They never leave the virtual client. They start from public constants, which is
    also what evaluation uses.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.names = LogitScaling(width)
        self.phrase_threshold = nn.Parameter(torch.tensor(0.4))
        self.phrase_factor = nn.Parameter(torch.tensor(10.0))
        self.pointer_factor = nn.Parameter(torch.tensor(10.0))

    def phrases(self, cosines: Tensor) -> Tensor:
        """Logits of phrases from cosines, of the same shape."""
        return (cosines - self.phrase_threshold) * self.phrase_factor


class ClassPredictor(nn.Module):
    """Tokens against text queries: a shared projection and a local scaling.

    6 arrays. Names are no part of it: queries may be any texts, in any number.

    Args:
        width: d of the tokens.
        text_width: e of the queries.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, text_width)
        self.scaling = LogitScaling(width)

    def forward(
        self, tokens: Tensor, queries: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """`[B, N, d]` and `[B, Q, e]` -> logits `[B, N, Q]`."""
        cosines = similarity(self.projection(tokens), queries)
        return masked(self.scaling(cosines, tokens), valid)


def similarity(embeddings: Tensor, queries: Tensor) -> Tensor:
    """Cosines of `[..., N, e]` and `[..., Q, e]`: `[..., N, Q]`."""
    return unit_rows(embeddings) @ unit_rows(queries).transpose(-1, -2)


def masked(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Logits `[B, N, Q]` with -1e6 for queries that are padding (`valid` `[B, Q]`)."""
    if valid is None:
        return logits
    return torch.where(valid[..., None, :] > 0, logits, _PADDED)
