"""Blocks of transformers that towers of texts, pictures and clips are made of.

Vaswani et al. (2017), arXiv:1706.03762, with the norms first, as in CLIP (Radford et
al. 2021, arXiv:2103.00020). `torch.func.vmap` can train many of them at once.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from model_zoo.attention import attend

ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"gelu": nn.GELU, "relu": nn.ReLU}
)


class Block(nn.Module):
    """Attention, then a perceptron, each behind a norm and beside a shortcut."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        activation: str,
        *,
        norm_eps: float = 1e-5,
        post_norm: bool = False,
        logit_cap: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads, logit_cap)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), ACTIVATIONS[activation](), nn.Linear(mlp, width)
        )
        if post_norm:
            self.norm1_after = nn.LayerNorm(width, eps=norm_eps)
            self.norm2_after = nn.LayerNorm(width, eps=norm_eps)
        self.post_norm = post_norm

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Tokens `[B, L, width]`; `blocked` is true where a query sees no key."""
        mixed = self.attention(self.norm1(x), blocked)
        x = x + (self.norm1_after(mixed) if self.post_norm else mixed)
        more = self.mlp(self.norm2(x))
        out: Tensor = x + (self.norm2_after(more) if self.post_norm else more)
        return out


class Attention(nn.Module):
    """Multi-head self-attention, whose queries, keys and values are one map."""

    def __init__(self, width: int, heads: int, logit_cap: float | None = None) -> None:
        super().__init__()
        self.heads, self.logit_cap = heads, logit_cap
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Tokens `[B, L, width]`; `blocked` broadcasts to `[B, heads, L, L]`."""
        query, key, value = self.inward(x).chunk(3, -1)
        mixed = attend(
            query, key, value, self.heads, blocked=blocked, cap=self.logit_cap
        )
        out: Tensor = self.outward(mixed)
        return out


def through(blocks: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What every block makes of tokens `[B, L, width]`, earliest first.

    Example:
        >>> import torch
        >>> blocks = [Block(4, 2, 8, "gelu"), Block(4, 2, 8, "gelu")]
        >>> [tuple(out.shape) for out in through(blocks, torch.ones(1, 5, 4))]
        [(1, 5, 4), (1, 5, 4)]
    """
    outputs = []
    for block in blocks:
        x = block(x)
        outputs.append(x)
    return outputs
