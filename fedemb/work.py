"""The local training of a few virtual clients, as tensors of fixed shape.

Which rows each local step reads is known before training starts. A batch, with padding
or without, is looked up here and nowhere else, so that what stands in padding is never
another client's row.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedemb.devices import sent, zero_rows
from fedemb.local import LocalTraining
from fedemb.protocols import Batch, Parameters


@dataclass(frozen=True)
class Work:
    """The local training of a few virtual clients, as tensors.

    What to read in which step is known before training starts. So `rows` stay in the
    host's memory when the others move to a graphics card: engines look at them without
    waiting for what the card has been given to do.

    Attributes:
        batch: rows of all clients, `[n, ...]` each.
        rows: int64 `[V, S, B]`, the rows of client v's step s; -1 is padding, and a
            step of only padding is no step. On the host, wherever the others are.
        classes: int64 `[V]`, valid classes of each client's head.
        capacity: outputs that `head` was made for.
        head: a head with room for the most classes of any client; a template.
        heads: initial parameters of that head, `[V, ...]` each.
        users: whose heads they are, `V` of them, if heads persist.
    """

    batch: Batch
    rows: Tensor
    classes: Tensor
    capacity: int
    head: nn.Module
    heads: Parameters
    users: tuple[int, ...] | None = None

    def to(self, device: torch.device) -> "Work":
        """The same work with batch, classes and heads on `device`."""
        return replace(
            self,
            batch={name: sent(values, device) for name, values in self.batch.items()},
            classes=sent(self.classes, device),
            heads={name: sent(values, device) for name, values in self.heads.items()},
        )

    @property
    def device(self) -> torch.device:
        """Where the clients are trained."""
        return self.classes.device

    @property
    def examples(self) -> int:
        """Rows read by all steps together."""
        return int((self.rows >= 0).sum())

    def steps(self) -> Iterator[int]:
        """The local steps, in order."""
        return iter(range(self.rows.shape[1]))

    def moves(self, recipe: LocalTraining) -> list[int]:
        """The local steps that move backbones, in order."""
        return [step for step in self.steps() if recipe.trains_backbone(step)]

    def at(self, step: int, fields: Collection[str] | None = None) -> Batch:
        """The batch of a step, `[V, B, ...]`, with `weight` and `classes`.

        With `fields`, only those of them that the batch has.
        """
        taken = {
            name: self.gather(values, step)
            for name, values in self.batch.items()
            if fields is None or name in fields or name == "weight"
        }
        weight = (self.rows[:, step] >= 0).to(_float_type(self.batch))
        taken["weight"] = taken.get("weight", 1) * sent(weight, self.device)
        taken["classes"] = self.classes
        return taken

    def gather(self, values: Tensor, step: int) -> Tensor:
        """What a step reads of `values` `[n, ...]`, one row each: `[V, B, ...]`.

        Padding holds a row of its own client, or zeros if the client has none. A weight
        of 0 does not stop NaN, so a row of another client must never stand there.
        """
        rows = self.rows[:, step]
        if bool((rows >= 0).all()):
            return values[sent(rows, values.device)]
        spare = torch.where(rows[:, :1] >= 0, rows[:, :1], self.rows[:, 0, :1])
        rows = torch.where(rows >= 0, rows, spare)
        found = values[sent(rows.clamp(min=0), values.device)]
        zero_rows([found], (rows < 0).any(dim=1))
        return found

    def active(self, step: int) -> Tensor:
        """Which clients have rows in a step, bool `[V]`; the others stand still.

        On the host.
        """
        return (self.rows[:, step] >= 0).any(dim=1)

    def of(self, client: int) -> Iterator[Batch]:
        """The batches of one client, without padding, `[b, ...]`."""
        for step in self.steps():
            batch = self.one(client, step)
            if len(batch["weight"]):
                yield batch

    def one(self, client: int, step: int) -> Batch:
        """What one client reads in a step, without padding, `[b, ...]`."""
        rows = self.rows[client, step]
        rows = sent(rows[rows >= 0], self.device)
        taken = {name: values[rows] for name, values in self.batch.items()}
        ones = torch.ones(len(rows), dtype=_float_type(taken), device=rows.device)
        taken.setdefault("weight", ones)
        taken["classes"] = self.classes[client]
        return taken

    def clients(self, own: slice) -> "Work":
        """The work of some of the clients; rows of the others stay, unread."""
        heads = {name: values[own] for name, values in self.heads.items()}
        users = None if self.users is None else self.users[own]
        return replace(
            self,
            rows=self.rows[own],
            classes=self.classes[own],
            heads=heads,
            users=users,
        )

    def with_fitted(self, heads: Parameters, steps: int) -> "Work":
        """What is left to do once the first `steps`, head-only ones, left `heads`."""
        return replace(self, rows=self.rows[:, steps:], heads=heads)

    def filled_up(self, clients: int) -> "Work":
        """The same work for `clients` in all; those behind the others have no rows."""
        more = clients - len(self.rows)
        if more == 0:
            return self
        none = self.rows.new_full((more, *self.rows.shape[1:]), -1)
        heads = {
            name: torch.cat([values, values.new_zeros(more, *values.shape[1:])])
            for name, values in self.heads.items()
        }
        return replace(
            self,
            rows=torch.cat([self.rows, none]),
            classes=torch.cat([self.classes, self.classes.new_ones(more)]),
            heads=heads,
        )


def _float_type(batch: Batch) -> torch.dtype:
    floats = (v.dtype for v in batch.values() if v.is_floating_point())
    return next(floats, torch.float32)
