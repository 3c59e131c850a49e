"""Actions from sequences of pose codes, learned from one camera and tried on all.

The temporal classifiers of CV-MIM's evaluation. They are trained on held-out, public
data only and never take part in private training, so batch normalisation is fine here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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


CLASSIFIERS = {"convnet": ConvNet, "resnet": ResNet1d, "restcn": ResTcn}


def shape_clips(
    clips: NDArray[np.floating], every: int, frames: int
) -> NDArray[np.floating]:
    """Keep every `every`-th frame, then pad with zeros or cut to `frames` frames.

    PennAction: every 2nd of 663; NTU RGB+D: every 1st of 300.

    Args:
        clips: `[n, T, ...]`.
        every: of T.
        frames: of the result.

    Example:
        >>> shape_clips(np.ones((1, 5, 2)), 2, 4)[0, :, 0].tolist()
        [1.0, 1.0, 1.0, 0.0]
    """
    kept = clips[:, ::every][:, :frames]
    missing = frames - kept.shape[1]
    pad = [(0, 0), (0, missing)] + [(0, 0)] * (clips.ndim - 2)
    return np.pad(kept, pad)


@dataclass(frozen=True, kw_only=True)
class SingleShotSplit:
    """Who and which cameras are learned from, and who and which are tried.

    Attributes:
        train: rows of clips to learn from.
        test: rows of clips to try; other people than in `train`.
        train_camera: the one camera that training clips come from.
        cameras: number of cameras; the test uses all.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_camera: int
    cameras: int

    @staticmethod
    def of(
        labels: NDArray[np.integer], cameras: int, train_camera: int = 0
    ) -> "SingleShotSplit":
        """Every other clip of each action is learned from, the others are tried."""
        order = np.argsort(labels, kind="stable")
        within = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
        first = np.zeros(len(labels), bool)
        first[order] = within % 2 == 0
        return SingleShotSplit(
            train=np.flatnonzero(first),
            test=np.flatnonzero(~first),
            train_camera=train_camera,
            cameras=cameras,
        )


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """How a temporal classifier is trained.

    Attributes:
        classifier: `convnet`, `resnet` or `restcn`.
        filters: of the first two.
        steps: optimizer steps.
        batch_size: clips of a step.
        learning_rate: of Adam.
        average: decay of the moving average of weights that is evaluated.
        seed: of initial values, batches and dropout.
    """

    classifier: str = "convnet"
    filters: tuple[int, ...] = (16, 32, 64)
    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 5e-3
    average: float = 0.95
    seed: int = 0

    def accuracy(
        self,
        clips: Tensor,
        labels: NDArray[np.integer],
        split: SingleShotSplit,
        top: tuple[int, ...] = (1,),
    ) -> list[float]:
        """Top-k accuracies over all cameras after learning from one.

        Args:
            clips: `[n, cameras, T, C]`.
            labels: `[n]`, any integers.
            split: who is learned from.
            top: the k.
        """
        names, numbers = np.unique(labels, return_inverse=True)
        target = torch.from_numpy(numbers.astype(np.int64))
        known = clips[split.train, split.train_camera]
        mean, std = known.mean((0, 1)), known.std((0, 1)) + 1e-6
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._train((known - mean) / std, target[split.train], len(names))
        tried = (clips[split.test] - mean) / std
        with torch.inference_mode():
            logits = model(tried.flatten(0, 1))
        truth = target[split.test].repeat_interleave(split.cameras)
        best = logits.topk(min(max(top), len(names)), dim=1).indices
        hits = best == truth[:, None]
        return [float(hits[:, :k].any(1).float().mean()) for k in top]

    def _train(self, clips: Tensor, target: Tensor, classes: int) -> nn.Module:
        inputs = clips.shape[-1]
        if self.classifier == "restcn":
            model: nn.Module = ResTcn(inputs, classes)
        else:
            kind = ConvNet if self.classifier == "convnet" else ResNet1d
            model = kind(inputs, classes, self.filters)
        optimizer = torch.optim.Adam(model.parameters(), self.learning_rate)
        average = get_ema_multi_avg_fn(self.average)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        for _ in range(self.steps):
            rows = torch.randint(len(clips), (min(self.batch_size, len(clips)),))
            loss = F.cross_entropy(model(clips[rows]), target[rows])
            if isinstance(model, ResTcn):
                loss = loss + model.penalty()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            averaged.update_parameters(model)
        return averaged.eval()
