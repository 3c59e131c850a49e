"""The link between rounds and the ledger: who pays, for what, and when it is free."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from accounting import PrivacyLedger, Receipt, SampledGaussian


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

    Where rounds can only be paid for together (`mechanism.period`), the first of them,
    or the first after an interruption, pays for all, and the last commits them.

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
    _paid: dict[int, Receipt] = field(default_factory=dict, repr=False, compare=False)

    def reserve(self, round_index: int) -> Callable[[], None]:
        """Pay for a round before any data is read; returns its commit."""
        period, place = divmod(round_index, self.mechanism.period)
        last = place + 1 == self.mechanism.period or round_index + 1 == self.planned
        with self._lock:
            receipt = self._paid.pop(period, None) if place else None
            if receipt is None:
                receipt = self.ledger.reserve(
                    self.mechanism,
                    run_id=self.run_id,
                    round_index=period,
                    stage=self.stage,
                    fingerprint=self.fingerprint,
                    planned=self.mechanism.periods(self.planned) - period,
                )
            if not last:
                self._paid[period] = receipt

        def commit() -> None:
            with self._lock:
                if last:
                    self.ledger.commit(receipt)

        return commit


def settle(budget: LedgerBudget, completed: int) -> None:
    """Commit rounds whose result is durable, but whose commit a crash cut off.

    Without a fingerprint nothing is done: such a round stays reserved, hence paid.
    """
    done = set(budget.ledger.committed_rounds(budget.run_id, budget.stage))
    period = budget.mechanism.period
    periods = completed // period
    if completed == budget.planned:
        periods = budget.mechanism.periods(completed)
    for index in range(periods):
        if index not in done and budget.fingerprint:
            budget.reserve(min((index + 1) * period, budget.planned) - 1)()


class Unaccounted:
    """For runs without any privacy claim (z = 0): nothing is paid, nothing promised."""

    def reserve(self, round_index: int) -> Callable[[], None]:
        """Always granted."""
        del round_index
        return lambda: None
