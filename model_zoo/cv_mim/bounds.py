"""Bounds of mutual information from pairs of a batch, and the adversarial losses.

Scores are `[n, n]`: row i of one variable against row j of the other. A pair (i, j) is
*positive* if `positive[i, j]` is 1 (the diagonal, unless poses that resemble each other
count too) and negative otherwise; it counts with `weight[i] * weight[j]`, so padding
rows change nothing. Every row is of one virtual client: negatives are its own.

Nowozin et al. (2016), f-GAN, arXiv:1606.00709; Hjelm et al. (2019), Deep InfoMax,
arXiv:1808.06670; van den Oord et al. (2018), CPC, arXiv:1807.03748; Cheng et al.
(2020), CLUB, arXiv:2006.12013; Mescheder et al. (2018), arXiv:1801.04406.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from fedemb.heads import NEVER, weighted_mean

_LOG2 = math.log(2.0)

Part = Callable[[Tensor], Tensor]

POSITIVE_PART: Mapping[str, Part] = MappingProxyType(
    {
        "gan": lambda s: -F.softplus(-s),
        "jsd": lambda s: _LOG2 - F.softplus(-s),
        "kl": lambda s: s,
        "rkl": lambda s: -torch.exp(-s),
        "h2": lambda s: 1 - torch.exp(-s),
        "w1": lambda s: s,
    }
)
"""What a divergence earns on positive pairs, by its name; elementwise."""

NEGATIVE_PART: Mapping[str, Part] = MappingProxyType(
    {
        "gan": F.softplus,  # softplus(-s) + s
        "jsd": lambda s: F.softplus(s) - _LOG2,
        "kl": lambda s: torch.exp(s - 1),
        "rkl": lambda s: s - 1,
        "h2": lambda s: torch.exp(s) - 1,
        "w1": lambda s: s,
    }
)
"""What it pays on negative pairs."""


def fenchel_dual_loss(
    first: Tensor,
    second: Tensor,
    measure: str = "jsd",
    positive: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Minus a lower bound of a divergence between the joint and the marginals.

    With `jsd` the loss lies in [-2 log 2, inf) and is 0 where the critic says nothing.

    Args:
        first: `[n, d]`, or `[n, k, d]` with k parts that are averaged.
        second: as `first`.
        measure: `jsd`, `gan`, `kl`, `rkl`, `h2` or `w1`.
        positive: `[n, n]`; None is the diagonal.
        weight: `[n]`; None counts every row once.

    Example:
        >>> parts = torch.tensor([[[1., 1], [0, 1]], [[1, 0], [1, 1]]])
        >>> fenchel_dual_loss(parts, parts, "w1").item()
        -0.25
    """
    if first.dim() == 2:
        scores = first @ second.T
        earned, paid = POSITIVE_PART[measure](scores), NEGATIVE_PART[measure](scores)
    else:
        parts = torch.einsum("ikd,jld->ijkl", first, second)
        earned = POSITIVE_PART[measure](parts).mean((2, 3))
        paid = NEGATIVE_PART[measure](parts).mean((2, 3))
    positive, negative = _pairs(len(first), positive, weight, earned)
    return weighted_mean(paid, negative) - weighted_mean(earned, positive)


def info_nce_loss(
    first: Tensor,
    second: Tensor,
    temperature: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of finding a row's partner among all partners.

    Args:
        first: `[n, d]`.
        second: `[n, d]`; row i belongs to row i of `first`.
        temperature: divides the scores.
        weight: `[n]`; None counts every row once, and rows of weight 0 are neither
            queries nor partners of others.

    Example:
        >>> rows = torch.eye(2)
        >>> round(float(info_nce_loss(rows, rows)), 4)
        0.3133
        >>> abs(float(info_nce_loss(rows, rows, weight=torch.tensor([1.0, 0.0]))))
        0.0
    """
    scores = first @ second.T / temperature
    weight = scores.new_ones(len(scores)) if weight is None else weight
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    possible = own | (weight > 0)
    logits = torch.where(possible, scores, NEVER)
    chosen = (F.log_softmax(logits, dim=1) * own).sum(1)
    return -weighted_mean(chosen, weight)


def log_likelihood(mean: Tensor, logvar: Tensor, values: Tensor) -> Tensor:
    """Gaussian log-likelihood, averaged over dimensions, `[..., d]` -> `[...]`.

    The constant log(2 pi) / 2 is left out.
    """
    squared = (mean - values) ** 2
    return (-squared * torch.exp(-logvar) / 2 - logvar / 2).mean(-1)


def club(
    mean: Tensor,
    logvar: Tensor,
    values: Tensor,
    positive: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Contrastive log-ratio upper bound of mutual information, at least 0.

    `mean` and `logvar` say what q(y | x_i) is; `values` are the y_j.

    Args:
        mean: `[n, d]`.
        logvar: `[n, d]`.
        values: `[n, d]`.
        positive: `[n, n]`; None is the diagonal.
        weight: `[n]`; None counts every row once.

    Example:
        >>> y = torch.tensor([[1.0], [-1.0]])
        >>> club(y, torch.zeros_like(y), y).item()  # y is known from x
        2.0
        >>> club(-y, torch.zeros_like(y), y).item()  # clipped: information is never < 0
        0.0
    """
    # log_likelihood of every pair, multiplied out so that no [n, n, d] is formed
    precision = torch.exp(-logvar)
    constant = (mean * mean * precision + logvar).sum(-1, keepdim=True)
    cross = precision @ (values * values).T - 2 * (mean * precision) @ values.T
    likely = -(constant + cross) / (2 * values.shape[-1])
    positive, negative = _pairs(len(values), positive, weight, likely)
    bound = weighted_mean(likely, positive) - weighted_mean(likely, negative)
    return bound.clamp(min=0.0)


def generator_loss(
    scores: Tensor, weight: Tensor | None = None, *, saturating: bool = False
) -> Tensor:
    """What the embedding pays for being told apart from the prior.

    Args:
        scores: of the discriminator on embeddings, `[n]`.
        weight: `[n]`; None counts every row once.
        saturating: the minimax form; else the non-saturating one.
    """
    paid = NEGATIVE_PART["gan"](scores) if saturating else -POSITIVE_PART["gan"](scores)
    return weighted_mean(paid, torch.ones_like(paid) if weight is None else weight)


def discriminator_loss(
    real: tuple[Tensor, Tensor],
    fake: tuple[Tensor, Tensor],
    weight: Tensor | None = None,
) -> Tensor:
    """What the discriminator pays for errors, and for slopes at both kinds of rows.

    Args:
        real: scores `[n]` and their gradients `[n, d]` by the input, on prior samples.
        fake: the same on embeddings.
        weight: `[n]`; None counts every row once.
    """
    if weight is None:
        weight = torch.ones_like(real[0])
    earned = weighted_mean(POSITIVE_PART["gan"](real[0]), weight)
    paid = weighted_mean(NEGATIVE_PART["gan"](fake[0]), weight)
    slopes = gradient_penalty(real[1], weight) + gradient_penalty(fake[1], weight)
    return 0.5 * (paid - earned + slopes)


def gradient_penalty(gradients: Tensor, weight: Tensor) -> Tensor:
    """Mean squared length of gradients `[n, d]`, by `weight` `[n]`."""
    return weighted_mean((gradients**2).sum(-1), weight)


def positive_pairs(distances: Tensor, threshold: float) -> Tensor:
    """1 where the distance, averaged over both directions, is at most `threshold`.

    Args:
        distances: `[n, n]` or `[n, m, n]`, from each anchor to each match.
        threshold: in the units of the distances.

    Example:
        >>> positive_pairs(torch.tensor([[0.0, 0.3], [0.1, 0.0]]), 0.2)
        tensor([[1., 1.],
                [1., 1.]])
    """
    back = distances.permute(*reversed(range(distances.dim())))
    return ((distances + back) / 2 <= threshold).to(distances.dtype)


def _pairs(
    n: int, positive: Tensor | None, weight: Tensor | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights `[n, n]` of positive and negative pairs."""
    if positive is None:
        positive = torch.eye(n, dtype=like.dtype, device=like.device)
    if weight is None:
        return positive, 1 - positive
    both = weight[:, None] * weight[None, :]
    return positive * both, (1 - positive) * both
