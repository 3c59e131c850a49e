"""Rows of the speed table, and how they are measured."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.elsewhere import RoundsElsewhere
from fedemb.cores import usable_cores


@dataclass(frozen=True)
class Row:
    """One line: what was measured, what it must reach, what it was.

    `ratio` is measured / target: 1 or less reaches it. None could not be measured, and
    `note` says why.
    """

    what: str
    target: float | None
    measured: float | None
    unit: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.target is None or self.measured is None:
            return None
        return self.measured / self.target

    def cells(self) -> tuple[str, ...]:
        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:.3g} {self.unit}".strip()

        ratio = self.ratio
        verdict = "" if ratio is None else ("reached" if ratio <= 1 else "MISSED")
        shown = "-" if ratio is None else f"{ratio:.2f}"
        return (
            self.what,
            number(self.target),
            number(self.measured),
            shown,
            verdict,
            self.note,
        )


HEADER = ("what", "at most", "measured", "ratio", "", "note")


def markdown(rows: list[Row]) -> str:
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True)
class Times:
    """Seconds of interleaved calls, by subject, on the clock and of processors."""

    wall: Mapping[str, list[float]]
    processor: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.wall[name])

    def ratio(self, name: str, base: str) -> float:
        """Median of the ratios of neighbouring calls."""
        pairs = zip(self.wall[name], self.wall[base], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def processor_median(self, name: str) -> float:
        return statistics.median(self.processor[name])


def interleave(subjects: Mapping[str, Callable[[], object]], repeat: int) -> Times:
    """Call every subject once to warm up, then in turn, A B C A B C."""
    wall: dict[str, list[float]] = {name: [] for name in subjects}
    processor: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject()
    for _ in range(repeat):
        for name, subject in subjects.items():
            used, started = time.process_time(), time.perf_counter()
            told = subject()
            wall[name].append(time.perf_counter() - started)
            here = not isinstance(subject, RoundsElsewhere)
            processor[name].append(time.process_time() - used if here else told)
    return Times(wall, processor)


def machine() -> str:
    """One line about where this was measured, and how busy it was."""
    import platform

    import torch

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line for line in file if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    except OSError:
        pass
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{usable_cores()} cores ({name}), torch {torch.__version__}, load {load}; "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def tree_memory() -> int:
    """Proportional resident bytes of this process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    stat = file.read()
            except OSError:
                continue
            parent = int(stat[stat.rindex(")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(entry))
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        total += _proportional(process)
    return total


def _proportional(process: int) -> int:
    try:
        with open(f"/proc/{process}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def resident() -> int:
    """Resident bytes of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
