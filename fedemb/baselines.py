"""DP-FedAvg as a task: the classifier is aggregated together with the backbone.

The baseline that DP-FedEmb is compared with (McMahan et al. 2018, arXiv:1710.06963).
The head is moved into the backbone, in the data set's label space, so that clipping,
noise and partial aggregation cover it without a line of their own.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.heads import one_hot, per_view, weighted_mean
from fedemb.protocols import Batch, EmbeddingTask, Features, Parameters


@dataclass(frozen=True)
class AggregatedHeadTask:
    """`task` with its head aggregated; the local head that is left has no parameters.

    Raises:
        UserError: if the task's head has no parameters to aggregate.
    """

    task: EmbeddingTask

    def __post_init__(self) -> None:
        if self.task.label_space != "global":
            raise UserError(
                "DP-FedAvg aggregates a head over the data set's classes: use it with "
                "--set model.label_space=global and --set model.head=linear."
            )
        if not any(True for _ in self.task.make_head(2).parameters()):
            raise UserError(
                "DP-FedAvg needs a head with parameters: use --set model.head=linear "
                "(and --set model.label_space=global)."
            )

    @property
    def name(self) -> str:
        """The task's name, with the baseline's."""
        return f"{self.task.name} (DP-FedAvg)"

    @property
    def label_space(self) -> str:
        """Always the data set's."""
        return "global"

    @property
    def num_classes(self) -> int:
        """Size of the data set's label space."""
        return self.task.num_classes

    def make_backbone(self) -> nn.Module:
        """Backbone and head in one module."""
        backbone = self.task.make_backbone()
        head = self.task.make_head(self.num_classes)
        seed = int(torch.randint(2**62, (1,)))
        generator = torch.Generator().manual_seed(seed)
        fresh = self.task.fresh_head(head, self.num_classes, generator)
        head.load_state_dict(dict(fresh), strict=False)
        return _Joined(backbone, head)

    def make_head(self, capacity: int) -> nn.Module:
        """Nothing is left to the client."""
        del capacity
        return nn.Identity()

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """No parameters."""
        del head, classes, generator
        return {}

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """As the task does."""
        return self.task.prepare(examples, seeds)

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Log-probabilities `[B, ..., K]` of the classes under the aggregated head."""
        joined = cast(_Joined, backbone)
        features = cast(Tensor, self.task.features(joined.backbone, batch))
        logits: Tensor = joined.head.logits(features)  # type: ignore[operator]
        return nn.functional.log_softmax(logits, dim=-1)

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Cross-entropy, mean over the rows that count and their views."""
        del head
        scores = cast(Tensor, features)
        label = per_view(batch["label"], scores)
        chosen = one_hot(label, scores.shape[-1], scores.dtype)
        weight = per_view(batch["weight"], scores)
        return weighted_mean(-(scores * chosen).sum(-1), weight)

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Embeddings of the backbone, without the head."""
        return self.task.embed(cast(_Joined, backbone).backbone, batch)

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Metrics of the backbone, without the head."""
        return self.task.evaluate(cast(_Joined, backbone).backbone, examples)


class _Joined(nn.Module):
    """A backbone with its head; only its parts are ever called."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
