"""Engines against the plain two-thread loop, interleaved in one run; prints ratios.

python -m benchmarks.engines [W1 W2 W3] [--repeat 5]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.workloads import WORKLOADS, Workload
from fedemb.clipping import Lattice
from fedemb.runner import EngineChoice


def measure(workload: Workload, repeat: int) -> None:
    """Print the median ratio of every engine to the plain loop."""
    cores = os.cpu_count() or 1
    plain = workload.plain_loop()
    reference = plain()
    subjects: dict[str, Callable[[], object]] = {"plain loop": plain}
    for name, chunk in _choices(workload):
        runner = workload.runner(EngineChoice(name=name, chunk=chunk, threads=cores))
        theta = runner.layout.flatten(dict(runner.backbone.named_parameters()))
        lattice = Lattice(1.0, len(theta))

        def round_(runner=runner, theta=theta, lattice=lattice):
            return runner.train(theta, workload.cohort(), lattice, 0)

        found = lattice.decode(round_().total).float()
        off = float((found - reference).norm() / reference.norm())
        subjects[f"{name}, {chunk} clients x {cores} threads (off {off:.0e})"] = round_
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repeat):
        for name, subject in subjects.items():
            started = time.perf_counter()
            subject()
            seconds[name].append(time.perf_counter() - started)
    for name, own in seconds.items():
        ratio = statistics.median(
            a / b for a, b in zip(own, seconds["plain loop"], strict=True)
        )
        middle = statistics.median(own)
        print(f"{workload.name}  {ratio:5.2f}  {middle:8.4f} s  {name}", flush=True)


def _choices(workload: Workload) -> list[tuple[str, int]]:
    chosen = [("serial", 4), ("vectorized", 4), ("vectorized", 16)]
    if workload.steps == 1:
        chosen += [("shared", 4)]
    return chosen


def main() -> None:
    """Measure the workloads that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for name in arguments.workloads:
        measure(WORKLOADS[name], arguments.repeat)


if __name__ == "__main__":
    main()
