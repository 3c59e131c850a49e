"""Actions from sequences of pose codes, learned from one camera and tried on all.

The protocol of CV-MIM: a temporal classifier sees its training clips from a single
camera and is tried on other clips from every camera.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fedemb.errors import UserError
from model_zoo.cv_mim.temporal import ConvNet, ResNet1d, ResTcn

CLASSIFIERS = ("convnet", "resnet", "restcn")


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
    """Which clips and cameras are learned from, and which are tried.

    Attributes:
        train: rows of clips to learn from.
        test: rows of clips to try; none of `train`.
        train_camera: the one camera that training clips come from.
        cameras: number of cameras; the test uses all.
        others_only: the test leaves out the camera that was learned from.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_camera: int
    cameras: int
    others_only: bool = False

    @property
    def test_cameras(self) -> list[int]:
        """Cameras whose clips are tried."""
        own = {self.train_camera} if self.others_only else set()
        return [camera for camera in range(self.cameras) if camera not in own]

    @staticmethod
    def of(
        labels: NDArray[np.integer],
        cameras: int,
        train_camera: int = 0,
        others_only: bool = False,
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
            others_only=others_only,
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

    Raises:
        UserError: for an unknown classifier.
    """

    classifier: str = "convnet"
    filters: tuple[int, ...] = (16, 32, 64)
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 5e-3
    average: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classifier not in CLASSIFIERS:
            raise UserError(
                f"classifier={self.classifier!r} must be one of "
                f"{', '.join(CLASSIFIERS)}."
            )

    def accuracy(
        self,
        clips: Tensor,
        labels: NDArray[np.integer],
        split: SingleShotSplit,
        top: tuple[int, ...] = (1,),
    ) -> list[float]:
        """Top-k accuracies over the cameras of the test after learning from one.

        Args:
            clips: `[n, cameras, T, C]`.
            labels: `[n]`, any integers.
            split: what is learned from.
            top: the k.
        """
        names, numbers = np.unique(labels, return_inverse=True)
        target = torch.from_numpy(numbers.astype(np.int64))
        known = clips[split.train, split.train_camera]
        mean, std = known.mean((0, 1)), known.std((0, 1)) + 1e-6
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._train((known - mean) / std, target[split.train], len(names))
        tried = (clips[split.test][:, split.test_cameras] - mean) / std
        with torch.inference_mode():
            logits = model(tried.flatten(0, 1))
        truth = target[split.test].repeat_interleave(tried.shape[1])
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
