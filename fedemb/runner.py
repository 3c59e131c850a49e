"""Training virtual clients in this process, a few at a time.

A runner owns data, model and engine; what it returns is one exact integer sum. How many
virtual clients are trained together, by which engine and in how many threads changes
the time it takes and, but for float rounding, nothing else. The serial engine trains
every virtual client alone and gives the same integers whatever the chunk and threads.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from threading import get_ident
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.clipping import ClippedSum, Lattice, LatticeSum
from fedemb.cohort import Cohort
from fedemb.data import OWNER, Drafts, Examples, UserDataset
from fedemb.devices import sent
from fedemb.engines.flat import flat_deltas, grouped_deltas, stacked_deltas
from fedemb.engines.heads import fit_heads
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import UserError
from fedemb.heads import head_shapes
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from fedemb.persistent_heads import PersistentHeads, of_shape, placed
from fedemb.protocols import EmbeddingTask, Parameters
from fedemb.randomness import RootKey
from fedemb.threads import Threads
from fedemb.work import Work

Deltas: TypeAlias = Callable[
    [LocalModel, FlatLayout, Tensor, Work, LocalTraining], Tensor
]

Fetch: TypeAlias = Callable[[NDArray[np.int64]], Examples]
Complete: TypeAlias = Callable[[Examples], Examples]

_FETCHED = 16  # virtual clients whose users are fetched by one call

ENGINES: dict[str, Deltas] = {
    "serial": serial_deltas,
    "flat": flat_deltas,
    "stacked": stacked_deltas,
    "grouped": grouped_deltas,
    "vectorized": vectorized_deltas,
    "shared": shared_deltas,
}

RECORDED = ("flat", "stacked", "grouped")  # engines whose steps can be recorded


class DoesNotFit(UserError):
    """One virtual client needs more memory than its device has."""


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """How the virtual clients of a round are computed; never what is computed.

    Attributes:
        name: `serial`, `flat`, `stacked`, `grouped`, `vectorized` or `shared`.
        chunk: virtual clients trained together; the serial engine always takes one.
        threads: chunks trained at the same time, one core each.
        recorded: whether steps are recorded and replayed as CUDA graphs, on a graphics
            card.
    """

    name: str = "serial"
    chunk: int = 16
    threads: int = 1
    recorded: bool = False

    @property
    def alone(self) -> bool:
        """Whether every virtual client is trained alone: no rounding is shared."""
        return self.name == "serial" or (self.name == "flat" and self.chunk == 1)

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise UserError(
                f"engine={self.name!r} must be one of {', '.join(ENGINES)}."
            )
        if self.chunk < 1 or self.threads < 1:
            raise UserError(
                f"chunk={self.chunk} and threads={self.threads} must be at least 1."
            )
        if self.recorded and (self.name not in RECORDED or self.threads > 1):
            raise UserError(
                f"engine={self.name!r} with {self.threads} threads cannot be recorded; "
                f"only {', '.join(RECORDED)} with one thread can."
            )

    @property
    def described(self) -> str:
        """In words.

        Example:
            >>> EngineChoice(name="stacked", chunk=4, threads=2).described
            'stacked, 4 virtual clients at a time, 2 threads'
        """
        how = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        graphs = ", steps replayed as CUDA graphs" if self.recorded else ""
        return f"{self.name}, {self.chunk} virtual clients at a time, {how}{graphs}"


@dataclass(frozen=True, kw_only=True)
class InlineRunner:
    """Trains virtual clients in this process.

    Attributes:
        task: what is trained.
        dataset: whose data.
        backbone: the module whose trained parameters `layout` names; all its other
            parameters and buffers stay as they are.
        layout: which parameters are trained.
        recipe: local training.
        key: root of the clients' local randomness.
        engine: how.
        device: where tensors live.
        precision: of the backbone's products, if not that of its weights; see
            `LocalModel`.
        public_head: constants for heads that start from such; see `make_work`.
        kept_heads: of users, where the recipe lets them persist; None begins every
            round with new ones.
    """

    task: EmbeddingTask
    dataset: UserDataset
    backbone: nn.Module
    layout: FlatLayout
    recipe: LocalTraining
    key: RootKey = field(repr=False)
    engine: EngineChoice = EngineChoice()
    device: torch.device = torch.device("cpu")
    precision: torch.dtype | None = None
    public_head: Parameters = field(default_factory=dict, repr=False)
    kept_heads: PersistentHeads | None = None
    _threads: Threads = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_threads", Threads(self.engine.threads))

    def with_engine(self, engine: EngineChoice) -> "InlineRunner":
        """The same runner with another engine."""
        return replace(self, engine=engine)

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `cohort`, trained from `backbone`.

        Data are read ahead of the training, within the round and never beyond it: what
        a round reads has been paid for.
        """
        present = cohort.present(self.dataset.num_users)
        # The padding of batches and heads depends on who is trained together, and float
        # rounding on the padding; the serial engine has neither.
        chunk = 1 if self.engine.alone else self.engine.chunk
        works = self._works(present, chunk, round_index)
        total = self.summed(backbone, works, lattice)
        if self.kept_heads is not None:
            self.kept_heads.write(round_index)
        return total

    def summed(
        self, backbone: Tensor, works: Iterable[Work], lattice: Lattice
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `works`, trained on all threads."""
        theta = sent(backbone, self.device)
        sums: dict[int, LatticeSum] = {}

        def one(work: Work) -> None:
            work = work.to(self.device)
            if get_ident() not in sums:
                sums[get_ident()] = LatticeSum(lattice, self.device)
            sums[get_ident()].add(self.deltas(theta, work), work.examples)

        self._threads.each(one, works)
        zero = ClippedSum.zero(len(backbone))
        return reduce(add, (own.result() for own in sums.values()), zero)

    def _works(self, present: Cohort, chunk: int, round_index: int) -> Iterator[Work]:
        """The work of `chunk` clients at a time; several chunks are fetched at once."""
        block = chunk * -(-_FETCHED // chunk)
        fetch, complete = self._reading(chunk)
        for start in range(0, len(present), block):
            whole = present.part(start, start + block)
            fetched = fetch(whole.users)
            ends = np.concatenate([[0], np.cumsum(whole.sizes)])
            for first in range(0, len(whole), chunk):
                part = whole.part(first, first + chunk)
                users = slice(int(ends[first]), int(ends[first + len(part)]))
                yield self._work_of(part, fetched.part(users), round_index, complete)

    def _reading(self, chunk: int) -> tuple[Fetch, Complete | None]:
        """How users are fetched, and rows completed that are worth a call by chunk."""
        if isinstance(self.dataset, Drafts) and chunk >= _FETCHED:
            return self.dataset.draft, self.dataset.complete
        return self.dataset.fetch, None

    def work(self, part: Cohort, round_index: int) -> Work:
        """What the virtual clients of `part` have to do in a round."""
        return self._work_of(part, self.dataset.fetch(part.users), round_index)

    def _work_of(
        self,
        part: Cohort,
        fetched: Examples,
        round_index: int,
        complete: Complete | None = None,
    ) -> Work:
        owners = np.repeat(np.arange(fetched.num_groups), fetched.sizes)
        fields = {**fetched.fields, OWNER: owners}
        examples = Examples(fields, fetched.offsets).regroup(part.sizes.tolist())
        seeds = self.key.seeds("client", round_index, part.ids)
        work = make_work(
            self.task,
            self.recipe,
            examples,
            seeds,
            public_head=self.public_head,
            complete=complete,
        )
        if self.kept_heads is None:
            return work
        users = tuple(part.users.tolist())
        kept = self.kept_heads.before(round_index, users)
        for client, user in enumerate(users):
            placed(work.heads, client, kept.get(user, {}))
        return replace(work, users=users)

    def deltas(self, theta: Tensor, work: Work) -> Tensor:
        """Backbone deltas `[V, P]` of the clients of `work`, before clipping.

        Clients that do not fit into the device's memory together are trained by halves:
        some users own more than those by whom the engine was chosen.

        Raises:
            DoesNotFit: if a single client does not fit.
        """
        clients = len(work.rows)
        if work.rows.numel() == 0:
            return theta.new_zeros(clients, len(theta))
        model = self._own_model()
        model.head = work.head.to(self.device)
        try:
            return self._trained(model, theta, work)
        except torch.OutOfMemoryError:
            model.scratch, model.recorded = None, 0
        if clients == 1:
            raise DoesNotFit(
                f"A virtual client whose steps read {work.rows.shape[-1]} rows each "
                f"does not fit into the memory of {self.device}; use a smaller "
                "local.batch_size, a smaller model or --set run.device=cpu."
            )
        halves = slice(0, clients // 2), slice(clients // 2, clients)
        return torch.cat([self.deltas(theta, work.clients(half)) for half in halves])

    def _trained(self, model: LocalModel, theta: Tensor, work: Work) -> Tensor:
        """By the engine; heads that persist are fitted and put aside before it."""
        train, recipe = ENGINES[self.engine.name], self.recipe
        if self.kept_heads is None or work.users is None or recipe.head_steps is None:
            return train(model, self.layout, theta, work, recipe)
        fitted = fit_heads(model, self.layout, theta, work, recipe)
        here = {name: values.cpu() for name, values in fitted.items()}
        classes = work.classes.tolist()
        shapes = {k: head_shapes(self.task, k) for k in set(classes)}
        for client, (user, k) in enumerate(zip(work.users, classes, strict=True)):
            values = {name: values[client] for name, values in here.items()}
            self.kept_heads.put(user, of_shape(values, shapes[k]))
        left = replace(recipe, head_steps=0, head_init="public")
        return train(
            model, self.layout, theta, work.with_fitted(fitted, recipe.head_steps), left
        )

    def _own_model(self) -> LocalModel:
        """The model of this thread: engines swap parameters in and out of modules."""
        own = self._threads.own
        if not hasattr(own, "model"):
            module = copy.deepcopy(self.backbone).to(self.device)
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            own.model = LocalModel(
                self.task, module.requires_grad_(False), nn.Identity(), self.precision
            )
            own.model.recorded = self.engine.chunk if self.engine.recorded else 0
        model: LocalModel = own.model
        return model
