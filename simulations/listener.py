"""What a run tells whoever watches it; the command line draws it, tests record it."""

from collections.abc import Mapping
from typing import Protocol

from fedemb.round import RoundReport


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

    def evaluation(self, row: Mapping[str, float]) -> None:
        """A row of `metrics.csv`."""
        ...


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

    def evaluation(self, row: Mapping[str, float]) -> None:
        """Ignored."""
