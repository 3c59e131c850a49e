"""Timing engines side by side.

Candidates take turns, so what disturbs the machine for a moment disturbs them all, and
those that fall far behind leave. Other work on the machine only ever slows, so the
fastest pass of each counts.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fedemb.agreement import made_up_clients
from fedemb.clipping import Lattice
from fedemb.data import Examples
from fedemb.make_work import make_work
from fedemb.runner import DoesNotFit, EngineChoice, InlineRunner
from fedemb.work import Work

_PASSES, _SECONDS = 6, 1.0  # of a candidate; of all, and then only what has begun
_BEHIND, _FAR = 1.3, 3.0  # times the fastest: not worth another pass, or a second
_FEW = 4  # clients of a thread in a pass, at least: one is too short to be timed


@dataclass(frozen=True)
class Measurement:
    """One engine as measured.

    Attributes:
        choice: the engine.
        clients_per_second: virtual clients trained and clipped per second, all threads.
    """

    choice: EngineChoice
    clients_per_second: float


@dataclass
class Trial:
    """A candidate, what it trains in a pass, and the seconds that a client took."""

    runner: InlineRunner
    theta: Tensor
    works: Sequence[Work]
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls, runner: InlineRunner, theta: Tensor, public: Examples, rows: int
    ) -> "Trial":
        """A few chunks for every thread: threads may wait for the same memory."""
        examples = made_up_clients(public, runner.engine.chunk, rows)
        seeds = np.arange(examples.num_groups, dtype=np.uint64)
        chunks = runner.engine.threads * max(1, _FEW // examples.num_groups)
        made = [
            make_work(runner.task, runner.recipe, examples, seeds)
            for _ in range(chunks)
        ]
        return cls(runner, theta.to(runner.device), made)

    def once(self) -> float:
        """Train all, note the seconds of a client, and return those of the pass."""
        lattice = Lattice(1.0, len(self.theta))
        start = time.perf_counter()
        self.runner.summed(self.theta, self.works, lattice)
        took = time.perf_counter() - start
        self.seconds.append(took / sum(len(work.rows) for work in self.works))
        return took

    def leave(self) -> None:
        """Give back the memory of works and threads."""
        self.works = ()
        self.runner = self.runner.with_engine(self.runner.engine)

    def measurement(self) -> Measurement:
        """By its fastest pass."""
        return Measurement(self.runner.engine, 1 / min(self.seconds))


def race(trials: Iterable[Trial]) -> tuple[list[Measurement], DoesNotFit | None]:
    """The rates of all that fit into memory, and why one did not."""
    found: list[Trial] = []
    left: list[Trial] = []
    too_large: DoesNotFit | None = None
    spent = 0.0
    for trial in trials:
        try:
            trial.once()
        except DoesNotFit as reason:
            too_large = reason
            continue
        found.append(trial)
        left = _near_the_front([*left, trial], _FAR)
        if trial in left:
            trial.seconds.clear()  # that was to warm up
            spent += trial.once()
    for turn in range(_PASSES - 1):
        left = _near_the_front(left, _BEHIND)
        if len(left) <= 1 or (turn and spent > _SECONDS):  # one pass decides nothing
            break
        spent += sum(trial.once() for trial in left)
    return [trial.measurement() for trial in found], too_large


def _near_the_front(trials: list[Trial], times: float) -> list[Trial]:
    """Those worth another pass; the others give back their memory."""
    fastest = min((min(trial.seconds) for trial in trials), default=0.0)
    for trial in trials:
        if min(trial.seconds) > times * fastest:
            trial.leave()
    return [trial for trial in trials if trial.works]
