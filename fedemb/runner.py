"""Training virtual clients in this process, a few at a time.

A runner owns data, model and engine; what it returns is one exact integer sum. How many
virtual clients are trained together, by which engine and in how many threads changes
the time it takes and, but for float rounding, nothing else. The serial engine trains
every virtual client alone and gives the same integers whatever the chunk and threads.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from threading import local
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fedemb.clipping import ClippedSum, Lattice, clip_to_lattice
from fedemb.cohort import Cohort
from fedemb.data import OWNER, Examples, UserDataset
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import UserError
from fedemb.local import LocalModel, LocalTraining, Work, make_work
from fedemb.parameters import FlatLayout
from fedemb.protocols import EmbeddingTask
from fedemb.randomness import RootKey

Deltas: TypeAlias = Callable[
    [LocalModel, FlatLayout, Tensor, Work, LocalTraining], Tensor
]

ENGINES: dict[str, Deltas] = {
    "serial": serial_deltas,
    "vectorized": vectorized_deltas,
    "shared": shared_deltas,
}


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """How the virtual clients of a round are computed; never what is computed.

    Attributes:
        name: `serial`, `vectorized` or `shared`.
        chunk: virtual clients trained together; the serial engine always takes one.
        threads: chunks trained at the same time, one core each.
    """

    name: str = "serial"
    chunk: int = 16
    threads: int = 1

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise UserError(
                f"engine={self.name!r} must be one of {', '.join(ENGINES)}."
            )
        if self.chunk < 1 or self.threads < 1:
            raise UserError(
                f"chunk={self.chunk} and threads={self.threads} must be at least 1."
            )


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
    """

    task: EmbeddingTask
    dataset: UserDataset
    backbone: nn.Module
    layout: FlatLayout
    recipe: LocalTraining
    key: RootKey = field(repr=False)
    engine: EngineChoice = EngineChoice()
    device: torch.device = torch.device("cpu")
    _own: local = field(default_factory=local, repr=False, compare=False)

    def with_engine(self, engine: EngineChoice) -> "InlineRunner":
        """The same runner with another engine."""
        return replace(self, engine=engine, _own=local())

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `cohort`, trained from `backbone`."""
        present = cohort.present(self.dataset.num_users)
        theta = backbone.to(self.device)
        # The padding of batches and heads depends on who is trained together, and float
        # rounding on the padding; the serial engine has neither.
        chunk = 1 if self.engine.name == "serial" else self.engine.chunk
        parts = [present.part(i, i + chunk) for i in range(0, len(present), chunk)]

        def one(part: Cohort) -> ClippedSum:
            work = self.work(part, round_index).to(self.device)
            deltas = self.deltas(theta, work)
            return clip_to_lattice(deltas, lattice, work.examples)

        zero = ClippedSum.zero(len(backbone))
        if self.engine.threads == 1:
            return reduce(add, map(one, parts), zero)
        with ThreadPoolExecutor(self.engine.threads, initializer=_one_core) as pool:
            return reduce(add, pool.map(one, parts), zero)

    def work(self, part: Cohort, round_index: int) -> Work:
        """What the virtual clients of `part` have to do in a round."""
        fetched = self.dataset.fetch(part.users)
        owners = np.repeat(np.arange(fetched.num_groups), fetched.sizes)
        fields = {**fetched.fields, OWNER: owners}
        examples = Examples(fields, fetched.offsets).regroup(part.sizes.tolist())
        seeds = self.key.seeds("client", round_index, part.ids)
        return make_work(self.task, self.recipe, examples, seeds)

    def deltas(self, theta: Tensor, work: Work) -> Tensor:
        """Backbone deltas `[V, P]` of the clients of `work`, before clipping."""
        if work.rows.numel() == 0:
            return theta.new_zeros(len(work.rows), len(theta))
        model = LocalModel(self.task, self._own_backbone(), work.head.to(self.device))
        return ENGINES[self.engine.name](model, self.layout, theta, work, self.recipe)

    def _own_backbone(self) -> nn.Module:
        """The copy of this thread: engines swap parameters in and out of the module."""
        if not hasattr(self._own, "backbone"):
            module = copy.deepcopy(self.backbone).to(self.device)
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._own.backbone = module.requires_grad_(False)
        backbone: nn.Module = self._own.backbone
        return backbone


def _one_core() -> None:
    torch.set_num_threads(1)
