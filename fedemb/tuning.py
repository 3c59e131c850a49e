"""Choosing an engine by a short measurement.

The measurement trains made-up virtual clients cut from the *public* held-out rows, so
the choice, which is printed and recorded, tells nothing about users; and it happens
before any budget is spent. Any choice computes the same deltas up to float rounding.
An engine that trains several virtual clients together is compared with the serial one
first, in double precision: a backbone that mixes rows would let one virtual client
change what another contributes, which no clipping bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedemb.agreement import agrees_with_serial, made_up_clients
from fedemb.cores import usable_cores
from fedemb.engines.flat import FORMS
from fedemb.engines.layers import trained_layers
from fedemb.engines.shared import single_backbone_step
from fedemb.errors import UserError
from fedemb.make_work import make_work
from fedemb.race import Measurement, Trial, race
from fedemb.runner import RECORDED, EngineChoice, InlineRunner

_MOST_ROWS = 1024  # trained together; with the next, bounds the memory of activations
_MOST_VALUES = 1 << 23  # of their prepared tensors; a clip has as many as 32 digits
_MOST_WEIGHTS = 1 << 27  # of clients trained together; as many velocities
_ALIKE = 0.97  # of the fastest: engines that fast are as good in a few passes' eyes
_CARD = 16  # times as much on a graphics card, where what does not fit is halved


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What is worth measuring on a kind of device.

    Attributes:
        chunks: virtual clients of several steps trained together.
        shared: virtual clients of one step trained together.
        threads: chunks trained at the same time.
        times: how much larger chunks may be than on a processor.
        graphs: whether steps can be recorded.
    """

    chunks: tuple[int, ...]
    shared: tuple[int, ...]
    threads: tuple[int, ...]
    times: int
    graphs: bool = False

    def records(self, engine: str, threads: int) -> bool:
        """Whether steps of an engine in so many threads can be recorded."""
        return self.graphs and threads == 1 and engine in RECORDED

    @staticmethod
    def of(device: torch.device) -> "_Room":
        """A card wants large chunks, and threads of the interpreter share it."""
        if device.type == "cpu":
            cores = (usable_cores(),)
            return _Room(chunks=(4, 16), shared=(16, 64, 256), threads=cores, times=1)
        return _Room(
            chunks=(16, 64, 256),
            shared=(64, 256, 1024),
            threads=(1, 2),
            times=_CARD,
            graphs=device.type == "cuda",
        )


def choose_engine(
    runner: InlineRunner,
    theta: Tensor,
    rows_per_client: int,
    name: str = "auto",
    clients: float = math.inf,
) -> tuple[EngineChoice, list[Measurement]]:
    """The fastest engine for this model on this machine, and all measurements.

    Of engines that are equally fast, the one that needs least memory.

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
    if name in FORMS and not _has_form(runner, name):
        raise UserError(
            f"engine={name!r} needs trained layers that have a {name} form, which "
            "this model has not, and full precision; use --engine flat or auto."
        )
    room = _Room.of(runner.device)
    largest = room.times * largest_chunk(
        rows_per_client, _values_of_a_row(runner), len(theta)
    )
    candidates = (
        replace(c, chunk=min(c.chunk, largest, most_for(clients, c.threads)))
        for c in _candidates(runner, name, single, room)
    )
    measured, too_large = race(
        Trial.of(runner.with_engine(choice), theta, public, rows_per_client)
        for choice in dict.fromkeys(candidates)
    )
    for best in by_preference(measured):
        if _agrees(runner, best.choice, theta):
            return best.choice, measured
    if not measured and too_large is not None:
        raise too_large
    raise UserError(
        f"engine={name!r} computes something else than the serial engine for this "
        "model: its features mix rows of several virtual clients, or it folds frames "
        "or patches into rows, which the grouped engine would tell apart wrongly; use "
        "--engine auto or serial."
    )


def by_preference(measured: Sequence[Measurement]) -> list[Measurement]:
    """The fastest first; of those no timing tells from it, what needs least memory.

    Example:
        >>> small, large = EngineChoice(chunk=16), EngineChoice(chunk=64)
        >>> near = [Measurement(large, 100.0), Measurement(small, 98.0)]
        >>> by_preference(near)[0].choice.chunk
        16
        >>> far = [Measurement(large, 100.0), Measurement(small, 90.0)]
        >>> by_preference(far)[0].choice.chunk
        64
    """
    fastest = max((m.clients_per_second for m in measured), default=0.0)

    def rank(own: Measurement) -> tuple[float, ...]:
        rate, held = own.clients_per_second, own.choice.chunk * own.choice.threads
        near = rate >= _ALIKE * fastest
        return (0, held, -rate) if near else (1, -rate)

    return sorted(measured, key=rank)


def largest_chunk(rows: int, values: int, weights: int) -> int:
    """How many virtual clients may be trained together on a processor, at most.

    Activations grow with rows and with what a row holds, so both are bounded, and so
    are the weights of all.

    Args:
        rows: of one virtual client.
        values: numbers in one prepared row.
        weights: of one virtual client.

    Example:
        >>> largest_chunk(16, 28 * 28, 10**5), largest_chunk(16, 8 * 32 * 32 * 3, 10**5)
        (64, 21)
        >>> largest_chunk(16, 64 * 64 * 3, 25_000_000)
        5
    """
    together = min(_MOST_ROWS, _MOST_VALUES // max(1, values)) // rows
    return max(1, min(together, _MOST_WEIGHTS // max(1, weights)))


def most_for(clients: float, threads: int) -> int:
    """The largest chunk of which every thread gets one.

    Example:
        >>> most_for(5, 2), most_for(0.3, 2)
        (3, 1)
    """
    return max(1, math.ceil(min(clients, _MOST_ROWS * _CARD) / threads))


def serves(runner: InlineRunner, choice: EngineChoice, theta: Tensor) -> bool:
    """Whether an engine that was chosen elsewhere can train this model, too."""
    if choice.name in FORMS and not _has_form(runner, choice.name):
        return False
    return _agrees(runner, choice, theta)


def _agrees(runner: InlineRunner, choice: EngineChoice, theta: Tensor) -> bool:
    """Whether it may train: alone as it is, or because it was seen to be right."""
    trusted = choice.alone and not choice.recorded
    return trusted or agrees_with_serial(runner, choice, theta)


def _candidates(
    runner: InlineRunner, name: str, single: bool, room: _Room
) -> list[EngineChoice]:
    """What to measure; the chunk of the flat engine matters to heads alone."""
    stacked, grouped = (_has_form(runner, form) for form in ("stacked", "grouped"))
    grouped = grouped and (name == "grouped" or _spreads(runner))
    chunks = {
        "serial": (1,) if name == "serial" else (),
        "flat": (1, 16) if runner.recipe.head_steps else (1,),
        "stacked": room.chunks if stacked else (),
        "grouped": room.chunks if grouped else (),
        "vectorized": room.chunks if name == "vectorized" or not stacked else (),
        "shared": room.shared if name == "shared" or single else (),
    }
    return [
        EngineChoice(name=engine, chunk=chunk, threads=threads, recorded=recorded)
        for engine, sizes in chunks.items()
        for chunk in sizes
        for recorded in (False, True)
        for threads in room.threads
        if name in ("auto", engine) and (not recorded or room.records(engine, threads))
    ]


def _has_form(runner: InlineRunner, name: str) -> bool:
    form = FORMS[name]
    return runner.precision is None and form.takes(runner.backbone, runner.layout)


def _spreads(runner: InlineRunner) -> bool:
    """Whether patches of some trained layer are larger than what they are read from."""
    return any(
        math.prod(getattr(layer, "kernel_size", ())) > 1
        for layer in trained_layers(runner.backbone, runner.layout)
    )


def _takes_one_step(runner: InlineRunner, rows: int) -> bool:
    examples = made_up_clients(runner.dataset.held_out(), 1, rows)
    work = make_work(runner.task, runner.recipe, examples, np.zeros(1, np.uint64))
    return single_backbone_step(work, runner.recipe)


def _values_of_a_row(runner: InlineRunner) -> int:
    examples = made_up_clients(runner.dataset.held_out(), 1, 2)
    batch = runner.task.prepare(examples, np.zeros(1, np.uint64))
    return sum(values[0].numel() for values in batch.values())
