"""Engines: against the plain loop, with head fine-tuning, with shared weights."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.elsewhere import RoundsElsewhere, elsewhere
from benchmarks.table import Row, interleave
from benchmarks.workloads import WORKLOADS, Workload
from fedemb.clipping import Lattice, clip_to_lattice
from fedemb.cores import usable_cores
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.tuning import choose_engine

TARGETS = {"W1": 0.75, "W2": 0.30, "W3": 0.50}


def start(runner: InlineRunner) -> tuple[Tensor, Lattice]:
    theta = runner.layout.flatten(dict(runner.backbone.named_parameters()))
    return theta, Lattice(1.0, len(theta))


def round_of(workload: Workload, runner: InlineRunner) -> Callable[[], object]:
    theta, lattice = start(runner)
    return lambda: runner.train(theta, workload.cohort(), lattice, 0)


def chosen(workload: Workload) -> InlineRunner:
    """Our runner with the engine that it would choose by itself."""
    return with_own_choice(workload, workload.runner(EngineChoice()))


def with_own_choice(workload: Workload, runner: InlineRunner) -> InlineRunner:
    choice, _ = choose_engine(
        runner, start(runner)[0], workload.rows, clients=workload.clients
    )
    return runner.with_engine(choice)


def plain_rounds(
    name: str, device: str = "cpu"
) -> AbstractContextManager[RoundsElsewhere]:
    """The plain loop on a workload, while in the block."""
    command = [sys.executable, "-m", "benchmarks.plain_process", name, device]
    return elsewhere("the plain loop", command)


def against_plain(name: str, repeat: int) -> Iterator[Row]:
    workload = WORKLOADS[name]
    runner = chosen(workload)
    theta, lattice = start(runner)
    found = runner.train(theta, workload.cohort(), lattice, 0)
    reference = workload.plain_loop()()
    off = float((lattice.decode(found.total).float() - reference).norm())
    with plain_rounds(name) as plain:
        subjects = {"plain": plain, "ours": round_of(workload, runner)}
        times = interleave(subjects, repeat)
    engine = runner.engine
    yield Row(
        f"{name} against the plain two-thread loop",
        TARGETS[name],
        times.ratio("ours", "plain"),
        note=f"{times.median('ours'):.4f} s against {times.median('plain'):.4f} s "
        f"({times.processor_median('ours'):.3f} and "
        f"{times.processor_median('plain'):.3f} processor seconds); {engine.name}, "
        f"{engine.chunk} at a time, {engine.threads} threads; differs by "
        f"{off / float(reference.norm()):.0e}",
    )


def heads(repeat: int) -> Iterator[Row]:
    """50 head steps, then one backbone step over all rows of a client."""
    workload = WORKLOADS["W1"]
    subjects, engines = {}, []
    for steps in (0, 50):
        runner = workload.runner(EngineChoice())
        recipe = replace(runner.recipe, head_steps=steps, steps=steps + 1)
        runner = with_own_choice(workload, replace(runner, recipe=recipe))
        engines.append(f"{runner.engine.name}, {runner.engine.chunk} at a time")
        subjects[f"{steps}"] = round_of(workload, runner)
    times = interleave(subjects, repeat)
    share = 1 - 1 / times.ratio("50", "0")
    yield Row(
        "50 head steps before one backbone step",
        0.10,
        share,
        "of the round",
        f"{times.median('50'):.3f} s with ({engines[1]}), {times.median('0'):.3f} s "
        f"without ({engines[0]})",
    )


def shared(repeat: int) -> Iterator[Row]:
    """Per-client clipped sums against one batched forward and backward."""
    workload = replace(WORKLOADS["W2"], name="one step", steps=1)
    runner = workload.runner(EngineChoice())
    recipe = replace(runner.recipe, momentum=0.0)
    runner = replace(runner, recipe=recipe)
    choice, _ = choose_engine(runner, start(runner)[0], workload.batch, "shared")
    one = runner.with_engine(replace(choice, threads=1))
    theta, lattice = start(one)
    work = one.work(workload.cohort().part(0, choice.chunk), 0)
    backbone = workload.make()
    head = torch.nn.Linear(workload.dim, 32, bias=False)
    batch = work.at(0)
    images, labels = batch["image"].flatten(0, 1), batch["label"].flatten()
    images = images.contiguous(memory_format=torch.channels_last)

    def plain() -> None:
        for parameter in (*backbone.parameters(), *head.parameters()):
            parameter.grad = None
        F.cross_entropy(head(backbone(images)), labels).backward()

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = interleave(
            {
                "plain": plain,
                "ours": lambda: clip_to_lattice(one.deltas(theta, work), lattice),
            },
            20 * repeat,
        )
    finally:
        torch.set_num_threads(before)
    yield Row(
        "one step: per-client clipped sums, over one plain forward and backward",
        2.0,
        times.ratio("ours", "plain"),
        "x",
        f"small CNN, {choice.chunk} clients of {workload.batch} rows, one core; "
        f"{1e3 * times.median('ours'):.1f} ms",
    )


def all_engines(workload: Workload, repeat: int) -> Iterator[Row]:
    """Every engine, for information."""
    cores = usable_cores()
    subjects: dict[str, Callable[[], object]] = {}
    for name, chunk in [
        ("serial", 1),
        ("flat", 1),
        ("stacked", 4),
        ("stacked", 16),
        ("grouped", 4),
        ("grouped", 16),
        ("vectorized", 16),
    ]:
        choice = EngineChoice(name=name, chunk=chunk, threads=cores)
        subjects[f"{name}/{chunk}"] = round_of(workload, workload.runner(choice))
    with plain_rounds(workload.name) as plain:
        times = interleave({"plain": plain, **subjects}, repeat)
    for name in times.wall:
        yield Row(
            f"{workload.name}: {name}",
            None,
            times.ratio(name, "plain"),
            note=f"{times.median(name):.4f} s, {times.processor_median(name):.3f} "
            "processor seconds",
        )
