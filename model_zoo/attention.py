"""Attention in plain products, which `torch.func.vmap` batches; shared by towers."""

import math

import torch
from torch import Tensor, nn

from fedemb.errors import UserError


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    *,
    blocked: Tensor | None = None,
    cap: float | None = None,
) -> Tensor:
    """What queries read of values, head beside head, `[B, q, W']`.

    Vaswani et al. (2017), arXiv:1706.03762. The softmax is at least in float32. A query
    that may read nothing reads everything evenly and stays finite.

    Args:
        query: `[B, q, W]`.
        key: `[B, n, W]`.
        value: `[B, n, W']`.
        heads: that the widths are split into.
        blocked: bool that broadcasts to `[B, heads, q, n]`, true where nothing is read.
        cap: see `attention_logits`.

    Example:
        >>> rows = torch.eye(2)[None]
        >>> attend(100 * rows, rows, rows, 1).round().tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
    """
    logits = attention_logits(query, key, heads, cap)
    if blocked is not None:
        logits = logits.masked_fill(blocked, torch.finfo(logits.dtype).min)
    precise = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.to(precise).softmax(-1).to(logits.dtype)
    return (weights @ _split(value, heads)).transpose(1, 2).flatten(2)


def attention_logits(
    query: Tensor, key: Tensor, heads: int, cap: float | None = None
) -> Tensor:
    """Scaled products of queries `[B, q, W]` and keys `[B, n, W]`, `[B, heads, q, n]`.

    With a cap c, a logit l becomes c tanh(l / c).
    """
    width = query.shape[-1] // heads
    products = _split(query, heads) @ _split(key, heads).transpose(-1, -2)
    logits = products / math.sqrt(width)
    return logits if cap is None else cap * torch.tanh(logits / cap)


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens; see `attend`.

    There are 4 (D^2 + D) parameters if tokens are as wide as queries.

    Args:
        width: D of queries and outputs.
        heads: of the attention.
        tokens: D' of the tokens; None is D.

    Raises:
        UserError: heads do not divide the width.

    Example:
        >>> CrossAttention(8, 2)(torch.zeros(3, 1, 8), torch.zeros(3, 5, 8)).shape
        torch.Size([3, 1, 8])
    """

    def __init__(self, width: int, heads: int, tokens: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"heads={heads} must divide width={width}.")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(tokens or width, width)
        self.value = nn.Linear(tokens or width, width)
        self.outward = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Mixtures `[B, q, D]` of the values of tokens `[B, n, D']`."""
        query, key = self.query(queries), self.key(tokens)
        out: Tensor = self.outward(attend(query, key, self.value(tokens), self.heads))
        return out


def _split(x: Tensor, heads: int) -> Tensor:
    """`[B, n, W]` to `[B, heads, n, W / heads]`."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)
