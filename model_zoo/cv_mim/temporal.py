"""Temporal classifiers: sequences of codes or keypoints -> actions.

CV-MIM's evaluation trains them on public data only; they never take part in private
training, so batch normalisation is fine here.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv1d(nn.Conv1d):
    """A convolution over time that pads as TensorFlow's `same` does."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, C', ceil(T / stride)]`."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        length = x.shape[-1]
        missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        return super().forward(F.pad(x, (missing // 2, missing - missing // 2)))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        SameConv1d(inputs, outputs, kernel, stride=stride),
        nn.BatchNorm1d(outputs),
    ]


class ConvNet(nn.Module):
    """Strided convolutions over time, average pooling, a linear layer.

    305,998 parameters for 32 numbers a frame and 14 classes.

    Args:
        inputs: numbers of a frame.
        classes: K.
        filters: of the convolutions.
        dropout: share of units to drop in training.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        filters: tuple[int, ...] = (64, 128, 256),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((inputs, *filters), filters, strict=False):
            layers += [*_conv(a, b, 7, 2), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(filters[-1], classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """`[B, T, C]` -> logits `[B, K]`."""
        pooled = self.layers(sequences.transpose(1, 2)).mean(-1)
        logits: Tensor = self.classify(pooled)
        return logits


class ResidualBlock(nn.Module):
    """Three convolutions (kernels 7, 5, 3) beside a 1 x 1 shortcut.

    Args:
        inputs: channels of the input.
        filters: channels of all layers.
        stride: of the first convolution and the shortcut.
        dropout: share of units to drop in training.
    """

    def __init__(
        self, inputs: int, filters: int, stride: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_conv(inputs, filters, 7, stride),
            nn.ReLU(),
            nn.Dropout(dropout),
            *_conv(filters, filters, 5),
            nn.ReLU(),
            nn.Dropout(dropout),
            *_conv(filters, filters, 3),
        )
        self.shortcut = nn.Sequential(*_conv(inputs, filters, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, filters, ceil(T / stride)]`."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class ResNet1d(nn.Module):
    """A residual network over time: Ismail Fawaz et al. (2019), arXiv:1809.04356.

    1,072,078 parameters for 32 numbers a frame and 14 classes.

    Args:
        inputs: numbers of a frame.
        classes: K.
        filters: of the blocks; all but the last have stride 2.
        dropout: share of units to drop in training.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        filters: tuple[int, ...] = (64, 128, 256),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        strides = [2] * (len(filters) - 1) + [1]
        layers: list[nn.Module] = [*_conv(inputs, filters[0], 7), nn.ReLU()]
        for a, b, stride in zip((filters[0], *filters), filters, strides, strict=False):
            layers.append(ResidualBlock(a, b, stride, dropout))
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(filters[-1], classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """`[B, T, C]` -> logits `[B, K]`."""
        logits: Tensor = self.classify(self.layers(sequences.transpose(1, 2)).mean(-1))
        return logits


class ResTcn(nn.Module):
    """Residual temporal convolutions: Kim and Reiter (2017), arXiv:1704.04516.

    Nine pre-activated residual layers of kernel 8; `penalty` is the L1 term of its
    convolutions.

    Args:
        inputs: numbers of a frame.
        classes: K.
        dropout: share of units to drop in training.
    """

    def __init__(self, inputs: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.stem = SameConv1d(inputs, 64, 8)
        plan = [(1, 64)] * 3 + [(2, 128)] + [(1, 128)] * 2 + [(2, 256)] + [(1, 256)] * 2
        self.main, self.shortcut, channels = nn.ModuleList(), nn.ModuleList(), 64
        for stride, filters in plan:
            self.main.append(
                nn.Sequential(
                    nn.BatchNorm1d(channels),
                    nn.ReLU(),
                    nn.Dropout(dropout),
                    SameConv1d(channels, filters, 8, stride=stride),
                )
            )
            same = channels == filters
            self.shortcut.append(
                nn.Identity()
                if same
                else SameConv1d(channels, filters, 1, stride=stride)
            )
            channels = filters
        self.norm = nn.BatchNorm1d(channels)
        self.classify = nn.Linear(channels, classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """`[B, T, C]` -> logits `[B, K]`."""
        x = self.stem(sequences.transpose(1, 2))
        for main, shortcut in zip(self.main, self.shortcut, strict=True):
            x = shortcut(x) + main(x)
        logits: Tensor = self.classify(torch.relu(self.norm(x)).mean(-1))
        return logits

    def penalty(self, strength: float = 1e-4) -> Tensor:
        """L1 norm of all convolution kernels."""
        kernels = [m.weight for m in self.modules() if isinstance(m, nn.Conv1d)]
        return strength * torch.stack([kernel.abs().sum() for kernel in kernels]).sum()
