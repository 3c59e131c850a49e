"""Blocks with capped attention, an attention pooler, and places that stretch.

Sizes and conventions follow the encoder published with arXiv:2402.13217.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.attention import attend, attention_logits

LOGIT_CAP = 50.0
NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head attention of queries `[B, q, D]` to tokens `[B, n, D]`; see `attend`.

    Logits l become c tanh(l / c) before masking.

    Args:
        width: D.
        heads: that divide the inner width.
        inner: width of all heads together; None is D.
        cap: c; None leaves logits as they are.
        scaled: whether each dimension of a head's queries has a learned scale.

    Raises:
        UserError: heads that do not divide the inner width.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        inner: int | None = None,
        cap: float | None = LOGIT_CAP,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        inner = inner or width
        if inner % heads:
            raise UserError(f"heads={heads} must divide the inner width {inner}.")
        self.heads, self.cap = heads, cap
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.outward = nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.zeros(inner // heads)) if scaled else None

    def forward(
        self, queries: Tensor, tokens: Tensor, blocked: Tensor | None = None
    ) -> Tensor:
        """Mixtures `[B, q, D]` of the tokens' values.

        Args:
            queries: `[B, q, D]`.
            tokens: `[B, n, D]`.
            blocked: bool `[B, n]`, true for tokens that nobody attends to.
        """
        mixed = attend(
            self._query(queries),
            self.key(tokens),
            self.value(tokens),
            self.heads,
            blocked=None if blocked is None else blocked[:, None, None, :],
            cap=self.cap,
        )
        out: Tensor = self.outward(mixed)
        return out

    def logits(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """`[B, heads, q, n]`, capped, before masking."""
        query, key = self._query(queries), self.key(tokens)
        return attention_logits(query, key, self.heads, self.cap)

    def _query(self, queries: Tensor) -> Tensor:
        query: Tensor = self.query(queries)
        if self.scale is None:
            return query
        # softplus(0) = log 2: the scale is 1 at first
        scale = F.softplus(self.scale) / math.log(2)
        return query * scale.repeat(self.heads)


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)); tokens `[B, n, D]`."""

    def __init__(
        self, width: int, heads: int, mlp: int, cap: float | None = LOGIT_CAP
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads, cap=cap)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width)
        )

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Tokens after the block; nobody attends to blocked ones, bool `[B, n]`.

        The perceptron adds nothing to blocked tokens.
        """
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, blocked)
        more = self.mlp(self.norm2(x))
        if blocked is not None:
            more = more.masked_fill(blocked[..., None], 0)
        out: Tensor = x + more
        return out


class Pooler(nn.Module):
    """A learned query that attends to tokens `[B, n, D]`; a normalised `[B, D]`.

    Args:
        width: D.
        heads: of the attention.
        inner: width of all heads together; None is D.

    Example:
        >>> sum(p.numel() for p in Pooler(768, 12).parameters())
        2364736
    """

    def __init__(self, width: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.attention = Attention(width, heads, inner=inner, cap=None, scaled=True)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """The pooled token of each row."""
        queries = self.query.expand(tokens.shape[0], 1, -1)
        pooled: Tensor = self.norm(self.attention(queries, tokens))
        return pooled[:, 0]


class MaxPooler(nn.Module):
    """The largest value of every channel, through a linear layer.

    For towers too small, and trained too briefly, to learn where to look.

    Example:
        >>> MaxPooler(4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.outward = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """One vector `[B, D]` for the tokens `[B, n, D]` of each row."""
        pooled: Tensor = self.outward(tokens.amax(1))
        return pooled


def lecun_(module: nn.Module) -> None:
    """Draw the matrices of linear layers so that they keep the variance; biases 0.

    As the published code does; torch's own default is smaller by the root of 3.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def stretched(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """A table of places `[prod(old), D]` resized to `[prod(new), D]`, linearly.

    Along each axis by itself, with half-pixel centres, smoothed when shrinking, as
    `jax.image.resize` does. Written as a product with constants, so that engines can
    train many tables at once.

    Example:
        >>> stretched(torch.tensor([[0.0], [1.0]]), (2,), (4,)).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if old == new:
        return table
    matrix = table.new_ones(1, 1)
    for before, after in zip(old, new, strict=True):
        matrix = torch.kron(matrix, _resizing(before, after).to(table))
    return matrix @ table


def _resizing(before: int, after: int) -> Tensor:
    """The matrix `[after, before]` of a linear resize."""
    found = F.interpolate(
        torch.eye(before)[None, None],
        size=(after, before),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return found[0, 0]
