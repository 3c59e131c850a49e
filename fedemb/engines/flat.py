"""The fast engines for several local steps: flat buffers and plain autograd.

The flat engine trains clients one at a time, with the backbone's own layers. Where
every trained layer has a form with weights of several clients (`fedemb.engines.forms`),
a few can be trained at a time, which is faster for small backbones, whose layers are
too cheap to call once per client: the stacked engine multiplies matrices, the grouped
engine convolves in groups.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fedemb.engines import recorded
from fedemb.engines.buffers import Stack
from fedemb.engines.forms import Form
from fedemb.engines.grouped import GROUPED
from fedemb.engines.heads import concatenated, features_by_row, fit_heads, head_loss
from fedemb.engines.lockstep import Lockstep, alone
from fedemb.engines.stacked import STACKED
from fedemb.local import LocalModel, LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.work import Work

FORMS = {"stacked": STACKED, "grouped": GROUPED}


def flat_deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    Heads are fitted together, backbones are trained one after another. A single
    backbone step uses the very features that its heads were fitted to.
    """
    moves = work.moves(recipe)
    if recipe.head_steps and len(moves) == 1:
        return _after_heads(model, layout, theta, work, recipe, moves[0])
    return _deltas(model, layout, theta, work, recipe, None, together=1)


def deltas_in_form(
    name: str,
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    All are trained together, in the form of that name.

    Raises:
        ValueError: if the backbone has trained layers without that form.
    """
    form = FORMS[name]
    if not form.takes(model.backbone, layout):
        raise ValueError(
            f"a trained layer of this backbone has no {name} form; use --engine flat."
        )
    clients = len(work.rows)
    if model.recorded:  # so that one recording serves every chunk
        work = work.filled_up(max(clients, model.recorded))
    together = len(work.rows)
    return _deltas(model, layout, theta, work, recipe, form, together)[:clients]


stacked_deltas = partial(deltas_in_form, "stacked")
grouped_deltas = partial(deltas_in_form, "grouped")


def _deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    form: Form | None,
    together: int,
) -> Tensor:
    clients = len(work.rows)
    heads = fit_heads(model, layout, theta, work, recipe)
    kept = _kept(model, layout, theta, together, form)
    stack, lockstep = kept.stack, kept.lockstep(model, work, recipe)
    moves = work.moves(recipe)
    if len(moves) == 1:
        stack.reset(theta)  # once: nothing moves
    deltas = theta.new_empty(clients, layout.size)
    for start in range(0, clients, together):
        own = slice(start, start + together)
        part = work if together == clients else work.clients(own)
        fitted = {name: values[own] for name, values in heads.items()}
        if len(moves) == 1:
            stack.velocity.zero_()
            lockstep.gather(part, fitted, moves[0])
            stack.deltas_of_one_step(recipe, out=deltas[own])
            continue
        stack.reset(theta)
        lockstep.train(part, fitted, recipe)
        stack.deltas(theta, out=deltas[own])
    return deltas


def _after_heads(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    step: int,
) -> Tensor:
    """Forward passes of all clients, their heads, then their backward passes."""
    stack = _kept(model, layout, theta, 1, None).stack
    stack.reset(theta)
    deltas = theta.new_zeros(len(work.rows), layout.size)
    clients = torch.nonzero(work.active(step)).flatten().tolist()
    batches = [alone(work, client, step) for client in clients]
    features = [model.features(stack.module, batch) for batch in batches]
    read = [work.rows[client, step] for client in clients]
    rows = torch.cat([own[own >= 0] for own in read]) if read else None
    known = (
        None
        if rows is None
        else features_by_row(work, concatenated(features), rows, recipe)
    )
    heads = fit_heads(model, layout, theta, work, recipe, known)
    for client, batch, own in zip(clients, batches, features, strict=True):
        head = {name: values[client] for name, values in heads.items()}
        stack.velocity.zero_()
        loss = head_loss(model, head, own, batch)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        # The weights stay: graphs of the clients to come were built with them.
        stack.deltas_of_one_step(recipe, out=deltas[client : client + 1])
    return deltas


def replays(model: LocalModel) -> int:
    """How many steps of this model were replayed from recordings that it still has."""
    kept = model.scratch
    own = kept.locksteps.values() if isinstance(kept, _Kept) else ()
    return sum(lockstep.replays for lockstep in own)


@dataclass
class _Kept:
    """What a model keeps from chunk to chunk.

    Attributes:
        stack: buffers of as many backbones as were trained together last.
        graphs: what records steps on them; None records nothing.
        locksteps: with recordings that use them, by the capacity of their heads.
    """

    stack: Stack
    graphs: recorded.CudaGraphs | None
    locksteps: dict[int, Lockstep] = field(default_factory=dict)

    def lockstep(
        self, model: LocalModel, work: Work, recipe: LocalTraining
    ) -> Lockstep:
        """Steps on the stack; those that were recorded are taken up again."""
        known = self.locksteps.get(work.capacity)
        if known is not None:
            return known
        own = {
            name: values[: self.stack.clients] for name, values in work.heads.items()
        }
        joint = recipe.head_steps is None
        made = Lockstep(self.stack, model, own, joint, self.graphs)
        if self.graphs is not None:
            self.locksteps[work.capacity] = made
        return made


def _kept(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    clients: int,
    form: Form | None,
) -> _Kept:
    """What this model used last, or anew if that does not fit."""
    form = form if clients > 1 else None  # a single client has the backbone's layers
    kept = model.scratch
    if not isinstance(kept, _Kept) or not kept.stack.fits(theta, clients, form):
        stack = Stack(model.backbone, layout, theta, clients, form)
        kept = _Kept(stack, recorded.CudaGraphs() if model.recorded else None)
        model.scratch = kept
    return kept
