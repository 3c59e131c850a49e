"""Local training of one virtual client: the recipe, and the model that it trains."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.engines.rows import of_each
from fedemb.errors import UserError
from fedemb.protocols import Batch, EmbeddingTask, Features

HEAD_INITS = ("fresh", "public", "persistent")


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """The recipe of one virtual client's local training.

    In *joint* mode (`head_steps=None`) every step moves backbone and head by the same
    gradient. Otherwise the first `head_steps` steps fit the head alone (private local
    fine-tuning) and the following steps move the backbone alone.

    Attributes:
        learning_rate: of the local backbone SGD.
        momentum: of both local SGDs; buffers are new in every round.
        batch_size: rows per step.
        epochs: passes over the client's rows, each in a new order.
        max_examples: rows read by all steps together, at most; None has no limit.
        steps: number of local steps of every client; overrides epochs and
            max_examples, repeating the rows as often as needed.
        head_steps: steps that fit the head alone; None is joint mode.
        head_lr_scale: the head's learning rate is `learning_rate * head_lr_scale`.
        head_init: `fresh` draws a head anew for every virtual client and round;
            `public` takes the same public constants for all of them: values learned
            from public data where there are some, others drawn from a public seed;
            `persistent` begins like that and goes on, in later rounds, from the head
            that the user's last round left (`fedemb.persistent_heads`).

    Raises:
        UserError: if a number is out of range.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    batch_size: int = 16
    epochs: int = 1
    max_examples: int | None = None
    steps: int | None = None
    head_steps: int | None = None
    head_lr_scale: float = 1.0
    head_init: str = "fresh"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "head_lr_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)} must be positive.")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum={self.momentum} must be in [0, 1).")
        for name in ("batch_size", "epochs", "max_examples", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1.")
        if self.head_steps is not None and self.head_steps < 0:
            raise UserError(f"head_steps={self.head_steps} must not be negative.")
        if self.head_init not in HEAD_INITS:
            raise UserError(
                f"head_init={self.head_init!r} must be one of {', '.join(HEAD_INITS)}."
            )
        if self.head_init == "persistent" and not self.head_steps:
            raise UserError(
                f"head_init='persistent' with head_steps={self.head_steps}: what "
                "persists is the head that head-only steps have fitted; give "
                "--set local.head_steps=4, with more local.steps than that."
            )

    def trains_head(self, step: int) -> bool:
        """Whether a local step moves the head."""
        return self.head_steps is None or step < self.head_steps

    def trains_backbone(self, step: int) -> bool:
        """Whether a local step moves the backbone."""
        return self.head_steps is None or step >= self.head_steps

    def reads(self, size: int) -> int:
        """How many rows the steps of a client with `size` rows read in all."""
        if size == 0:
            return 0
        if self.steps is not None:
            # Full batches where there are enough rows; whole passes where there are
            # not.
            return self.steps * min(self.batch_size, size)
        limit = size * self.epochs
        return limit if self.max_examples is None else min(limit, self.max_examples)


class LocalModel(nn.Module):
    """A backbone with a head: a batch in, the scalar loss of one local step out.

    Attributes:
        precision: what the backbone's products are rounded to, such as bfloat16; None
            rounds to the type of its weights. Weights, heads, losses, updates and their
            clipping are not rounded.
        recorded: whether steps are recorded and replayed as CUDA graphs, and for how
            many virtual clients together; 0 records nothing.
        scratch: what an engine keeps from one call to the next.
    """

    recorded: int = 0
    scratch: object = None

    def __init__(
        self,
        task: EmbeddingTask,
        backbone: nn.Module,
        head: nn.Module,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.task, self.backbone, self.head = task, backbone, head
        self.precision = precision

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch `[B, ...]`."""
        features = self.features(self.backbone, batch)
        return self.task.loss(self.head, features, batch)

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Features of a batch by a copy of the backbone."""
        if self.precision is None:
            return self.task.features(backbone, batch)
        device = next(iter(batch.values())).device
        with torch.autocast(device.type, self.precision):
            found = self.task.features(backbone, batch)
        return of_each(found, lambda v: v.float() if v.is_floating_point() else v)
