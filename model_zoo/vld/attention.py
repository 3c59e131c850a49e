"""Blocks that read a memory, as in a decoder."""

from torch import Tensor, nn

from model_zoo.attention import attend
from model_zoo.blocks import Attention


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a memory; its keys and values are one map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, width)

    def forward(
        self, x: Tensor, memory: Tensor, blocked: Tensor | None = None
    ) -> Tensor:
        """Queries `[B, L, D]` read a memory `[B, M, D]`.

        `blocked` broadcasts to `[B, heads, L, M]` and is true where nothing is read.
        """
        key, value = self.memory(memory).chunk(2, -1)
        mixed = attend(self.query(x), key, value, self.heads, blocked=blocked)
        out: Tensor = self.outward(mixed)
        return out


class ReadingBlock(nn.Module):
    """Attention to a memory, then a perceptron, each behind a norm.

    With `itself`, attention among the tokens themselves comes first, as in a decoder.
    """

    def __init__(self, width: int, heads: int, mlp: int, *, itself: bool) -> None:
        super().__init__()
        if itself:
            self.norm_itself = nn.LayerNorm(width)
            self.itself = Attention(width, heads)
        self.norm_across = nn.LayerNorm(width)
        self.across = CrossAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width)
        )

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        blocked: Tensor | None = None,
        later: Tensor | None = None,
    ) -> Tensor:
        """Tokens `[B, L, D]` that have read `[B, M, D]`.

        Args:
            x: tokens.
            memory: what they read.
            blocked: true where it is padding, `[B, 1, 1, M]`; None is nowhere.
            later: true where a token must not see another, `[L, L]`.
        """
        if later is not None:
            x = x + self.itself(self.norm_itself(x), later)
        x = x + self.across(self.norm_across(x), memory, blocked)
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out
