"""The local heads of the second stage: two decoders that answer the teacher.

Algorithm 1 and appendix C.2 of arXiv:2402.13217. Both are discarded after training in
the paper as here, so that nothing is lost by keeping them on the client.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.heads import weighted_mean
from model_zoo.videoprism.layers import NORM_EPS, Block, Pooler


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Sizes of both decoders.

    Attributes:
        outer: D of the student and the teacher.
        tokens: n of a clip.
        width: inside.
        layers: blocks of each.
        heads: attention heads.
        mlp: hidden width of a block.
    """

    outer: int
    tokens: int
    width: int
    layers: int
    heads: int
    mlp: int

    def blocks(self) -> nn.ModuleList:
        """New blocks of one decoder."""
        return nn.ModuleList(
            Block(self.width, self.heads, self.mlp) for _ in range(self.layers)
        )


class LocalDecoder(nn.Module):
    """Visible tokens, shuffled among mask tokens, to the teacher's every token."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.randn(shape.outer) * 0.02)
        self.places = nn.Parameter(torch.randn(shape.tokens, shape.outer) * 0.02)
        self.inward = nn.Linear(shape.outer, shape.width)
        self.blocks = shape.blocks()
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.outward = nn.Linear(shape.width, shape.outer)

    def forward(self, visible: Tensor, order: Tensor) -> Tensor:
        """Predictions `[B, n, D]`; place i answers for the teacher's token i.

        Args:
            visible: the student's tokens `[B, m, D]`.
            order: permutations int64 `[B, n]`.
        """
        return _decode(self, self.contents(visible, order) + self.places)

    def contents(self, visible: Tensor, order: Tensor) -> Tensor:
        """Visible and mask tokens `[B, n, D]` in the given order, without places."""
        batch, count, outer = visible.shape
        missing = self.mask.expand(batch, order.shape[1] - count, outer)
        content = torch.cat([visible, missing], dim=1)
        return torch.gather(content, 1, order[..., None].expand(-1, -1, outer))


class GlobalDecoder(nn.Module):
    """Visible tokens, unordered and without places, to the teacher's one vector."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.inward = nn.Linear(shape.outer, shape.width)
        self.blocks = shape.blocks()
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.outward = nn.Linear(shape.width, shape.outer)
        self.pooler = Pooler(shape.outer, shape.heads)

    def forward(self, visible: Tensor) -> Tensor:
        """A prediction `[B, D]` of visible tokens `[B, m, D]`."""
        pooled: Tensor = self.pooler(_decode(self, visible))
        return pooled


class Decoders(nn.Module):
    """Both decoders, and the loss of what they say.

    Args:
        shape: of both.
        weights: of the local and the global loss.
    """

    def __init__(
        self, shape: DecoderShape, weights: Sequence[float] = (1.0, 1.0)
    ) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.local = LocalDecoder(shape)
        self.whole = GlobalDecoder(shape)

    def forward(
        self,
        visible: Tensor,
        targets: tuple[Tensor, Tensor],
        order: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Weighted sum of the two losses, mean over the rows that count.

        Args:
            visible: `[B, m, D]`.
            targets: the teacher's tokens `[B, n, D]` and vectors `[B, D]`.
            order: int64 `[B, n]`.
            weight: `[B]`.
        """
        total = weight.new_zeros(())
        if self.weights[0]:
            told = cosine_distance(self.local(visible, order), targets[0]).mean(1)
            total = total + self.weights[0] * weighted_mean(told, weight)
        if self.weights[1]:
            whole = cosine_distance(self.whole(visible), targets[1])
            total = total + self.weights[1] * weighted_mean(whole, weight)
        return total


def cosine_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine along the last axis, from 0 (parallel) to 2 (opposite).

    Example:
        >>> a = torch.tensor([[1.0, 2.0]])
        >>> [round(float(cosine_distance(a, scale * a)), 4) for scale in (3, -1)]
        [0.0, 2.0]
    """
    return 1 - F.cosine_similarity(found, wanted, dim=-1)


def fresh_decoders(head: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """New values for the parameters of `Decoders`, by name.

    Matrices are normal with the variance that keeps that of their inputs, norms are
    one, learned tokens and places small, all else zero.
    """
    fresh = {name: torch.zeros(p.shape) for name, p in head.named_parameters()}
    for prefix, layer in head.named_modules():
        if isinstance(layer, nn.Linear):
            drawn = torch.randn(layer.weight.shape, generator=generator)
            fresh[f"{prefix}.weight"] = drawn * layer.in_features**-0.5
        elif isinstance(layer, nn.LayerNorm):
            fresh[f"{prefix}.weight"] += 1
    for name in ("local.mask", "local.places", "whole.pooler.query"):
        shape = fresh[name].shape
        fresh[name] = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    return fresh


def _decode(decoder: LocalDecoder | GlobalDecoder, tokens: Tensor) -> Tensor:
    x = decoder.inward(tokens)
    for block in decoder.blocks:
        x = block(x)
    out: Tensor = decoder.outward(decoder.norm(x))
    return out
