"""Attention from one set of tokens to another, shared by heads and decoders."""

import torch
from torch import Tensor, nn

from fedemb.errors import UserError


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens.

    Vaswani et al. (2017), arXiv:1706.03762. There are 4 (D^2 + D) parameters if tokens
    are as wide as queries.

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
        query, key, value = (
            torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)
            for x in (self.query(queries), self.key(tokens), self.value(tokens))
        )
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        out: Tensor = self.outward(mixed)
        return out
