"""Training a stage centrally, without privacy: backbone and head by the same gradient.

For public data only. Every step takes the rows of a few users together and makes one
batch of them as a virtual client would.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from math import cos, isfinite, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedemb.cohort import Cohort
from fedemb.errors import UserError
from fedemb.local import LocalModel
from fedemb.protocols import EmbeddingTask
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.work import Work
from simulations.assembly import Assembly, client_key, inline_runner
from simulations.public_heads import lasting, of_classes

_DECAY = 1e-4
_WARM = 0.1  # of the steps, at the beginning; afterwards the rate falls to zero
_SHOWN = 10  # steps that the first and the last loss are the mean of, at most


@dataclass(frozen=True, kw_only=True)
class CentralTraining:
    """How public data are learned from.

    Attributes:
        steps: of all stages together.
        batch_users: whose rows a step takes.
        learning_rate: of AdamW, at its highest.
        seed: of batches and of whatever else is random.

    Raises:
        UserError: if a number is out of range.
    """

    steps: int
    batch_users: int
    learning_rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_users"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(
                f"learning_rate={self.learning_rate} must be positive and finite."
            )


@dataclass(frozen=True)
class Trained:
    """What came of a stage; its backbone was trained in place.

    Attributes:
        head: parameters by name, those for single classes included.
        losses: of every step.
    """

    head: dict[str, Tensor]
    losses: tuple[float, ...]

    @property
    def first(self) -> float:
        """The mean loss of the first steps."""
        return float(np.mean(self.losses[: self._shown]))

    @property
    def last(self) -> float:
        """The mean loss of the last steps."""
        return float(np.mean(self.losses[-self._shown :]))

    @property
    def _shown(self) -> int:
        return max(1, min(_SHOWN, len(self.losses) // 2))


def train_centrally(
    assembly: Assembly,
    stage: int,
    backbone: nn.Module,
    recipe: CentralTraining,
    steps: int,
    after_step: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a stage's backbone, in place, and a head for `steps` steps.

    The backbone's parameters are those that the stage trains, at its own scale of the
    learning rate; a batch has `local.batch_size` rows for as many users as a virtual
    client has.

    Raises:
        UserError: if there are fewer users than a batch takes, or the loss is not
            finite.
    """
    users = assembly.dataset.num_users
    if users < recipe.batch_users:
        raise UserError(
            f"batch_users={recipe.batch_users} must be at most {users}, which is all "
            "that the data have; give fewer --batch-users or other data."
        )
    runner = _runner(assembly, stage, backbone, recipe)
    task, device = runner.task, runner.device
    backbone = backbone.to(device).train().requires_grad_(False)
    named = dict(backbone.named_parameters())
    trained = [named[name].requires_grad_() for name in runner.layout.names]
    head = _head(task, device, recipe.seed)
    rate = recipe.learning_rate
    scaled = rate * assembly.stages[stage].learning_rate_scale
    groups: list[dict[str, Any]] = [
        {"params": trained, "lr": scaled},
        {"params": [*head.values()]},
    ]
    optimizer = torch.optim.AdamW(groups, rate, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _rate(n, steps))
    draw = np.random.default_rng([recipe.seed, stage])
    model = LocalModel(task, backbone, nn.Identity(), runner.precision)
    losses = []
    for step in range(steps):
        chosen = draw.choice(users, recipe.batch_users, replace=False)
        whole = Cohort(np.array([step]), chosen, np.array([len(chosen)]))
        loss = _loss(model, runner.work(whole, step).to(device), head)
        losses.append(float(loss.detach()))
        if not isfinite(losses[-1]):
            raise UserError(
                f"the loss of step {step + 1} in stage "
                f"{assembly.stages[stage].name!r} is {losses[-1]}; use a lower "
                f"--learning-rate than {recipe.learning_rate}."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        after_step()
    backbone.requires_grad_(False)
    return Trained({k: v.detach().cpu() for k, v in head.items()}, tuple(losses))


def _runner(
    assembly: Assembly, stage: int, backbone: nn.Module, recipe: CentralTraining
) -> InlineRunner:
    """Makes the batches: one virtual client of all users of a step, one step of it."""
    own = client_key(RootKey.from_seed(recipe.seed), stage)
    made = inline_runner(assembly, stage, backbone, own, EngineChoice())
    together = assembly.configuration.privacy.users_per_virtual_client or 1
    rows = -(-made.recipe.batch_size * recipe.batch_users // together)
    once = replace(
        made.recipe, steps=1, batch_size=rows, head_steps=None, head_init="fresh"
    )
    return replace(made, recipe=once, task=_over_all_classes(made.task))


def _over_all_classes(task: EmbeddingTask) -> EmbeddingTask:
    """The task in the data set's label space, if its head has rows for classes.

    Public users have no classes of their own to protect, and a row that is made anew in
    every step learns nothing.
    """
    if task.label_space == "global" or not of_classes(task):
        return task
    if is_dataclass(task) and "label_space" in {f.name for f in fields(task)}:
        return replace(task, label_space="global")
    return task


def _head(
    task: EmbeddingTask, device: torch.device, seed: int
) -> dict[str, nn.Parameter]:
    """A new head, but for rows of a client's own classes."""
    template = task.make_head(task.num_classes)
    generator = torch.Generator().manual_seed(seed)
    values = task.fresh_head(template, task.num_classes, generator)
    return {
        name: nn.Parameter(values[name].detach().clone().to(device, torch.float32))
        for name in lasting(task)
    }


def _loss(model: LocalModel, work: Work, head: dict[str, nn.Parameter]) -> Tensor:
    """The loss of the only client of `work`."""
    if work.rows.numel() == 0:
        raise UserError(
            "the users of a step own no rows at all; give more --batch-users or other "
            "data."
        )
    model.head = work.head.to(work.device)
    fresh = {name: values[0] for name, values in work.heads.items()}
    values = {f"head.{name}": value for name, value in {**fresh, **head}.items()}
    loss: Tensor = functional_call(model, values, (work.one(0, 0),))
    return loss


def _rate(step: int, steps: int) -> float:
    """The learning rate as a share of its highest: up in a line, down in a cosine.

    Example:
        >>> [round(_rate(step, 20), 2) for step in (0, 1, 2, 10, 19)]
        [0.5, 0.99, 0.98, 0.5, 0.01]
    """
    warm = max(1, round(_WARM * steps))
    return min(1.0, (step + 1) / warm) * (1 + cos(pi * step / steps)) / 2
