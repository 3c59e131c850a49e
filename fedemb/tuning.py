"""Choosing an engine by a short measurement.

The measurement trains made-up virtual clients cut from the *public* held-out rows, so
the choice, which is printed and recorded, tells nothing about users; and it happens
before any budget is spent. Any choice computes the same deltas up to float rounding.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedemb.clipping import Lattice, clip_to_lattice
from fedemb.data import Examples
from fedemb.engines.shared import single_backbone_step
from fedemb.local import make_work
from fedemb.runner import EngineChoice, InlineRunner

_MOST_ROWS = 1024  # trained together; bounds the memory of activations


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
    runner: InlineRunner, theta: Tensor, rows_per_client: int, name: str = "auto"
) -> tuple[EngineChoice, list[Measurement]]:
    """The fastest engine for this model on this machine, and all measurements.

    Args:
        runner: what will run; its engine is ignored.
        theta: backbone `[P]`.
        rows_per_client: typical rows of one virtual client.
        name: an engine's name restricts the choice to its chunk sizes.
    """
    threads = os.cpu_count() or 1
    public = runner.dataset.held_out()
    single = _takes_one_step(runner, rows_per_client)
    measured = []
    largest = max(1, _MOST_ROWS // rows_per_client)
    candidates = (
        replace(c, chunk=min(c.chunk, largest))
        for c in _candidates(name, single, threads)
    )
    for candidate in dict.fromkeys(candidates):
        examples = _made_up_clients(public, candidate.chunk, rows_per_client)
        measured.append(_measure(runner.with_engine(candidate), theta, examples))
    best = max(measured, key=lambda m: m.clients_per_second)
    return best.choice, measured


def _candidates(name: str, single: bool, threads: int) -> Iterable[EngineChoice]:
    if name in ("auto", "serial"):
        yield EngineChoice(name="serial", chunk=4, threads=threads)
    if name in ("auto", "vectorized"):
        for chunk in (4, 16):
            yield EngineChoice(name="vectorized", chunk=chunk, threads=threads)
    if name == "shared" or (name == "auto" and single):
        for chunk in (16, 64):
            yield EngineChoice(name="shared", chunk=chunk, threads=threads)


def _takes_one_step(runner: InlineRunner, rows: int) -> bool:
    examples = _made_up_clients(runner.dataset.held_out(), 1, rows)
    work = make_work(runner.task, runner.recipe, examples, np.zeros(1, np.uint64))
    return single_backbone_step(work, runner.recipe)


def _made_up_clients(public: Examples, clients: int, rows: int) -> Examples:
    wanted = np.arange(clients * rows) % len(public)
    fields = public.take(wanted)
    if "label" in fields:  # held-out labels lie beyond the training labels
        fields["label"] = np.zeros_like(fields["label"]) + np.arange(len(wanted)) % 2
    return Examples(fields, np.arange(clients + 1, dtype=np.int64) * rows)


def _measure(runner: InlineRunner, theta: Tensor, examples: Examples) -> Measurement:
    """Time one chunk on one thread; threads are assumed to scale."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seeds = np.arange(examples.num_groups, dtype=np.uint64)
        work = make_work(runner.task, runner.recipe, examples, seeds).to(runner.device)
        lattice = Lattice(1.0, len(theta))
        times = []
        for _ in range(2):  # the first pass warms up
            start = time.perf_counter()
            clip_to_lattice(runner.deltas(theta.to(runner.device), work), lattice)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    rate = examples.num_groups / times[-1] * runner.engine.threads
    return Measurement(runner.engine, rate)
