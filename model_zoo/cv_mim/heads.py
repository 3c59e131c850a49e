"""The local side of CV-MIM: networks that stay on the virtual client, and the losses.

Three objectives are trained at once, as with three optimizers in one step: the
encoder's and sub-encoder's, the likelihood estimators' and the discriminator's. A head
returns their sum as one scalar whose gradient is, for every network, the gradient of
its own objective alone: an objective sees the codes it must not move as constants
(`detach`), and the networks it must not move as frozen ones (`estimators.frozen`). So a
factor of an objective is a rate of the network that it moves (`Sizes.critics_rate`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.heads import weighted_mean
from model_zoo.cv_mim import bounds
from model_zoo.cv_mim.encoder import Encoder, Trunk, he_normal_
from model_zoo.cv_mim.estimators import (
    Discriminator,
    LikelihoodEstimator,
    frozen,
    glorot_,
)
from model_zoo.cv_mim.sizes import Sizes


@dataclass(frozen=True)
class Views:
    """Two views of n poses; index 0 is the anchor, 1 the other view.

    Attributes:
        poses: normalised, `[n, 2, 26]`.
        hidden: activations of the encoder's first layer, `[n, 2, H]`.
        pose: pose codes `[n, 2, D]`.
        view: view codes `[n, 2, D']`; of width 0 where codes are not split.
        words: int64 `[n, 2]`, for dropout.
        weight: `[n]`; 0 is padding.
        alike_2d: positive pairs of either view, `[2, n, n]`, or None (the diagonal).
        alike_3d: positive pairs between the views, `[n, n]`, or None.
        prior: samples of the uniform prior, `[n, 2, E]`.
    """

    poses: Tensor
    hidden: Tensor
    pose: Tensor
    view: Tensor
    words: Tensor
    weight: Tensor
    alike_2d: Tensor | None = None
    alike_3d: Tensor | None = None
    prior: Tensor | None = None

    @property
    def codes(self) -> Tensor:
        """Both codes, `[n, 2, E]`."""
        return torch.cat([self.pose, self.view], dim=-1)

    def alike(self, side: int) -> Tensor | None:
        """Positive pairs within one view."""
        return None if self.alike_2d is None else self.alike_2d[side]


class MutualInformationHead(nn.Module):
    """Sub-encoder, and what the algorithm adds: the head of all but the autoencoder.

    The sub-encoder is the encoder's trunk once more with values of its own. It has no
    first layer: it reads what the encoder's first layer made.

    Args:
        sizes: of the model.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.subencoder = Trunk(
            sizes.hidden,
            sizes.summary_dim,
            blocks=sizes.blocks,
            dropout=sizes.dropout,
            first=1_000,
        )
        if sizes.algorithm == "disentangle":
            self.intra = LikelihoodEstimator(sizes.pose_dim, sizes.view_dim)
            self.inter = LikelihoodEstimator(sizes.view_dim, sizes.view_dim)
            hidden = (sizes.code_dim, sizes.code_dim // 2)
            self.discriminator = Discriminator(sizes.code_dim, hidden)

    def forward(self, views: Views) -> Tensor:
        """The sum of all terms."""
        return torch.stack(list(self.terms(views).values())).sum()

    def terms(self, views: Views) -> dict[str, Tensor]:
        """The weighted terms by name."""
        summary = self.subencoder(views.hidden, views.words)
        found = {}
        if self.sizes.representation_weight:
            kept = self._representation(views, summary)
            found["representation"] = self.sizes.representation_weight * kept
        if self.sizes.algorithm == "infomax":
            found["cross_view"] = self._cross_fused(views, summary)
            return found
        cross_view = bounds.fenchel_dual_loss(
            views.pose[:, 0], views.pose[:, 1], "jsd", views.alike_3d, views.weight
        )
        found["cross_view"] = 2 * self.sizes.view_weight * cross_view
        if self.sizes.algorithm == "disentangle":
            found |= self._prior(views)
            found |= self._disentangle(views)
        return found

    def _representation(self, views: Views, summary: Tensor) -> Tensor:
        """Codes keep what the sub-encoder sees of the input: both views."""
        losses = [
            bounds.fenchel_dual_loss(
                summary[:, side],
                self.fuse(views.pose[:, side], views.view[:, side]),
                "jsd",
                views.alike(side),
                views.weight,
            )
            for side in (0, 1)
        ]
        return losses[0] + losses[1]

    def _cross_fused(self, views: Views, summary: Tensor) -> Tensor:
        """A view is told by its own view code and the pose code of the other view."""
        losses = [
            bounds.fenchel_dual_loss(
                summary[:, side],
                self.fuse(views.pose[:, 1 - side], views.view[:, side]),
                "jsd",
                views.alike_3d,
                views.weight,
            )
            for side in (0, 1)
        ]
        return self.sizes.view_weight * (losses[0] + losses[1])

    def _prior(self, views: Views) -> dict[str, Tensor]:
        """Codes, squashed to (0, 1), look like draws from the uniform prior."""
        if self.sizes.prior_weight == 0 or views.prior is None:
            return {}
        fake = torch.sigmoid(views.codes)
        scores = frozen(self.discriminator, fake)
        real_side = self.discriminator.with_slopes(views.prior)
        fake_side = self.discriminator.with_slopes(fake.detach())
        fooling, telling = fake.new_zeros(()), fake.new_zeros(())
        for side in (0, 1):
            fooling = fooling + bounds.generator_loss(scores[:, side], views.weight)
            telling = telling + bounds.discriminator_loss(
                (real_side[0][:, side], real_side[1][:, side]),
                (fake_side[0][:, side], fake_side[1][:, side]),
                views.weight,
            )
        return {
            "prior": self.sizes.prior_weight * fooling,
            "discriminator": self.sizes.critics_rate * telling,
        }

    def _disentangle(self, views: Views) -> dict[str, Tensor]:
        """Pose and view code share nothing, nor do the view codes of two cameras."""
        if self.sizes.disentangle_weight == 0:
            return {}
        own, other = self.sizes.intra_weight, 2 * self.sizes.inter_weight
        pairs = (
            (self.intra, views.pose[:, 0], views.view[:, 0], views.alike(0), own),
            (self.intra, views.pose[:, 1], views.view[:, 1], views.alike(1), own),
            (self.inter, views.view[:, 0], views.view[:, 1], views.alike_3d, other),
        )
        shared, unlikely = views.pose.new_zeros(()), views.pose.new_zeros(())
        for estimator, x, y, alike, factor in pairs:
            if factor == 0:
                continue
            mean, logvar = frozen(estimator, x).chunk(2, dim=-1)
            bound = bounds.club(mean, logvar, y, alike, views.weight)
            shared = shared + factor * bound
            mean, logvar = estimator(x.detach()).chunk(2, dim=-1)
            likely = bounds.log_likelihood(mean, logvar, y.detach())
            unlikely = unlikely - factor * weighted_mean(likely, views.weight)
        weight = self.sizes.disentangle_weight
        return {
            "disentangle": weight * shared,
            "estimators": self.sizes.critics_rate * unlikely,
        }

    def fuse(self, pose: Tensor, view: Tensor) -> Tensor:
        """Pose and view code as one, `[..., D]` twice -> `[..., D or 2 D]`."""
        if self.sizes.algorithm == "align" or self.sizes.fusion == "cat":
            return torch.cat([pose, view], dim=-1)
        return pose * view if self.sizes.fusion == "poe" else 0.5 * (pose + view)


class ReconstructionHead(nn.Module):
    """A decoder: codes -> 2D pose, also from the pose code of the other view.

    Args:
        sizes: of the model.
        inputs: numbers of a pose.
    """

    def __init__(self, sizes: Sizes, inputs: int = 26) -> None:
        super().__init__()
        self.decoder = Encoder(
            sizes.code_dim,
            sizes.hidden,
            inputs,
            0,
            blocks=sizes.blocks,
            dropout=sizes.dropout,
        )

    def forward(self, views: Views) -> Tensor:
        """The sum of both terms."""
        return torch.stack(list(self.terms(views).values())).sum()

    def terms(self, views: Views) -> dict[str, Tensor]:
        """Squared errors with the own pose code, and with the other view's."""
        exchanged = torch.cat([views.pose.flip(1), views.view], dim=-1)
        return {
            "reconstruction": self._error(views, views.codes, 1),
            "cross_view": self._error(views, exchanged, 2),
        }

    def _error(self, views: Views, codes: Tensor, shift: int) -> Tensor:
        decoded = self.decoder.train_codes(codes, views.words + shift, None)["codes"]
        squared = F.mse_loss(decoded, views.poses, reduction="none").mean(-1).sum(-1)
        return weighted_mean(squared, views.weight)


def fresh_values(head: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """New values for a head, as published: He-normal, the estimators Glorot-uniform.

    Returns:
        The names and shapes of `head.named_parameters()`.
    """
    for part in head.children():
        if isinstance(part, Trunk | Encoder):
            he_normal_(part, generator)
        else:
            glorot_(part, generator)
    return {name: value.detach().clone() for name, value in head.named_parameters()}
