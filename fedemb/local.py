"""Local training of virtual clients: the recipe, and the work it makes of their data.

`make_work` turns the rows of a few virtual clients into tensors of fixed shape: which
rows each local step reads, the local labels and the fresh heads. Everything random in
it comes from one seed per virtual client, so a client's work does not depend on who is
trained beside it, on which worker, or by which engine.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.devices import sent, zero_rows
from fedemb.engines.rows import of_each
from fedemb.errors import UserError
from fedemb.protocols import Batch, EmbeddingTask, Features, Parameters

HEAD_INITS = ("fresh", "public", "persistent")
_PUBLIC_SEED = np.uint64(0)


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


def make_work(
    task: EmbeddingTask,
    recipe: LocalTraining,
    examples: Examples,
    seeds: NDArray[np.uint64],
    dtype: torch.dtype = torch.float32,
    public_head: Parameters | None = None,
) -> Work:
    """The work of virtual clients whose rows are the groups of `examples`.

    Args:
        task: what is trained.
        recipe: how.
        examples: one group per virtual client.
        seeds: `[clients]`, all a client's randomness.
        dtype: of floating-point rows.
        public_head: constants that parameters of these names start from, if heads are
            public; the shapes must not depend on a client's classes.
    """
    rows = schedule(recipe, examples.sizes, seeds)
    rows += (rows >= 0) * examples.offsets[:-1, None, None]
    labels, classes, capacity = _labels(task, examples)
    if labels is not None:
        examples = replace(examples, fields={**examples.fields, "label": labels})
    examples, rows = _only_read(examples, rows)
    batch = {
        name: values.to(dtype) if values.is_floating_point() else values
        for name, values in task.prepare(examples, seeds).items()
    }
    template = task.make_head(capacity)
    return Work(
        batch=batch,
        rows=torch.from_numpy(rows),
        classes=torch.from_numpy(classes),
        capacity=capacity,
        head=template,
        heads=_fresh_heads(
            task,
            template,
            classes,
            seeds if recipe.head_init == "fresh" else np.full_like(seeds, _PUBLIC_SEED),
            dtype,
            {} if recipe.head_init == "fresh" else (public_head or {}),
        ),
    )


def schedule(
    recipe: LocalTraining, sizes: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Rows of every step, int64 `[V, S, B]`, counted from the client's first row.

    shuffle, repeat, take, batch: the rows come in a new order in every pass, and a
    batch may straddle two passes.
    """
    reads = [recipe.reads(int(size)) for size in sizes]
    widths = [min(recipe.batch_size, r) for r in reads]
    if recipe.steps is not None:
        widths = [min(recipe.batch_size, int(size)) for size in sizes]
    steps = [-(-r // w) if w else 0 for r, w in zip(reads, widths, strict=True)]
    out = np.full(
        (len(sizes), max(steps, default=0), max(widths, default=0)), -1, np.int64
    )
    for v, (size, read, width) in enumerate(zip(sizes, reads, widths, strict=True)):
        if read == 0:
            continue
        if steps[v] == 1 and read == size:  # one full batch: its order does not matter
            out[v, 0, :size] = np.arange(size)
            continue
        draw = np.random.Generator(np.random.Philox(int(seeds[v])))
        passes = -(-read // int(size))
        order = np.concatenate([draw.permutation(int(size)) for _ in range(passes)])[
            :read
        ]
        padded = np.full(steps[v] * width, -1, np.int64)
        padded[:read] = order
        out[v, : steps[v], :width] = padded.reshape(steps[v], width)
    return out


def _only_read(
    examples: Examples, rows: NDArray[np.int64]
) -> tuple[Examples, NDArray[np.int64]]:
    """The examples that some step reads, and `rows` counted among them.

    A user may own thousands of rows of which a round reads a few; only those are
    prepared.
    """
    read = np.unique(rows[rows >= 0])
    if len(read) == len(examples):
        return examples, rows
    offsets = np.searchsorted(read, examples.offsets)
    found = np.where(rows >= 0, np.searchsorted(read, rows), -1)
    return Examples(examples.take(read), offsets.astype(np.int64)), found


def renumber(
    labels: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels counted 0..K_v-1 within each group, and K_v.

    Example:
        >>> renumber(np.array([7, 3, 7, 9]), np.array([0, 3, 4]))
        (array([1, 0, 1, 0]), array([2, 1]))
    """
    groups = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    span = int(labels.max()) + 1 if len(labels) else 1
    distinct, inverse = np.unique(groups * span + labels, return_inverse=True)
    classes = np.bincount(distinct // span, minlength=len(offsets) - 1)
    first = np.concatenate([[0], np.cumsum(classes)[:-1]])
    return inverse - first[groups], classes


def _labels(
    task: EmbeddingTask, examples: Examples
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], int]:
    """Local labels, classes of each client, and outputs of a head."""
    if task.label_space == "global" or "label" not in examples.fields:
        classes = np.full(examples.num_groups, task.num_classes, np.int64)
        return None, classes, task.num_classes
    labels, classes = renumber(
        examples.fields["label"].astype(np.int64), examples.offsets
    )
    return labels, classes, max(1, int(classes.max(initial=0)))


def _fresh_heads(
    task: EmbeddingTask,
    template: nn.Module,
    classes: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    dtype: torch.dtype,
    constants: Parameters,
) -> Parameters:
    if not any(True for _ in template.parameters()):
        return {}
    generator = torch.Generator()
    known: dict[tuple[int, int], Parameters] = {}  # public heads: one seed for all
    heads = []
    for k, seed in zip(classes.tolist(), seeds.tolist(), strict=True):
        if (k, seed) not in known:
            generator.manual_seed(seed >> 1)
            known[k, seed] = {**task.fresh_head(template, k, generator), **constants}
        heads.append(known[k, seed])
    return {
        name: torch.stack([head[name] for head in heads]).to(dtype) for name in heads[0]
    }


def _float_type(batch: Batch) -> torch.dtype:
    floats = (v.dtype for v in batch.values() if v.is_floating_point())
    return next(floats, torch.float32)
