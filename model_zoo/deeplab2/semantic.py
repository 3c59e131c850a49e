"""Decoders and prediction of semantic segmentation alone: DeepLabv3 and DeepLabv3+.

Chen et al. (2017), arXiv:1706.05587; Chen et al. (2018), arXiv:1802.02611.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.deeplab2.decoder import Pyramid
from model_zoo.deeplab2.layers import (
    ConvNorm,
    Norm,
    beside,
    fusing_conv,
    group_norm,
    resize,
)


@dataclass(frozen=True, kw_only=True)
class SemanticSpec:
    """The sizes of a decoder that predicts classes, and no instances.

    Attributes:
        rates: atrous rates of the spatial pyramid; empty replaces the pyramid by one
            1 x 1 convolution.
        pyramid: channels of the pyramid.
        channels: of the decoder.
        low: channels that res2 is projected to before it is fused with the pyramid, as
            in DeepLabv3+; 0 uses the pyramid alone, as in DeepLabv3.
        predict_std: of the last layer's first weights.

    Raises:
        UserError: for a negative `low`.
    """

    rates: tuple[int, ...] = (6, 12, 18)
    pyramid: int = 256
    channels: int = 256
    low: int = 0
    predict_std: float = 0.01

    def __post_init__(self) -> None:
        if self.low < 0:
            raise UserError(f"low={self.low} must be 0 (DeepLabv3) or positive (v3+).")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """What of the encoder is decoded."""
        return ("res2", "res5") if self.low else ("res5",)


class SemanticDecoder(nn.Module):
    """Pyramid on res5; then a 3 x 3 convolution, or two of them fused with res2."""

    def __init__(
        self, channels: Mapping[str, int], spec: SemanticSpec, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels["res5"], spec.pyramid, spec.rates, norm)
        self.project: nn.Module | None = None
        self.fuse: nn.Module
        if spec.low:
            self.project = ConvNorm(channels["res2"], spec.low, norm=norm)
            self.fuse = nn.Sequential(
                *(
                    fusing_conv(inputs, spec.channels, 3, separable=True, norm=norm)
                    for inputs in (spec.pyramid + spec.low, spec.channels)
                )
            )
        else:
            self.fuse = ConvNorm(spec.pyramid, spec.channels, 3, norm=norm)

    def forward(self, endpoints: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Endpoints -> `semantic` features on the grid of res5, or of res2 if fused."""
        x = self.pyramid(endpoints["res5"])
        if self.project is not None:
            x = beside(x, self.project(endpoints["res2"]))
        return {"semantic": self.fuse(x)}


class SemanticPrediction(nn.Module):
    """Semantic logits by one 1 x 1 convolution with bias."""

    def __init__(self, spec: SemanticSpec, categories: int) -> None:
        super().__init__()
        self.predict = nn.Conv2d(spec.channels, categories, 1)

    def forward(
        self, features: Mapping[str, Tensor], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Decoded features -> `semantic` logits `[B, K, *size]`."""
        return {"semantic": resize(self.predict(features["semantic"]), size)}
