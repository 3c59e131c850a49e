"""The network, cut into what is shared and what stays on the virtual client."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.deeplab2.blocks import ResidualSpec
from model_zoo.deeplab2.decoder import Decoders, DecoderSpec, Predictions
from model_zoo.deeplab2.layers import NORMS, initialise_
from model_zoo.deeplab2.mobilenet import MobileNetEncoder, MobileNetSpec
from model_zoo.deeplab2.residual import ResidualEncoder
from model_zoo.deeplab2.semantic import (
    SemanticDecoder,
    SemanticPrediction,
    SemanticSpec,
)

SHARES = ("encoder", "encoder_decoder")
_PUBLIC_SEED = 20_200_628


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A whole Panoptic-DeepLab, DeepLabv3 or DeepLabv3+.

    Attributes:
        encoder: its encoder.
        decoder: its decoders and heads; a `SemanticSpec` predicts no instances.
        output_stride: of res5.
        share: what is aggregated: `encoder`, or `encoder_decoder`; the rest is head.
        norm: `group`, or `batch` for comparison (the core refuses to train that).

    Raises:
        UserError: for an unknown share or normalisation.
    """

    encoder: ResidualSpec | MobileNetSpec = field(default_factory=ResidualSpec)
    decoder: DecoderSpec | SemanticSpec = field(default_factory=DecoderSpec)
    output_stride: int = 16
    share: str = "encoder"
    norm: str = "group"

    def __post_init__(self) -> None:
        if self.share not in SHARES:
            raise UserError(f"share={self.share!r} must be {' or '.join(SHARES)}.")
        if self.norm not in NORMS:
            raise UserError(f"norm={self.norm!r} must be {' or '.join(NORMS)}.")


def make_encoder(spec: NetworkSpec, inputs: int) -> ResidualEncoder | MobileNetEncoder:
    """The encoder alone, for images of `inputs` channels."""
    norm = NORMS[spec.norm]
    if isinstance(spec.encoder, MobileNetSpec):
        return MobileNetEncoder(
            spec.encoder, inputs=inputs, output_stride=spec.output_stride, norm=norm
        )
    return ResidualEncoder(
        spec.encoder, inputs=inputs, output_stride=spec.output_stride, norm=norm
    )


def make_decoders(spec: NetworkSpec, channels: Mapping[str, int]) -> nn.Module:
    """The decoders alone, for endpoints of these widths."""
    norm = NORMS[spec.norm]
    if isinstance(spec.decoder, SemanticSpec):
        return SemanticDecoder(channels, spec.decoder, norm)
    return Decoders(channels, spec.decoder, norm)


def make_predictions(spec: NetworkSpec, categories: int) -> nn.Module:
    """The layers that predict, for so many categories."""
    if isinstance(spec.decoder, SemanticSpec):
        return SemanticPrediction(spec.decoder, categories)
    return Predictions(spec.decoder, categories, NORMS[spec.norm])


class SharedNetwork(nn.Module):
    """The encoder, the decoders if they are shared, and the embedding of an image.

    The embedding is the average of res5. Where `embedding_dim` is smaller than res5 is
    wide, it goes through orthonormal columns drawn once from a public seed: a constant,
    neither trained nor counted.
    """

    projection: Tensor | None

    def __init__(
        self, spec: NetworkSpec, *, inputs: int = 3, embedding_dim: int | None = None
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(spec, inputs)
        channels = self.encoder.channels
        self.decoded = spec.decoder.endpoints
        self.decoders: nn.Module | None = None
        if spec.share == "encoder_decoder":
            self.decoders = make_decoders(spec, channels)
            initialise_(self.decoders)
        wide = channels["res5"]
        columns = None
        if embedding_dim is not None and embedding_dim < wide:
            draw = torch.Generator().manual_seed(_PUBLIC_SEED)
            normal = torch.randn(wide, embedding_dim, generator=draw, device="cpu")
            columns = torch.linalg.qr(normal)[0]
        self.register_buffer("projection", columns, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> embeddings `[B, D]`."""
        pooled: Tensor = self.encoder(images)["res5"].mean((2, 3))
        return pooled if self.projection is None else pooled @ self.projection

    def dense(self, images: Tensor, uniform: Tensor | None = None) -> dict[str, Tensor]:
        """What the local head gets: decoded features, or the encoder's endpoints."""
        endpoints = self.encoder(images, uniform)
        if self.decoders is None:
            return {name: endpoints[name] for name in self.decoded}
        decoded: dict[str, Tensor] = self.decoders(endpoints)
        return decoded


class LocalNetwork(nn.Module):
    """The prediction heads, and the decoders where they are not shared."""

    def __init__(
        self, spec: NetworkSpec, channels: Mapping[str, int], categories: int
    ) -> None:
        super().__init__()
        self.decoders: nn.Module | None = None
        if spec.share == "encoder":
            self.decoders = make_decoders(spec, channels)
        self.predictions = make_predictions(spec, categories)
        self.predict_std = spec.decoder.predict_std

    def forward(
        self, features: Mapping[str, Tensor], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Features of `SharedNetwork.dense` -> predictions at `size`."""
        decoded = features if self.decoders is None else self.decoders(features)
        predicted: dict[str, Tensor] = self.predictions(decoded, size)
        return predicted

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """New values of all parameters: He-normal kernels, and last layers near zero.

        Same names and shapes as `named_parameters`; everything is drawn from
        `generator`.
        """
        values = {}
        for name, old in self.named_parameters():
            if old.dim() < 2:  # normalisations and biases
                one = name.endswith("norm.weight")
                values[name] = torch.ones(old.shape) if one else torch.zeros(old.shape)
                continue
            new = torch.empty(old.shape)
            if name.endswith("predict.weight"):
                _near_zero_(new, self.predict_std, generator)
            else:
                nn.init.kaiming_normal_(new, mode="fan_out", generator=generator)
            values[name] = new
        return values


def _near_zero_(value: Tensor, std: float, generator: torch.Generator) -> None:
    """A normal of `std`, cut off at two of them."""
    nn.init.trunc_normal_(value, std=std, a=-2 * std, b=2 * std, generator=generator)
