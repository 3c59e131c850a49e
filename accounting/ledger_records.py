"""What a ledger hands out: receipts, entries and the sum of everything spent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accounting.mechanism import SampledGaussian


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a round was paid for; `PrivacyLedger.commit` takes it back.

    Attributes:
        id: random, unique.
        run_id: which run; with `stage` and `round_index`, what was paid for.
        stage: of the run.
        round_index: of the stage.
        mechanism_digest: SHA-256 of the mechanism's canonical text.
        fingerprint: of everything that the release depends on; empty if unknown.
        repeated: whether an uncommitted reservation is repeated bit for bit, for free.
    """

    id: str
    run_id: str
    stage: str
    round_index: int
    mechanism_digest: str
    fingerprint: str
    repeated: bool = False


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One spend; `sequence` counts from 1 in the order of spending, `time` is UTC."""

    sequence: int
    run_id: str
    stage: str
    round_index: int
    mechanism: SampledGaussian
    fingerprint: str
    time: str
    committed: bool


@dataclass(frozen=True, kw_only=True)
class SpentReport:
    """What everything in a ledger costs together; fields as `EpsilonReport`.

    Attributes:
        reservations: how many spends are counted, committed or not.
        budget_epsilon: the budget; None if unlimited.
        adjacency: the relation that all spends share; None while there is none.
    """

    epsilon: float
    epsilon_rdp: float | None
    epsilon_pld: float | None
    delta: float
    accountant: str
    reservations: int
    budget_epsilon: float | None
    adjacency: str | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. An infinite epsilon is null, with "epsilon_text": "infinite"."""
        record: dict[str, Any] = dict(self.__dict__)
        for name in ("epsilon", "epsilon_rdp", "epsilon_pld"):
            if record[name] is not None and math.isinf(record[name]):
                record[name] = None
                record["epsilon_text"] = "infinite"
        return record


def receipt_of(row: Sequence[Any], repeated: bool = False) -> Receipt:
    """The receipt in a row of the log: (id, run, stage, round, digest, fingerprint)."""
    number, run_id, stage, index, digest, fingerprint = row
    return Receipt(
        id=number,
        run_id=run_id,
        stage=stage,
        round_index=index,
        mechanism_digest=digest,
        fingerprint=fingerprint,
        repeated=repeated,
    )
