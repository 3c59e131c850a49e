"""A pre-norm text transformer that `torch.func.vmap` can train many of at once.

Follows the text tower of CLIP (Radford et al., 2021, arXiv:2103.00020), with
bidirectional attention (Devlin et al., 2019, arXiv:1810.04805) and the closing class
token of CoCa and VideoPrism (Yu et al., 2022, arXiv:2205.01917) as choices.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.blocks import ACTIVATIONS, Block

POOLS = ("eos", "first", "last", "mean", "class")
POSITIONS = ("learned", "sinusoidal")


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """Sizes and conventions of a text tower.

    Attributes:
        vocab_size: number of ids.
        length: L, the longest text in ids.
        width: of the tokens.
        layers: number of blocks.
        heads: attention heads of each; they divide the width.
        mlp: hidden width of each; None is four times the width.
        causal: whether a token attends to earlier ones only.
        pool: which token stands for the text: the first `eos` (the last one that is no
            padding where there is none), the `first`, the `last` place, the `mean` of
            what is no padding, or a learned `class` token appended at the end.
        embedding_dim: width after a linear projection without bias; None is none.
        positions: `learned`, or `sinusoidal` (no parameters).
        scaled: whether tokens are multiplied by the root of the width.
        activation: `gelu` or `relu`.
        pad: id of padding, which nothing attends to.
        eos: id that ends a text.
        norm_eps: of the norms.
        post_norm: whether a norm also follows each attention and perceptron.
        logit_cap: c of c tanh(l / c), which bounds attention logits l; None has none.
        types: kinds of tokens with a vector each, as BERT tells two sentences apart; 0
            has none.

    Raises:
        UserError: a number or word that cannot be.
    """

    vocab_size: int
    length: int
    width: int
    layers: int
    heads: int
    mlp: int | None = None
    causal: bool = False
    pool: str = "eos"
    embedding_dim: int | None = None
    positions: str = "learned"
    scaled: bool = False
    activation: str = "gelu"
    pad: int = 0
    eos: int = 2
    norm_eps: float = 1e-5
    post_norm: bool = False
    logit_cap: float | None = None
    types: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "length", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.types < 0:
            raise UserError(f"types={self.types} must not be negative.")
        if self.width % self.heads:
            raise UserError(f"heads={self.heads} must divide width={self.width}.")
        if self.positions == "sinusoidal" and self.width % 2:
            raise UserError(f"sinusoidal positions need an even width={self.width}.")
        for name, known in (
            ("pool", POOLS),
            ("positions", POSITIONS),
            ("activation", tuple(ACTIVATIONS)),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is unknown; choose from "
                    f"{', '.join(known)}."
                )


class TextTower(nn.Module):
    """Ids int64 `[B, L]` to vectors `[B, D]`; every row depends on itself alone.

    D is `embedding_dim`, or the width without one. Vectors are not normalised.

    Example:
        >>> shape = TextShape(vocab_size=128, length=16, width=32, layers=2, heads=4)
        >>> tower = TextTower(shape)
        >>> tower(torch.ones(3, 16, dtype=torch.int64)).shape
        torch.Size([3, 32])
    """

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.shape = shape
        spread = shape.width**-0.5 if shape.scaled else 0.02
        self.token = nn.Embedding(shape.vocab_size, shape.width)
        nn.init.normal_(self.token.weight, std=spread)
        places = shape.length + (shape.pool == "class")
        if shape.positions == "learned":
            self.position = nn.Embedding(places, shape.width)
            nn.init.normal_(self.position.weight, std=0.02)
        else:
            self.register_buffer("waves", waves(places, shape.width), persistent=False)
        if shape.pool == "class":
            self.class_token = nn.Embedding(1, shape.width)
            nn.init.normal_(self.class_token.weight, std=spread)
        if shape.types:
            self.kind = nn.Embedding(shape.types, shape.width)
            nn.init.normal_(self.kind.weight, std=0.02)
        mlp = shape.mlp or 4 * shape.width
        self.blocks = nn.ModuleList(
            Block(
                shape.width,
                shape.heads,
                mlp,
                shape.activation,
                norm_eps=shape.norm_eps,
                post_norm=shape.post_norm,
                logit_cap=shape.logit_cap,
            )
            for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.projection = (
            nn.Linear(shape.width, shape.embedding_dim, bias=False)
            if shape.embedding_dim
            else nn.Identity()
        )

    def forward(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        """One vector `[B, D]` per text; see `tokens` for the arguments."""
        vectors: Tensor = self.projection(self.pooled(self.tokens(ids, types), ids))
        return vectors

    def tokens(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        """Normalised tokens `[B, L, width]`, one more with a class token.

        Args:
            ids: int64 `[B, L]`.
            types: kind of every token, int64 `[B, L]`; None is all of kind 0.

        Raises:
            UserError: more ids than the tower has places, or kinds without vectors.
        """
        shape = self.shape
        if ids.shape[-1] > shape.length:
            raise UserError(
                f"texts of {ids.shape[-1]} ids are longer than length={shape.length}."
            )
        seen = ids != shape.pad
        x: Tensor = self.token(ids)
        if shape.types:
            x = x + self.kind(torch.zeros_like(ids) if types is None else types)
        elif types is not None:
            raise UserError("this tower has no kinds of tokens; build it with types=2.")
        if shape.pool == "class":
            zero = torch.zeros_like(ids[:, :1])
            x = torch.cat([x, self.class_token(zero)], dim=1)
            seen = torch.cat([seen, zero == 0], dim=1)
        if shape.scaled:
            x = x * math.sqrt(shape.width)
        x = x + self._positions(x)
        blocked = ~seen[:, None, None, :]
        if shape.causal:
            ones = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
            blocked = blocked | ones.triu(1)
        for block in self.blocks:
            x = block(x, blocked)
        normed: Tensor = self.norm(x)
        return normed

    def pooled(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """The token `[B, width]` that stands for each text."""
        pool = self.shape.pool
        if pool == "first":
            return tokens[:, 0]
        if pool in ("last", "class"):
            return tokens[:, -1]
        seen = ids != self.shape.pad
        if pool == "eos":
            # The first eos, as weights: a place with no eos and no end before it.
            end = ids == self.shape.eos
            ended = end.long().cumsum(1)
            last = seen & (seen.long().flip(1).cumsum(1).flip(1) == 1)
            none = ended[:, -1:] == 0
            chosen = (end & (ended == 1)) | (last & none)
        else:
            chosen = seen
        weights = chosen.to(tokens.dtype)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        return (weights[:, :, None] * tokens).sum(1)

    def _positions(self, x: Tensor) -> Tensor:
        """Positions `[B, L, width]`, or the same for all rows."""
        batch, count, _ = x.shape
        if self.shape.positions == "sinusoidal":
            return self.get_buffer("waves")[:count]
        places = torch.arange(count, device=x.device).expand(batch, count)
        learned: Tensor = self.position(places)
        return learned


def waves(places: int, width: int) -> Tensor:
    """Sinusoidal positions with time scales 1 to 10,000, float32 `[places, width]`.

    Vaswani et al. (2017, arXiv:1706.03762), all sines before all cosines.

    Example:
        >>> waves(3, 4)[0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    half = width // 2
    scale = torch.arange(half) * (math.log(10_000.0) / max(half - 1, 1))
    angle = torch.arange(places)[:, None] * torch.exp(-scale)[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)
