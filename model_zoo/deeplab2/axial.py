"""Position-sensitive axial attention: along columns, then along rows.

Wang et al. (2020), Axial-DeepLab, arXiv:2003.07853.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.deeplab2.layers import Norm, group_norm


@dataclass(frozen=True, kw_only=True)
class AxialSpec:
    """The sizes of axial attention.

    Attributes:
        key_expansion: key channels per filter.
        value_expansion: value channels per filter.
        heads: attention heads.
        max_span: largest relative offset is `max_span - 1`; larger ones are clipped.
        relative: whether keys, queries and values know their relative position.

    Raises:
        UserError: if a number is below 1.
    """

    key_expansion: int = 1
    value_expansion: int = 2
    heads: int = 8
    max_span: int = 255
    relative: bool = True

    def __post_init__(self) -> None:
        for name in ("key_expansion", "value_expansion", "heads", "max_span"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")


class RelativeEncoding(nn.Module):
    """A learnt vector for every relative offset, shared by the heads."""

    def __init__(self, max_span: int, depth: int) -> None:
        super().__init__()
        self.max_span = max_span
        self.table = nn.Parameter(torch.empty(2 * max_span - 1, depth))
        nn.init.trunc_normal_(self.table, std=1.0)

    def forward(self, length: int) -> Tensor:
        """`[L, L, depth]`: the vector of (key position - query position)."""
        place = torch.arange(length, device=self.table.device)
        offset = (place[None, :] - place[:, None]).clamp(
            1 - self.max_span, self.max_span - 1
        )
        return self.table[offset + self.max_span - 1]


class AxialAttention(nn.Module):
    """Self-attention along one axis, `[n, C, L]` -> `[n, V, L]`.

    Content, query-position and key-position similarities are normalised, added, and go
    through a softmax; the same happens to retrieved contents and positions. There is no
    1 / sqrt(d): the normalisation takes its place. Every line of the n is treated
    alone.
    """

    def __init__(
        self, inputs: int, filters: int, spec: AxialSpec, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        self.keys = filters * spec.key_expansion
        self.values = filters * spec.value_expansion
        self.spec = spec
        heads = spec.heads
        if self.keys % heads or self.values % heads:
            raise UserError(
                f"heads={heads} must divide {self.keys} keys and {self.values} values."
            )
        self.qkv = nn.Conv1d(inputs, 2 * self.keys + self.values, 1, bias=False)
        self.qkv_norm = norm(2 * self.keys + self.values)
        maps, kinds = (3, 2) if spec.relative else (1, 1)
        self.similarity_norm = norm(maps * heads, maps * heads)
        self.retrieved_norm = norm(kinds * self.values)
        if spec.relative:
            depth = self.keys // heads
            self.query_position = RelativeEncoding(spec.max_span, depth)
            self.key_position = RelativeEncoding(spec.max_span, depth)
            self.value_position = RelativeEncoding(spec.max_span, self.values // heads)

    def forward(self, lines: Tensor) -> Tensor:
        """`[n, C, L]` -> `[n, V, L]`."""
        n, _, length = lines.shape
        heads = self.spec.heads
        mixed = self.qkv_norm(self.qkv(lines)[..., None])[..., 0]
        parts = mixed.split([self.keys, self.keys, self.values], dim=1)
        q, k, v = (p.reshape(n, heads, -1, length) for p in parts)
        maps = [torch.einsum("nhdl,nhdm->nhlm", q, k)]
        if self.spec.relative:
            by_query, by_key = self.query_position(length), self.key_position(length)
            maps.append(torch.einsum("nhdl,lmd->nhlm", q, by_query))
            maps.append(torch.einsum("nhdm,lmd->nhlm", k, by_key))
        stacked = self.similarity_norm(torch.cat(maps, dim=1))
        similarity = stacked.reshape(n, len(maps), heads, length, length).sum(1)
        weights = similarity.softmax(-1)
        found = [torch.einsum("nhlm,nhdm->nhdl", weights, v)]
        if self.spec.relative:
            by_value = self.value_position(length)
            found.append(torch.einsum("nhlm,lmd->nhdl", weights, by_value))
        retrieved = torch.cat(found, dim=1).reshape(n, -1, length, 1)
        normalised: Tensor = self.retrieved_norm(retrieved)
        return normalised.reshape(n, len(found), self.values, length).sum(1)


class AxialAttention2d(nn.Module):
    """Attention along the height, then along the width; strides slice after each."""

    def __init__(
        self,
        inputs: int,
        filters: int,
        spec: AxialSpec,
        *,
        stride: int = 1,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.height = AxialAttention(inputs, filters, spec, norm)
        self.width = AxialAttention(self.height.values, filters, spec, norm)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, V, ceil(H / stride), ceil(W / stride)]`."""
        b, c, h, w = images.shape
        columns = images.permute(0, 3, 1, 2).reshape(b * w, c, h)
        x: Tensor = self.height(columns).reshape(b, w, -1, h).permute(0, 3, 2, 1)
        x = x[:, :: self.stride]  # [B, H', V, W]
        x = self.width(x.reshape(-1, *x.shape[2:])).reshape(b, -1, x.shape[2], w)
        return x.permute(0, 2, 1, 3)[..., :: self.stride]
