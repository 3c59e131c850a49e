"""What a run tells whoever watches it; the command line draws it, tests record it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from fedemb.round import RoundReport

_LOG = logging.getLogger("fedemb")


class Listener(Protocol):
    """Hears what happens; cannot change it."""

    def notice(self, text: str) -> None:
        """Something a person must not miss, such as stand-in data."""
        ...

    def fact(self, name: str, value: str) -> None:
        """One line of what is about to happen."""
        ...

    def begin(self, stage: str, rounds: int, done: int) -> None:
        """A stage of `rounds` rounds begins, `done` of them from an earlier try."""
        ...

    def round(self, stage: str, report: RoundReport, seconds: float) -> None:
        """A round is over."""
        ...

    def evaluation(self, row: Mapping[str, float], watched: Sequence[str]) -> None:
        """A row of `metrics.csv`, and which few of its metrics the system names."""
        ...


class Logged:
    """Writes what happens to the log, for servers without a terminal."""

    def notice(self, text: str) -> None:
        """A warning."""
        _LOG.warning("%s", text)

    def fact(self, name: str, value: str) -> None:
        """A line."""
        _LOG.info("%s: %s", name, value)

    def begin(self, stage: str, rounds: int, done: int) -> None:
        """A line."""
        _LOG.info("stage %s: %d rounds, %d done", stage, rounds, done)

    def round(self, stage: str, report: RoundReport, seconds: float) -> None:
        """A line."""
        _LOG.info("%s round %d: %.2f s", stage, report.round_index, seconds)

    def evaluation(self, row: Mapping[str, float], watched: Sequence[str]) -> None:
        """A line of all metrics."""
        del watched
        _LOG.info("evaluation: %s", dict(row))


class Silent:
    """Hears everything and says nothing."""

    def notice(self, text: str) -> None:
        """Ignored."""

    def fact(self, name: str, value: str) -> None:
        """Ignored."""

    def begin(self, stage: str, rounds: int, done: int) -> None:
        """Ignored."""

    def round(self, stage: str, report: RoundReport, seconds: float) -> None:
        """Ignored."""

    def evaluation(self, row: Mapping[str, float], watched: Sequence[str]) -> None:
        """Ignored."""
