"""The local steps of a few virtual clients that are trained together."""

import torch

from fedemb.engines.buffers import Stack, trained_by
from fedemb.engines.heads import head_loss, losses_of, step_by
from fedemb.engines.recorded import CudaGraphs, Recorded
from fedemb.engines.rows import channels_last
from fedemb.local import LocalModel, LocalTraining
from fedemb.protocols import Batch, Parameters
from fedemb.work import Work


class Lockstep:
    """Backbones and heads of a few virtual clients, stepping together.

    Weights and velocities lie where they are as long as this lives, so that the passes
    of a step can be recorded.

    Args:
        stack: the backbones.
        model: whose task and head.
        heads: parameters of as many heads, `[V, ...]`; only their shapes matter.
        joint: whether heads move as well.
        graphs: what records steps; None records nothing.
    """

    def __init__(
        self,
        stack: Stack,
        model: LocalModel,
        heads: Parameters,
        joint: bool,
        graphs: CudaGraphs | None = None,
    ) -> None:
        self._stack, self._joint = stack, joint
        self._values = {k: torch.empty_like(value) for k, value in heads.items()}
        self._velocity = {k: torch.empty_like(value) for k, value in heads.items()}
        self._leaves = {
            name: trained_by(value, self._velocity[name]) if joint else value
            for name, value in self._values.items()
        }
        # Of its own: `model` gets another head with every chunk.
        self._model = LocalModel(
            model.task, model.backbone, model.head, model.precision
        )
        self._passes = Recorded(self._add_gradients, graphs) if graphs else None

    @property
    def replays(self) -> int:
        """Steps that were replayed from recordings."""
        return 0 if self._passes is None else self._passes.replays

    def train(self, work: Work, heads: Parameters, recipe: LocalTraining) -> None:
        """Take the steps of `work` that move the backbones, from `heads`."""
        self._take(heads)
        rate = recipe.learning_rate * recipe.head_lr_scale
        for number, step in enumerate(work.moves(recipe)):
            active = work.active(step)
            if not bool(active.any()):  # all rows were read: no later step has any
                return
            if number > 0:  # before the first step all velocities are zero
                self._stack.velocity.mul_(recipe.momentum)
                for buffer in self._velocity.values():
                    buffer.mul_(recipe.momentum)
            self._pass(work, step)
            self._stack.stop(active)
            self._stack.step(recipe)
            if self._joint:
                for name, value in self._values.items():
                    step_by(value, self._velocity[name], rate, active)

    def gather(self, work: Work, heads: Parameters, step: int) -> None:
        """Leave the gradients of a single step in the velocities, and all else alone.

        Where no other step follows, nothing has to move to know by how much it would.
        """
        self._take(heads)
        active = work.active(step)
        if bool(active.any()):
            self._pass(work, step)
            self._stack.stop(active)

    def _take(self, heads: Parameters) -> None:
        for name, value in heads.items():
            self._values[name].copy_(value)
            self._velocity[name].zero_()

    def _pass(self, work: Work, step: int) -> None:
        passes = self._passes or self._add_gradients
        passes(work.at(step) if self._stack.form else alone(work, 0, step))

    def _add_gradients(self, batch: Batch) -> None:
        """Add the gradients of all clients' losses to their velocities."""
        stack, model = self._stack, self._model
        if stack.form is None:
            features = model.features(stack.module, batch)
            head = {name: value[0] for name, value in self._leaves.items()}
            loss = head_loss(model, head, features, batch)
        else:
            features = model.features(stack.module, stack.form.as_one_batch(batch))
            own = stack.form.by_client(features, stack.clients)
            loss = losses_of(model)(self._leaves, own, batch).sum()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]


def alone(work: Work, client: int, step: int) -> Batch:
    """What one client reads in a step, as convolutions like it."""
    batch = work.one(client, step)
    return {name: channels_last(values) for name, values in batch.items()}
