"""Decoders and prediction heads of Panoptic-DeepLab (Cheng et al. 2020, 1911.10194)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.deeplab2.layers import (
    ConvNorm,
    Norm,
    beside,
    fusing_conv,
    group_norm,
    resize,
)


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """The sizes of both decoders and of the heads.

    Attributes:
        rates: atrous rates of the spatial pyramid; empty replaces the pyramid by one
            1 x 1 convolution.
        pyramid: channels of the pyramid.
        semantic: channels of the semantic decoder.
        instance: channels of the instance decoder.
        semantic_low: channels that res3 and res2 are projected to.
        instance_low: the same in the instance decoder.
        heads: channels inside the semantic, centre and offset head.
        kernel: of fusing convolutions and heads.
        separable: whether those are depthwise-separable.
        predict_std: of the last layers' first weights.

    Raises:
        UserError: for an even kernel.
    """

    rates: tuple[int, ...] = (6, 12, 18)
    pyramid: int = 256
    semantic: int = 256
    instance: int = 128
    semantic_low: tuple[int, int] = (64, 32)
    instance_low: tuple[int, int] = (32, 16)
    heads: tuple[int, int, int] = (256, 32, 32)
    kernel: int = 5
    separable: bool = True
    predict_std: float = 0.01

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise UserError(f"kernel={self.kernel} must be odd.")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """What of the encoder is decoded."""
        return ("res2", "res3", "res5")


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587).

    Dropout is left out: it would need randomness in the features.
    """

    def __init__(
        self, inputs: int, outputs: int, rates: tuple[int, ...], norm: Norm
    ) -> None:
        super().__init__()
        self.point = ConvNorm(inputs, outputs, norm=norm)
        self.spread = nn.ModuleList(
            ConvNorm(inputs, outputs, 3, rate=rate, norm=norm) for rate in rates
        )
        self.pooled = ConvNorm(inputs, outputs, norm=norm) if rates else None
        self.project = None
        if rates:
            self.project = ConvNorm((len(rates) + 2) * outputs, outputs, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H, W]`."""
        parts: list[Tensor] = [self.point(images)]
        if self.pooled is None or self.project is None:
            return parts[0]
        parts += [layer(images) for layer in self.spread]
        average = self.pooled(images.mean((2, 3), keepdim=True))
        parts.append(average.expand_as(parts[0]))
        projected: Tensor = self.project(torch.cat(parts, dim=1))
        return projected


class Decoder(nn.Module):
    """Pyramid on res5, then fusion with res3 and with res2."""

    def __init__(
        self,
        channels: Mapping[str, int],
        spec: DecoderSpec,
        outputs: int,
        low: tuple[int, int],
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels["res5"], spec.pyramid, spec.rates, norm)
        self.project3 = ConvNorm(channels["res3"], low[0], norm=norm)
        self.project2 = ConvNorm(channels["res2"], low[1], norm=norm)
        kernel, separable = spec.kernel, spec.separable
        self.fuse3 = fusing_conv(
            spec.pyramid + low[0], outputs, kernel, separable=separable, norm=norm
        )
        self.fuse2 = fusing_conv(
            outputs + low[1], outputs, kernel, separable=separable, norm=norm
        )

    def forward(self, endpoints: Mapping[str, Tensor]) -> Tensor:
        """Endpoints -> `[B, outputs, H2, W2]` on the grid of res2."""
        x = self.pyramid(endpoints["res5"])
        for name, project, fuse in (
            ("res3", self.project3, self.fuse3),
            ("res2", self.project2, self.fuse2),
        ):
            x = fuse(beside(x, project(endpoints[name])))
        decoded: Tensor = x
        return decoded


class Decoders(nn.Module):
    """The semantic and the instance decoder side by side."""

    def __init__(
        self, channels: Mapping[str, int], spec: DecoderSpec, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        self.semantic = Decoder(channels, spec, spec.semantic, spec.semantic_low, norm)
        self.instance = Decoder(channels, spec, spec.instance, spec.instance_low, norm)

    def forward(self, endpoints: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Endpoints -> `semantic` and `instance` features on the grid of res2."""
        return {
            "semantic": self.semantic(endpoints),
            "instance": self.instance(endpoints),
        }


class Prediction(nn.Module):
    """A spatial convolution and a 1 x 1 convolution with bias."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, spec: DecoderSpec, norm: Norm
    ) -> None:
        super().__init__()
        self.block = fusing_conv(
            inputs, hidden, spec.kernel, separable=spec.separable, norm=norm
        )
        self.predict = nn.Conv2d(hidden, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, outputs, H, W]`."""
        predicted: Tensor = self.predict(self.block(features))
        return predicted


class Predictions(nn.Module):
    """Semantic logits, a heat-map of centres, and offsets (y, x) to the centre."""

    def __init__(
        self, spec: DecoderSpec, categories: int, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        a, b, c = spec.heads
        self.semantic = Prediction(spec.semantic, a, categories, spec, norm)
        self.center = Prediction(spec.instance, b, 1, spec, norm)
        self.offset = Prediction(spec.instance, c, 2, spec, norm)

    def forward(
        self, features: Mapping[str, Tensor], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Decoded features -> predictions at `size`.

        Offsets are stretched together with the grid: y by (H_out - 1) / (H_in - 1), x
        alike.
        """
        offset = self.offset(features["instance"])
        h, w = offset.shape[-2:]
        y, x = resize(offset, size).unbind(1)
        y = y * ((size[0] - 1) / max(h - 1, 1))
        x = x * ((size[1] - 1) / max(w - 1, 1))
        return {
            "semantic": resize(self.semantic(features["semantic"]), size),
            "center": resize(self.center(features["instance"]), size)[:, 0],
            "offset": torch.stack([y, x], dim=1),
        }
