"""The link between rounds and the ledger: who pays, for what, and when it is free."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from accounting import PrivacyLedger, SampledGaussian


@dataclass(frozen=True)
class LedgerBudget:
    """Pays for the rounds of one stage of one run from a population's ledger.

    Attributes:
        ledger: of the population.
        mechanism: what every round costs.
        run_id: names the run in the ledger.
        stage: names the stage within the run.
        fingerprint: identifies everything a round depends on (key, configuration, data,
            engine, software). A round that was interrupted and is repeated under the
            same fingerprint is the same release, bit for bit, and is paid once. Empty
            when repeating bit for bit cannot be promised: the round is paid again.
        planned: rounds of the stage; the ledger checks that they fit all at once.

    Rounds are committed from the thread that saves checkpoints; a lock keeps it out of
    the way of the next reservation.
    """

    ledger: PrivacyLedger
    mechanism: SampledGaussian
    run_id: str
    stage: str = ""
    fingerprint: str = ""
    planned: int = 1
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def reserve(self, round_index: int) -> Callable[[], None]:
        """Pay for a round before any data is read; returns its commit."""
        with self._lock:
            receipt = self.ledger.reserve(
                self.mechanism,
                run_id=self.run_id,
                round_index=round_index,
                stage=self.stage,
                fingerprint=self.fingerprint,
                planned=self.planned - round_index,
            )

        def commit() -> None:
            with self._lock:
                self.ledger.commit(receipt)

        return commit


def settle(budget: LedgerBudget, completed: int) -> None:
    """Commit rounds whose result is durable, but whose commit a crash cut off.

    Without a fingerprint nothing is done: such a round stays reserved, hence paid.
    """
    done = set(budget.ledger.committed_rounds(budget.run_id, budget.stage))
    for round_index in range(completed):
        if round_index not in done and budget.fingerprint:
            budget.reserve(round_index)()


class Unaccounted:
    """For runs without any privacy claim (z = 0): nothing is paid, nothing promised."""

    def reserve(self, round_index: int) -> Callable[[], None]:
        """Always granted."""
        del round_index
        return lambda: None
