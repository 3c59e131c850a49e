"""Engines on a graphics card: against the plain loop and pfl on the same card."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

import torch

from benchmarks.engines import (
    TARGETS,
    plain_rounds,
    round_of,
    start,
    with_own_choice,
)
from benchmarks.pfl_loop import interpreter, pfl_rounds
from benchmarks.table import Row, Times, interleave
from benchmarks.workloads import WORKLOADS
from fedemb.round import privatize
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.tuning import choose_engine

MANY = 512  # clients of a large cohort
PFL = {"W1": 1.0, "W2": 0.55, "W3": 1.0}


def card(name: str, repeat: int) -> Iterator[Row]:
    """A workload: all engines, the plain loop, pfl, bfloat16, many clients."""
    if not torch.cuda.is_available():
        yield Row(f"{name} on a card", None, None, note="there is no CUDA device")
        return
    workload = WORKLOADS[name]
    device = torch.device("cuda")
    runner = workload.runner(EngineChoice(), device)
    theta, lattice = start(runner)
    choice, measured = choose_engine(
        runner, theta, workload.rows, clients=workload.clients
    )
    for one in measured:
        yield Row(
            f"{name}: {one.choice.described}",
            None,
            one.clients_per_second,
            "clients/s",
            "measured to choose an engine",
        )
    runner = runner.with_engine(choice)
    found = runner.train(theta, workload.cohort(), lattice, 0)
    reference = workload.plain_loop(device)()
    off = (lattice.decode(found.total).float() - reference).norm() / reference.norm()

    def noise() -> None:
        privatize(found.total, 1.0, lattice, runner.key, 0)

    python = interpreter()
    with ExitStack() as processes:
        plain = processes.enter_context(plain_rounds(name, "cuda"))
        subjects = {
            "plain": plain,
            "ours": round_of(workload, runner),
            "noise": noise,
        }
        if python is not None:
            subjects["pfl"] = processes.enter_context(pfl_rounds(python, name, "cuda"))
        times = interleave(subjects, repeat)
    note = f"{_milliseconds(times, 'ours')} against {_milliseconds(times, 'plain')}"
    yield Row(
        f"{name} on a card, against the plain loop there",
        TARGETS[name],
        times.ratio("ours", "plain"),
        note=f"{note}; {choice.described}; differs by {float(off):.0e}; the noise of a "
        f"round takes {_milliseconds(times, 'noise')}",
    )
    if python is None:
        yield Row(f"{name} on a card, against pfl", None, None, note="no pfl")
    else:
        whole = [
            a + b for a, b in zip(times.wall["ours"], times.wall["noise"], strict=True)
        ]
        yield Row(
            f"{name} on a card, noise included, against pfl with one process",
            PFL[name],
            median(a / b for a, b in zip(whole, times.wall["pfl"], strict=True)),
            note=f"{1e3 * median(whole):.1f} ms against {_milliseconds(times, 'pfl')}",
        )
    yield from _rounded(name, runner, repeat)
    yield from _many(name, repeat)


def _rounded(name: str, runner: InlineRunner, repeat: int) -> Iterator[Row]:
    """Products rounded to bfloat16, which not every engine offers."""
    workload = WORKLOADS[name]
    rounded = with_own_choice(workload, replace(runner, precision=torch.bfloat16))
    times = interleave(
        {
            "float32": round_of(workload, runner),
            "bfloat16": round_of(workload, rounded),
        },
        repeat,
    )
    yield Row(
        f"{name} on a card, bfloat16 over float32",
        None,
        times.ratio("bfloat16", "float32"),
        note=f"{_milliseconds(times, 'bfloat16')}; {rounded.engine.described}",
    )


def _many(name: str, repeat: int) -> Iterator[Row]:
    """A cohort that fills the card."""
    workload = replace(WORKLOADS[name], clients=MANY)
    runner = with_own_choice(
        workload, workload.runner(EngineChoice(), torch.device("cuda"))
    )
    torch.cuda.reset_peak_memory_stats()
    times = interleave({"ours": round_of(workload, runner)}, repeat)
    yield Row(
        f"{name} on a card, {MANY} clients",
        None,
        MANY / times.median("ours"),
        "clients/s",
        f"{_milliseconds(times, 'ours')}; {runner.engine.described}; "
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the card",
    )


def _milliseconds(times: Times, name: str) -> str:
    return f"{1e3 * times.median(name):.1f} ms"
