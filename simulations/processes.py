"""Training virtual clients in several processes of this machine.

Every worker is a spawned process with a runner of its own. It gets the backbone and a
contiguous part of the cohort through a pipe and returns one exact integer sum, so the
number of workers changes the time a round takes and nothing else.

A worker that dies (killed, or out of memory) is replaced and its part is sent once
more. The replacement computes the same sum, because everything random in it is a
function of the key, the round and the virtual client. Workers end with their parent:
they are daemons, and a worker whose parent was killed reads the end of its pipe and
leaves.
"""

import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from operator import add
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fedemb.clipping import ClippedSum, Lattice
from fedemb.cohort import Cohort
from fedemb.errors import UserError
from fedemb.runner import InlineRunner
from simulations.worker import WorkerFailed, deal

Job: TypeAlias = tuple[Any, Cohort, Lattice, int]
_SPAWN = get_context("spawn")
_PATIENCE = 5.0  # seconds that a worker has to end before it is killed


class ProcessRunner:
    """Trains virtual clients in worker processes; a context manager.

    Guarantee: the sum is that of `make_runner().train` for equal deltas, bit for bit,
    whatever the number of workers and whichever of them die.

    Args:
        make_runner: called in every worker; must be picklable, such as the `build` of a
            `WorkerSpecification`.
        workers: processes.
        unit: virtual clients that an engine trains together (its chunk); parts are cut
            between, never within them.

    Raises:
        UserError: if there is no worker.
    """

    def __init__(
        self, make_runner: Callable[[], InlineRunner], workers: int, unit: int = 1
    ) -> None:
        if workers < 1 or unit < 1:
            raise UserError(f"workers={workers} and unit={unit} must be at least 1.")
        # Pickled by value once: no descriptors are shared, and a bad one fails here.
        self._make_runner = pickle.dumps(make_runner)
        self._unit = unit
        self._workers = [_Worker(self._make_runner, i) for i in range(workers)]

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `cohort`, trained from `backbone`.

        Raises:
            WorkerFailed: if a worker raised an error, or died twice in this round.
        """
        theta = backbone.detach().cpu().numpy()
        parts = deal(cohort, len(self._workers), self._unit)
        jobs: dict[int, Job] = {
            i: (theta, part, lattice, round_index) for i, part in enumerate(parts)
        }
        zero = ClippedSum.zero(len(backbone))
        try:
            return reduce(add, self._all(jobs), zero)
        except BaseException:
            self.close()  # whatever the workers still do belongs to no round
            raise

    def close(self) -> None:
        """End the workers; another `train` starts new ones."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> "ProcessRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _all(self, jobs: dict[int, Job]) -> list[ClippedSum]:
        for i in jobs:
            self._workers[i].start()
        lost = {i for i, job in jobs.items() if not self._workers[i].send(job)}
        again: set[int] = set()
        done: dict[int, ClippedSum] = {}
        while len(done) < len(jobs):
            for i in lost:
                self._replace(i, jobs[i], again)
            lost = set()
            busy = {self._workers[i].pipe: i for i in jobs if i not in done}
            ready = wait(list(busy))
            for i in (i for pipe, i in busy.items() if pipe in ready):
                reply = self._workers[i].receive()
                if reply is None:
                    lost.add(i)
                elif isinstance(reply, _Failure):
                    raise reply.error(f"worker {i}")
                else:
                    done[i] = reply
        return [done[i] for i in sorted(done)]

    def _replace(self, index: int, job: Job, again: set[int]) -> None:
        code = self._workers[index].stop()
        if index in again or not self._workers[index].send(job):
            raise WorkerFailed(
                f"worker {index} died twice in round {job[3]} (exit code {code}); a "
                "worker that is killed often lacks memory: use fewer workers or a "
                "smaller chunk."
            )
        again.add(index)


@dataclass(frozen=True)
class _Failure:
    """An exception in a worker, as text: not every exception can be pickled."""

    summary: str
    trace: str

    def error(self, worker: str) -> WorkerFailed:
        """What the parent raises; the worker's traceback is its note."""
        error = WorkerFailed(f"{worker} failed with {self.summary}")
        error.add_note(self.trace)
        return error


class _Worker:
    """The parent's end of one process."""

    def __init__(self, make_runner: bytes, index: int) -> None:
        self._make_runner = make_runner
        self._index = index
        self._process: SpawnProcess | None = None
        self.pipe: Connection
        self.start()

    def start(self) -> None:
        """Start the process unless it runs; it is ready some seconds later."""
        if self._process is not None:
            return
        self.pipe, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_serve, args=(theirs, self._make_runner, self._index), daemon=True
        )
        process.start()
        theirs.close()  # so that the death of the process ends the pipe
        self._process = process

    def send(self, job: Job) -> bool:
        """Hand over a job; false if the process is dead."""
        self.start()
        try:
            self.pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> "ClippedSum | _Failure | None":
        """The sum, a failure, or None if the process is dead."""
        try:
            reply = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        if isinstance(reply, _Failure):
            return reply
        total, unclipped, clients, diagnostics = reply
        return ClippedSum(torch.from_numpy(total), unclipped, clients, diagnostics)

    def stop(self) -> int | None:
        """End the process and give back its descriptors; returns its exit code."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        self.pipe.close()
        process.terminate()
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        return code


def own_graphics_card(worker: int, cards: int) -> int | None:
    """Which graphics card a worker computes on: they take turns; None without any.

    Example:
        >>> [own_graphics_card(worker, cards=2) for worker in range(3)]
        [0, 1, 0]
    """
    return worker % cards if cards else None


def _serve(pipe: Connection, make_runner: bytes, index: int) -> None:
    """What a worker does all its life: a job in, a sum out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    torch.set_num_threads(1)
    card = own_graphics_card(index, torch.cuda.device_count())
    if card is not None:
        torch.cuda.set_device(card)  # what run.device = "cuda" means from now on
    runner: InlineRunner | None = None
    while True:
        try:
            theta, cohort, lattice, round_index = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            runner = runner or pickle.loads(make_runner)()
            assembled = torch.from_numpy(theta)
            result = runner.train(assembled, cohort, lattice, round_index)
            reply: object = (
                result.total.numpy(),
                result.unclipped,
                result.clients,
                result.diagnostics,
            )
        except Exception as error:
            reply = _Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        try:
            pipe.send(reply)
        except (BrokenPipeError, ConnectionResetError):
            return
