"""Choosing an engine by a short measurement.

The measurement trains made-up virtual clients cut from the *public* held-out rows, so
the choice, which is printed and recorded, tells nothing about users; and it happens
before any budget is spent. Any choice computes the same deltas up to float rounding.
An engine that trains several virtual clients together is compared with the serial one
first, in double precision: a backbone that mixes rows would let one virtual client
change what another contributes, which no clipping bounds.
"""

import copy
import math
import os
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedemb.clipping import Lattice
from fedemb.data import Examples
from fedemb.engines.flat import stackable
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import single_backbone_step
from fedemb.errors import UserError
from fedemb.local import LocalModel, LocalTraining, Work, make_work
from fedemb.runner import ENGINES, DoesNotFit, EngineChoice, InlineRunner

_TOLERANCE = 1e-6  # of the norm of the deltas, in double precision

_PASSES, _SECONDS = 6, 0.3  # of a measurement, at most
_FEW = 4  # clients of a thread in a pass, at least: one is too short to be timed

_MOST_ROWS = 1024  # trained together; with the next, bounds the memory of activations
_MOST_VALUES = 1 << 23  # of their prepared tensors; a clip has as many as 32 digits
_CARD = 16  # times as much on a graphics card, where what does not fit is halved


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What is worth measuring on a kind of device.

    Attributes:
        chunks: virtual clients of several steps trained together.
        shared: virtual clients of one step trained together.
        threads: chunks trained at the same time.
        times: how much larger chunks may be than on a processor.
    """

    chunks: tuple[int, ...]
    shared: tuple[int, ...]
    threads: tuple[int, ...]
    times: int

    @staticmethod
    def of(device: torch.device) -> "_Room":
        """A card wants large chunks, and threads of the interpreter share it."""
        if device.type == "cpu":
            cores = (os.cpu_count() or 1,)
            return _Room(chunks=(4, 16), shared=(16, 64), threads=cores, times=1)
        return _Room(
            chunks=(16, 64, 256), shared=(64, 256, 1024), threads=(1, 2), times=_CARD
        )


@dataclass(frozen=True)
class Measurement:
    """One engine as measured.

    Attributes:
        choice: the engine.
        clients_per_second: virtual clients trained and clipped per second, all threads.
    """

    choice: EngineChoice
    clients_per_second: float


def choose_engine(
    runner: InlineRunner,
    theta: Tensor,
    rows_per_client: int,
    name: str = "auto",
    clients: float = math.inf,
) -> tuple[EngineChoice, list[Measurement]]:
    """The fastest engine for this model on this machine, and all measurements.

    Args:
        runner: what will run; its engine is ignored.
        theta: backbone `[P]`.
        rows_per_client: typical rows of one virtual client.
        name: an engine's name restricts the choice to its chunk sizes.
        clients: virtual clients that a round is expected to have; chunks are small
            enough for every core to get one.

    Raises:
        UserError: if no engine of that name computes what the serial one does.
    """
    public = runner.dataset.held_out()
    single = _takes_one_step(runner, rows_per_client)
    if name == "stacked" and not _stackable(runner):
        raise UserError(
            "engine='stacked' needs trained layers that have a stacked form, which "
            "this model has not, and full precision; use --engine flat or auto."
        )
    measured = []
    too_large: DoesNotFit | None = None
    room = _Room.of(runner.device)
    largest = room.times * largest_chunk(rows_per_client, _values_of_a_row(runner))
    candidates = (
        replace(c, chunk=min(c.chunk, largest, most_for(clients, c.threads)))
        for c in _candidates(runner, name, single, room)
    )
    for candidate in dict.fromkeys(candidates):
        examples = _made_up_clients(public, candidate.chunk, rows_per_client)
        try:
            measured.append(_measure(runner.with_engine(candidate), theta, examples))
        except DoesNotFit as reason:
            too_large = reason
    for best in sorted(measured, key=lambda m: -m.clients_per_second):
        if best.choice.alone or agrees_with_serial(runner, best.choice.name, theta):
            return best.choice, measured
    if not measured and too_large is not None:
        raise too_large
    raise UserError(
        f"engine={name!r} computes something else than the serial engine for this "
        "model, so its features mix rows of several virtual clients; use --engine "
        "serial."
    )


def largest_chunk(rows: int, values: int) -> int:
    """How many virtual clients may be trained together on a processor, at most.

    Activations grow with rows and with what a row holds, so both are bounded.

    Args:
        rows: of one virtual client.
        values: numbers in one prepared row.

    Example:
        >>> largest_chunk(16, 28 * 28), largest_chunk(16, 8 * 32 * 32 * 3)
        (64, 21)
    """
    return max(1, min(_MOST_ROWS, _MOST_VALUES // max(1, values)) // rows)


def most_for(clients: float, threads: int) -> int:
    """The largest chunk of which every thread gets one.

    Example:
        >>> most_for(5, 2), most_for(0.3, 2)
        (3, 1)
    """
    return max(1, math.ceil(min(clients, _MOST_ROWS * _CARD) / threads))


def serves(runner: InlineRunner, name: str, theta: Tensor) -> bool:
    """Whether an engine that was chosen elsewhere can train this model, too."""
    if name == "stacked" and not _stackable(runner):
        return False
    alone = EngineChoice(name=name).alone
    return alone or agrees_with_serial(runner, name, theta)


def agrees_with_serial(runner: InlineRunner, name: str, theta: Tensor) -> bool:
    """Whether an engine computes what the serial one does on a few public rows."""
    work, recipe = ragged_work(runner, torch.float64)
    backbone = copy.deepcopy(runner.backbone).double().requires_grad_(False)
    model = LocalModel(runner.task, backbone, work.head)
    theta = theta.to("cpu", torch.float64)
    if name == "shared" and not single_backbone_step(work, recipe):
        return False
    expected = serial_deltas(model, runner.layout, theta, work, recipe)
    found = ENGINES[name](model, runner.layout, theta, work, recipe)
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


def ragged_work(
    runner: InlineRunner, dtype: torch.dtype = torch.float32
) -> tuple[Work, LocalTraining]:
    """Work of three clients made of a few public rows, and its recipe of few steps."""
    own = min(4, runner.recipe.batch_size)
    examples = _made_up_clients(runner.dataset.held_out(), 3, own)
    examples = Examples(
        {k: v[: 3 * own - 1] for k, v in examples.fields.items()},
        np.minimum(examples.offsets, 3 * own - 1),  # ragged: the last has one row less
    )
    steps = runner.recipe.reads(own) and -(-runner.recipe.reads(own) // own)
    recipe = replace(
        runner.recipe,
        batch_size=own,
        steps=max(1, min(steps, (runner.recipe.head_steps or 0) + 2)),
    )
    seeds = np.arange(3, dtype=np.uint64)
    return make_work(runner.task, recipe, examples, seeds, dtype), recipe


def _candidates(
    runner: InlineRunner, name: str, single: bool, room: _Room
) -> list[EngineChoice]:
    """What to measure; the chunk of the flat engine matters to heads alone."""
    stacked = _stackable(runner)
    chunks = {
        "serial": (1,) if name == "serial" else (),
        "flat": (1, 16) if runner.recipe.head_steps else (1,),
        "stacked": room.chunks if stacked or name == "stacked" else (),
        "vectorized": room.chunks if name == "vectorized" or not stacked else (),
        "shared": room.shared if name == "shared" or single else (),
    }
    return [
        EngineChoice(name=engine, chunk=chunk, threads=threads)
        for engine, sizes in chunks.items()
        for chunk in sizes
        for threads in room.threads
        if name in ("auto", engine)
    ]


def _stackable(runner: InlineRunner) -> bool:
    return runner.precision is None and stackable(runner.backbone, runner.layout)


def _takes_one_step(runner: InlineRunner, rows: int) -> bool:
    examples = _made_up_clients(runner.dataset.held_out(), 1, rows)
    work = make_work(runner.task, runner.recipe, examples, np.zeros(1, np.uint64))
    return single_backbone_step(work, runner.recipe)


def _values_of_a_row(runner: InlineRunner) -> int:
    examples = _made_up_clients(runner.dataset.held_out(), 1, 2)
    batch = runner.task.prepare(examples, np.zeros(1, np.uint64))
    return sum(values[0].numel() for values in batch.values())


def _made_up_clients(public: Examples, clients: int, rows: int) -> Examples:
    wanted = np.arange(clients * rows) % len(public)
    fields = public.take(wanted)
    if "label" in fields:  # held-out labels lie beyond the training labels
        fields["label"] = np.zeros_like(fields["label"]) + np.arange(len(wanted)) % 2
    return Examples(fields, np.arange(clients + 1, dtype=np.int64) * rows)


def _measure(runner: InlineRunner, theta: Tensor, examples: Examples) -> Measurement:
    """Time a few chunks on every thread: threads may wait for the same memory."""
    seeds = np.arange(examples.num_groups, dtype=np.uint64)
    chunks = runner.engine.threads * max(1, _FEW // examples.num_groups)
    works = [
        make_work(runner.task, runner.recipe, examples, seeds) for _ in range(chunks)
    ]
    theta, lattice = theta.to(runner.device), Lattice(1.0, len(theta))
    times: list[float] = []
    while len(times) < 2 or (len(times) < _PASSES and sum(times) < _SECONDS):
        start = time.perf_counter()
        runner.summed(theta, works, lattice)
        times.append(time.perf_counter() - start)
    # The first pass warms up; others may have been disturbed, but only ever slowed.
    rate = chunks * examples.num_groups / min(times[1:])
    return Measurement(runner.engine, rate)
