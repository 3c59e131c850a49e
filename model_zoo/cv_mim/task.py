"""The task of CV-MIM: learn codes of 2D poses that tell the pose, whatever the camera.

The encoder is the shared backbone. Sub-encoder, likelihood estimators, discriminator
and decoder are the local head: they are made on the virtual client, trained there if at
all, and thrown away.
"""

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.heads import unit_rows, weighted_mean
from fedemb.identity import embed_all, labels_of
from fedemb.protocols import Batch, Features, Parameters
from model_zoo.cv_mim.bounds import positive_pairs
from model_zoo.cv_mim.distances import aligned_mpjpe, mpjpe
from model_zoo.cv_mim.encoder import Encoder
from model_zoo.cv_mim.geometry import KEYPOINTS
from model_zoo.cv_mim.heads import (
    MutualInformationHead,
    ReconstructionHead,
    Views,
    fresh_values,
)
from model_zoo.cv_mim.pairs import (
    Pairs,
    by_group,
    first_view,
    refuse_missing_joints,
)
from model_zoo.cv_mim.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class CrossViewTask:
    """An `EmbeddingTask` over motions seen by several cameras.

    Attributes:
        sizes: of the networks, and the algorithm.
        pairs: how training pairs are made.
        num_classes: actions of the data set; the losses use no labels.
        name: for reports.
        label_space: `client`; labels are not used in training.
    """

    sizes: Sizes
    pairs: Pairs = field(default_factory=Pairs)
    num_classes: int = 1
    name: str = "cv_mim"
    label_space: str = "client"

    @property
    def embedding_dim(self) -> int:
        """Width of the pose code."""
        return self.sizes.pose_dim

    def make_backbone(self) -> nn.Module:
        """A new encoder, initialised from torch's global generator."""
        sizes = self.sizes
        return Encoder(
            2 * KEYPOINTS,
            sizes.hidden,
            sizes.pose_dim,
            sizes.view_codes,
            blocks=sizes.blocks,
            dropout=sizes.dropout,
            gaussian=sizes.gaussian,
            normalize=True,
        )

    def make_head(self, capacity: int) -> nn.Module:
        """The networks that stay local; they do not depend on the number of classes."""
        del capacity
        if self.sizes.algorithm == "autoencoder":
            return ReconstructionHead(self.sizes, 2 * KEYPOINTS)
        return MutualInformationHead(self.sizes)

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """New values of all local networks."""
        del classes
        return fresh_values(head, generator)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Training pairs, random words and prior samples; the motion, for embedding."""
        drawn = self.pairs.draw(examples, seeds)
        frames, sizes = self.pairs.frames, self.sizes
        shape = (frames, 2, sizes.code_dim)
        if sizes.algorithm == "disentangle" and sizes.prior_weight > 0:
            drawn["prior"] = by_group(
                examples.sizes,
                seeds,
                3,
                lambda rng, n: rng.random((n, *shape), dtype=np.float32),
            )
        if sizes.gaussian:
            drawn["noise"] = by_group(
                examples.sizes,
                seeds,
                4,
                lambda rng, n: rng.standard_normal((n, *shape), dtype=np.float32),
            )
        if sizes.max_mpjpe_3d is None:
            drawn.pop("joints", None)
        elif "joints" not in drawn:
            raise UserError("max_mpjpe_3d needs 3D poses in the field pose3d.")
        drawn["motion"] = first_view(examples.fields)
        return {name: torch.from_numpy(values) for name, values in drawn.items()}

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Codes and first-layer activations of both views, `[B, K, 2, ...]`.

        Raises:
            UserError: if the data show every pose from one camera only and have no 3D
                poses to project.
        """
        if "poses" not in batch:
            raise UserError(
                "training needs two cameras in the field keypoints [n, V, T, 13, 2], "
                "or 3D poses in the field pose3d [n, T, 13, 3] to project."
            )
        encoder = cast(Encoder, backbone)
        return encoder.train_codes(batch["poses"], batch["words"], batch.get("noise"))

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The sum of all objectives; see `model_zoo.cv_mim.heads`."""
        return torch.stack(list(self.terms(head, features, batch).values())).sum()

    def terms(
        self, head: nn.Module, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """The parts of the loss by name."""
        views = self._views(cast(dict[str, Tensor], features), batch)
        found = cast(MutualInformationHead | ReconstructionHead, head).terms(views)
        kl = cast(dict[str, Tensor], features).get("kl")
        if kl is not None:
            both = kl.flatten(0, 1).sum(1)
            found["kl"] = self.sizes.kl_weight * weighted_mean(both, views.weight)
        return found

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length embeddings `[B, D]`: the mean pose code of the motion's frames.

        Every frame's code has unit length before the mean; the first camera is used.
        """
        codes: Tensor = backbone(batch["motion"])[..., : self.sizes.pose_dim]
        return unit_rows(unit_rows(codes).mean(1))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Cross-view retrieval, single-shot recognition and what codes give away.

        `model_zoo.cv_mim.evaluation.cross_view_metrics` says which; beside them the
        identity metrics of embedded motions, whose identity is the action.

        Raises:
            UserError: for motions with joints that are not finite.
        """
        from fedemb.metrics import identity_metrics
        from model_zoo.cv_mim.evaluation import cross_view_metrics

        refuse_missing_joints(examples.fields)
        metrics = cross_view_metrics(backbone, self.sizes.pose_dim, examples)
        if "label" in examples.fields:
            embedded = embed_all(self, backbone, examples)
            labels = labels_of(examples)
            metrics |= identity_metrics(embedded, labels)
        return metrics

    def thumbnails(self, examples: Examples) -> NDArray[np.uint8]:
        """Pictures of the motions as their first camera saw them, `[n, H, W, 3]`."""
        from model_zoo.cv_mim.drawing import draw_motions

        return draw_motions(first_view(examples.fields))

    def _views(self, features: dict[str, Tensor], batch: Batch) -> Views:
        frames = features["codes"].shape[1]
        weight = batch["weight"].repeat_interleave(frames)
        sizes = [self.sizes.pose_dim, self.sizes.view_codes]
        pose, view = torch.split(features["codes"].flatten(0, 1), sizes, dim=-1)
        poses = features["poses"].flatten(0, 1)
        alike_2d = alike_3d = None
        if self.sizes.max_mpjpe_2d is not None:
            alike_2d = _alike_2d(poses, self.sizes.max_mpjpe_2d)
        if "joints" in batch and self.sizes.max_mpjpe_3d is not None:
            alike_3d = _alike_3d(batch["joints"].flatten(0, 1), self.sizes.max_mpjpe_3d)
        prior = batch.get("prior")
        return Views(
            poses=poses,
            hidden=features["hidden"].flatten(0, 1),
            pose=pose,
            view=view,
            words=batch["words"].flatten(0, 1),
            weight=weight,
            alike_2d=alike_2d,
            alike_3d=alike_3d,
            prior=None if prior is None else prior.flatten(0, 1),
        )


def _alike_2d(poses: Tensor, threshold: float) -> Tensor:
    """Positive pairs within each view `[2, n, n]` of normalised poses `[n, 2, 26]`."""
    joints = torch.unflatten(poses.detach(), -1, (KEYPOINTS, 2)).transpose(0, 1)
    distances = mpjpe(joints[:, :, None], joints[:, None])
    return torch.stack([positive_pairs(each, threshold) for each in distances])


def _alike_3d(joints: Tensor, threshold: float) -> Tensor:
    """Positive pairs `[n, n]` of 3D poses `[n, 13, 3]`, after the best alignment."""
    return positive_pairs(aligned_mpjpe(joints[:, None], joints[None]), threshold)
