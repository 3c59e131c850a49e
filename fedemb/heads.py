"""Local heads: they turn features into the scalar loss of one local step.

A head is made fresh on every virtual client in every round and never leaves it. All
heads work under `torch.func` with padding: rows of weight 0 and classes beyond
`batch["classes"]` change neither the loss nor any gradient, in every corner case.
Features are `[B, D]`, or `[B, V, D]` where every row has V views.

Linear heads also take parameters, features and batches of many clients at once, with a
leading axis, and give the losses of all: in the many steps of a head, vectorising costs
more than the work.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.protocols import Batch, EmbeddingTask

NEVER = -1e9
"""A logit that cannot win; finite, so that neither gradients nor sums become NaN."""


class LinearHead(nn.Module):
    """A bias-free linear classifier with a softmax over the client's classes."""

    takes_many = True  # see `IdentityTask.takes_many`

    def __init__(self, dim: int, capacity: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(capacity, dim))

    def logits(self, features: Tensor) -> Tensor:
        """`[..., D]` -> `[..., capacity]`; of many clients' features if there are."""
        clients = self.weight.dim() - 2
        scores = self.scores(features.flatten(clients, -2))
        return torch.unflatten(scores, -2, features.shape[clients:-1])

    def scores(self, rows: Tensor) -> Tensor:
        """`[..., N, D]` -> `[..., N, capacity]`."""
        return rows @ self.weight.mT

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, mean over a client's rows that count and their views."""
        logits = _mask_classes(self.logits(features), batch["classes"])
        losses = _cross_entropy(logits, per_view(batch["label"], features))
        clients = batch["classes"].dim()
        return weighted_mean(losses, per_view(batch["weight"], features), clients)


class BiasedHead(LinearHead):
    """logits = e . w_k + b_k, with biases that start at 0."""

    def __init__(self, dim: int, capacity: int) -> None:
        super().__init__(dim, capacity)
        self.bias = nn.Parameter(torch.zeros(capacity))

    def scores(self, rows: Tensor) -> Tensor:
        """`[..., N, D]` -> `[..., N, capacity]`."""
        return super().scores(rows) + self.bias[..., None, :]


class CosineHead(LinearHead):
    """logits = s * (e . w_k / |w_k|), with a trained scale s that starts at 1."""

    def __init__(self, dim: int, capacity: int) -> None:
        super().__init__(dim, capacity)
        self.scale = nn.Parameter(torch.ones(()))

    def scores(self, rows: Tensor) -> Tensor:
        """`[..., N, D]` -> `[..., N, capacity]`."""
        return self.scale[..., None, None] * (rows @ unit_rows(self.weight).mT)


class ClassMeansHead(nn.Module):
    """Leave-one-out class means: a head without parameters.

    Every row is compared with the means of the client's classes, where the mean of its
    own class leaves the row itself out. A head that was fitted to the very rows it then
    classifies has little left to teach the backbone; this one cannot be.

    Where rows have several views, all views of a row are left out of its class mean; a
    row without another row of its class is compared with its own other views instead,
    and does not count if there are none.

    Args:
        capacity: classes at most.
        temperature: divides the cosine similarities.
    """

    def __init__(self, capacity: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.capacity, self.temperature = capacity, temperature

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of cosine similarities to class means."""
        views = features if features.dim() == 3 else features[:, None]
        label, weight = batch["label"], batch["weight"]
        of_class = one_hot(label, self.capacity, views.dtype)
        member = of_class * weight[:, None]
        unit = unit_rows(views)  # [B, V, D]
        own = unit.sum(1)
        sums = member.T @ own  # [capacity, D]
        counts = member.sum(0)  # [capacity]
        present = (weight > 0).to(weight)
        rows = (of_class * present[:, None]).sum(0)
        alone = (rows[label] - present < 0.5)[:, None, None]
        others = (sums[label] - own * weight[:, None])[:, None]
        others = torch.where(alone, own[:, None] - unit, others)
        similarity = unit @ unit_rows(sums).T  # [B, V, capacity]
        to_own = (unit * unit_rows(others)).sum(-1, keepdim=True)
        similarity = torch.where((member > 0)[:, None], to_own, similarity)
        logits = torch.where(counts > 0, similarity / self.temperature, NEVER)
        counted = per_view(weight, views)
        if views.shape[1] == 1:
            counted = torch.where(alone[..., 0], 0.0, counted)
        return weighted_mean(_cross_entropy(logits, per_view(label, views)), counted)


def head_shapes(task: EmbeddingTask, capacity: int) -> dict[str, torch.Size]:
    """Names and shapes of the parameters of a task's head for so many classes."""
    with torch.device("meta"):
        head = task.make_head(capacity)
    return {name: value.shape for name, value in head.named_parameters()}


def unit_rows(values: Tensor) -> Tensor:
    """Rows scaled to unit length; rows shorter than 1e-12 become zero.

    Gradients are finite everywhere, in float32 too.
    """
    squared = (values * values).sum(-1, keepdim=True)
    long = squared > 1e-24
    safe = torch.where(long, squared, 1.0)
    return values * torch.where(long, safe.rsqrt(), 0.0)


def weighted_mean(values: Tensor, weight: Tensor, clients: int = 0) -> Tensor:
    """Mean of `values` by `weight`, both `[B, ...]`; zero if no row counts.

    With an axis of clients before them (`clients` is 1), the mean of each, `[V]`.
    """
    total = (values * weight).flatten(clients).sum(-1)
    return total / weight.flatten(clients).sum(-1).clamp(min=1e-12)


def per_view(values: Tensor, features: Tensor) -> Tensor:
    """A row's value for each of its views: `[B, V]` of `[B]` if features have views."""
    if features.dim() == values.dim() + 1:
        return values
    return values[..., None].expand(features.shape[:-1])


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """`[...]` -> `[..., classes]`, without checks that `torch.func` cannot trace."""
    return (labels[..., None] == torch.arange(classes, device=labels.device)).to(dtype)


def _mask_classes(logits: Tensor, classes: Tensor) -> Tensor:
    most = classes.view(*classes.shape, *[1] * (logits.dim() - classes.dim()))
    valid = torch.arange(logits.shape[-1], device=logits.device) < most
    return torch.where(valid, logits, NEVER)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = one_hot(labels, logits.shape[-1], logits.dtype)
    return -(F.log_softmax(logits, dim=-1) * chosen).sum(-1)
