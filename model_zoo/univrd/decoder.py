"""The relationship decoder: learnt queries that read tokens and point at two."""

import torch
from torch import Tensor, nn

from model_zoo.attention import CrossAttention
from model_zoo.univrd.heads import PredictorMLP


class DecoderLayer(nn.Module):
    """A layer of the Perceiver Resampler (Alayrac et al. 2022, arXiv:2204.14198)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_latents, self.norm_instances = (
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.attention = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.mlp = PredictorMLP((width, 4 * width, width))

    def forward(self, latents: Tensor, instances: Tensor) -> Tensor:
        """Latents `[B, M, d]` and instances `[B, N, d]` -> latents."""
        own = self.norm_latents(latents)
        seen = torch.cat([own, self.norm_instances(instances)], dim=1)
        latents = latents + self.attention(own, seen)
        out: Tensor = latents + self.mlp(self.norm(latents))
        return out


class RelationDecoder(nn.Module):
    """M relation queries over N instances.

    L (12 d^2 + 15 d) + M d + (d e + e) + 4 (d^2 + d) parameters: per layer 4 (d^2 + d)
    of attention, 8 d^2 + 5 d of its perceptron and 6 d of norms. The published text
    fixes neither the number of layers nor their width.

    Args:
        width: d.
        text_width: e.
        queries: M.
        layers: L.
        heads: of the attention.
    """

    def __init__(
        self, width: int, text_width: int, *, queries: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.relation = nn.Linear(width, text_width)
        self.subject = PredictorMLP((width, width, width))
        self.object = PredictorMLP((width, width, width))

    def forward(self, instances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, N, d]` -> class embeddings `[B, M, e]` and two pointers `[B, M, d]`."""
        latents = self.latents.expand(len(instances), -1, -1)
        for layer in self.layers:
            latents = layer(latents, instances)
        return self.relation(latents), self.subject(latents), self.object(latents)
