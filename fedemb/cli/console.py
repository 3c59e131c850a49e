"""What a person sees: facts on standard error, progress bars on a terminal only."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from fedemb.metrics import IDENTITY_METRICS
from fedemb.round import RoundReport


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a count of things; yields `progress(done, total)`."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(what)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress


def shown_number(value: float | None) -> str:
    """A metric for people: four digits, or that it is not defined."""
    defined = value is not None and not math.isnan(value)
    return f"{value:.4f}" if defined else "not defined"


class ConsoleListener:
    """Draws a run on standard error; standard output stays free for `--json`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> "ConsoleListener":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def notice(self, text: str) -> None:
        """Something a person must not miss."""
        self._console.print("NOTICE ", style="bold yellow", end="")
        self._console.print(text, style="yellow", markup=False)

    def fact(self, name: str, value: str) -> None:
        """A line of what is about to happen."""
        self._console.print(f"{name:>16}  ", style="bold", end="")
        self._console.print(value, markup=False)

    def begin(self, stage: str, rounds: int, done: int) -> None:
        """A bar for the rounds of a stage."""
        note = f"resuming after round {done}" if done else ""
        self._task = self._bar.add_task(stage, total=rounds, completed=done, note=note)
        counted = f"{rounds} round{'s' * (rounds != 1)}"
        self.fact("stage", f"{stage}: {counted}{', ' + note if note else ''}")

    def round(self, stage: str, report: RoundReport, seconds: float) -> None:
        """One round further."""
        if self._task is not None:
            note = f"{seconds:.2f} s/round"
            self._bar.update(self._task, advance=1, note=note)

    def evaluation(self, row: Mapping[str, float], watched: Sequence[str]) -> None:
        """A line of the metrics that the system names; the report has them all.

        Data may lack what those are measured by, such as captions: then those that
        every system has are shown.
        """
        shown = [name for name in watched if name in row] or IDENTITY_METRICS
        metrics = "  ".join(f"{k} {shown_number(row[k])}" for k in shown if k in row)
        elapsed = time.perf_counter() - self._started
        self.fact(f"round {int(row['round'])}", f"{metrics}  ({elapsed:.0f} s)")
