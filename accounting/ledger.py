"""The privacy ledger: the only thing allowed to spend, one file per population.

Guarantees:
- A reservation is durable before `reserve` returns (write-ahead log, synchronous), and
  counts from then on whether or not it is ever committed. A crash can cost budget,
  never privacy.
- `BudgetExhausted` is raised before anything is recorded, and only if an upper bound of
  epsilon, one more round included, exceeds the budget.
- Writers are serialised by SQLite, so two processes cannot both spend the last round.
- Several runs, stages and tuning runs on the same users compose.
- A corrupt, foreign or inconsistent file is refused and left untouched.

The noise and cohort of a round may not be chosen from what earlier rounds released:
what is composed is the schedule, and only its Renyi bound is known to survive such
choices
(Feldman and Zrnic, 2021, "Individual privacy accounting via a Renyi filter",
arXiv:2008.11193). The models trained may depend on earlier rounds in any way.
"""

import json
import math
import secrets
import sqlite3
from pathlib import Path
from typing import Any

from accounting import _store, _validate
from accounting.account import ACCOUNTANTS, adjacency_of, bounds
from accounting.budget import Budget, Counts, spends_of
from accounting.composition import common_adjacencies
from accounting.errors import BudgetExhausted, LedgerError
from accounting.ledger_records import LedgerEntry, Receipt, SpentReport, receipt_of
from accounting.mechanism import SampledGaussian


class PrivacyLedger:
    """Reserve before data is read, commit when the result is durable.

    One object per process, used by one thread at a time. The module states the
    guarantees.

    Example:
        >>> import tempfile
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...                             population=1000, users_per_round=10,
        ...                             noise_multiplier=1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ledger = PrivacyLedger.create(Path(folder) / "ledger.sqlite",
        ...         population_id="clinic", population=1000, budget_epsilon=2.0,
        ...         delta=1e-4)
        ...     receipt = ledger.reserve(one_round, run_id="first", round_index=0)
        ...     ledger.commit(receipt)
        ...     rounds = ledger.committed_rounds("first")
        ...     ledger.close()
        >>> rounds
        [0]
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.verify()
        header = {
            name: json.loads(value)
            for name, value in connection.execute("SELECT name, value FROM header")
        }
        self.population_id: str = header["population_id"]
        self.population: int = header["population"]
        self.budget_epsilon: float | None = header["budget_epsilon"]
        self.delta: float = header["delta"]
        self._budget = Budget(self.budget_epsilon, self.delta)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        population_id: str,
        population: int,
        budget_epsilon: float | None,
        delta: float,
    ) -> "PrivacyLedger":
        """A new, empty ledger.

        Args:
            path: of the file; must not exist.
            population_id: names the population whose budget this is.
            population: N, number of seats [users].
            budget_epsilon: not to be exceeded at `delta`; None for no limit.
            delta: in (0, 1).

        Raises:
            LedgerError: if the file exists or cannot be written.
            ValueError: if a number is out of range.
        """
        _validate.whole_at_least("population", population, 1)
        _validate.open_probability("delta", delta)
        if budget_epsilon is not None:
            _validate.positive(
                "budget_epsilon", budget_epsilon, "Use None for no limit."
            )
        header = {
            "population_id": population_id,
            "population": int(population),
            "budget_epsilon": budget_epsilon,
            "delta": delta,
        }
        _store.create(Path(path), header)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "PrivacyLedger":
        """An existing ledger, verified.

        Raises:
            LedgerError: if the file is missing, foreign, corrupt or inconsistent.
        """
        connection = _store.connect(Path(path))
        try:
            return cls(Path(path), connection)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open_or_create(
        cls,
        path: str | Path,
        *,
        population_id: str,
        population: int,
        budget_epsilon: float | None,
        delta: float,
    ) -> "PrivacyLedger":
        """The ledger at `path` if there is one, else a new one.

        An existing ledger keeps its budget; `budget_epsilon=None` accepts any.

        Raises:
            LedgerError: as `create` and `open`, or if the ledger belongs to another
                population or was given another budget or delta.
        """
        wanted = {
            "population_id": population_id,
            "population": population,
            "budget_epsilon": budget_epsilon,
            "delta": delta,
        }
        if not Path(path).exists():
            try:
                return cls.create(path, **wanted)  # type: ignore[arg-type]
            except LedgerError:
                if not Path(path).exists():
                    raise  # otherwise another process was quicker: open its file
        ledger = cls.open(path)
        for name, value in wanted.items():
            held = getattr(ledger, name)
            if held != value and not (name == "budget_epsilon" and value is None):
                ledger.close()
                raise LedgerError(
                    f"{name}={value!r} must equal the {held!r} of the ledger {path}; "
                    "a budget belongs to a population, so use another ledger only for "
                    "other users."
                )
        return ledger

    def reserve(
        self,
        mechanism: SampledGaussian,
        *,
        run_id: str,
        round_index: int,
        stage: str = "",
        fingerprint: str = "",
        planned: int = 1,
    ) -> Receipt:
        """Pay for one round (or one period, see below) before any data is read.

        Repeating an uncommitted reservation with the same non-empty fingerprint and
        mechanism returns the same receipt for free: a release repeated bit for bit is
        one release. Anything else is a new spend, and the old one stays counted.

        Samplers whose cost belongs to a period (shuffled, random-allocation,
        balls-in-bins) are paid a whole period at a time: `round_index` then counts
        periods, and a period broken off is paid again.

        Args:
            mechanism: what will run; of this ledger's population.
            run_id: names the run; with `stage` and `round_index`, the round.
            round_index: of the stage, from 0.
            stage: of the run.
            fingerprint: identifies everything that the release depends on.
            planned: reservations that are likely to follow, this one included; whether
                they all fit is then worked out at once. Changes nothing but speed.

        Raises:
            BudgetExhausted: if it does not fit; nothing was recorded.
            LedgerError: if the round was already committed, or is of other users.
            UnsupportedMechanism: if it shares no neighbouring relation with the rest.
        """
        _validate.whole_at_least("round_index", round_index, 0)
        if mechanism.population != self.population:
            raise LedgerError(
                f"population={mechanism.population} of the mechanism must equal the "
                f"{self.population} of the ledger of {self.population_id!r}; account "
                "what really runs."
            )
        text = mechanism.canonical()
        digest = _store.digest(text)
        self._budget.mechanisms.setdefault(digest, mechanism)
        # Work out the answer before locking, so that other writers do not wait for it.
        self._fits(digest, planned)
        key = (run_id, stage, int(round_index))
        with _store.transaction(self._connection, self.path):
            repeated = self._repeat(key, digest, fingerprint)
            if repeated is not None:
                return repeated
            if not self._fits(digest):
                raise BudgetExhausted(
                    f"epsilon={self.budget_epsilon:g} at delta={self.delta:g} would be "
                    f"exceeded by round {round_index} of run {run_id!r}; the ledger of "
                    f"{self.population_id!r} allows no more rounds at this noise."
                )
            receipt = secrets.token_hex(16)
            entry = ("reserve", receipt, *key, digest, fingerprint)
            _store.append(self._connection, entry)
            self._connection.execute(
                "INSERT OR IGNORE INTO mechanisms VALUES (?, ?)", (digest, text)
            )
            self._connection.execute(
                "INSERT INTO tally VALUES (?, 1) "
                "ON CONFLICT (digest) DO UPDATE SET count = count + 1",
                (digest,),
            )
        return receipt_of((receipt, *key, digest, fingerprint))

    def commit(self, receipt: Receipt) -> None:
        """Mark a paid round as done; it can then never be run again. Idempotent.

        Raises:
            LedgerError: if this ledger never gave the receipt, or the round was
                committed under another receipt.
        """
        key = (receipt.run_id, receipt.stage, receipt.round_index)
        row = (receipt.id, *key, receipt.mechanism_digest, receipt.fingerprint)
        with _store.transaction(self._connection, self.path):
            rows = self._rows_of(key)
            if ("reserve", *row) not in [other[:-1] for other in rows]:
                raise LedgerError(
                    f"receipt {receipt.id[:12]} must come from the ledger "
                    f"{self.path}; it was not given there."
                )
            done = [other[1] for other in rows if other[0] == "commit"]
            if done and done != [receipt.id]:
                raise LedgerError(
                    f"round {receipt.round_index} of run {receipt.run_id!r} was "
                    "already committed under another receipt."
                )
            if not done:
                _store.append(self._connection, ("commit", *row))

    def spent(
        self,
        *,
        delta: float | None = None,
        accountant: str = "pld",
        run_id: str | None = None,
    ) -> SpentReport:
        """Epsilon of everything reserved or committed, composed.

        Args:
            delta: the ledger's own by default.
            accountant: 'pld' or 'rdp'; the other answers where there is no bound.
            run_id: only what this run spent; everything by default. What its users are
                promised is the sum over all runs.

        Raises:
            ValueError: if an argument is out of range.
        """
        delta = self.delta if delta is None else delta
        _validate.open_probability("delta", delta)
        _validate.one_of("accountant", accountant, ACCOUNTANTS)
        counts = self._counts() if run_id is None else self._counts_of(run_id)
        self._load_mechanisms(counts)
        spends = spends_of(counts, self._budget.mechanisms)
        by_rdp, by_pld, used, note = bounds(spends, delta, accountant)
        chosen = by_pld if used == "pld" else by_rdp
        return SpentReport(
            epsilon=math.inf if chosen is None else chosen,
            epsilon_rdp=by_rdp,
            epsilon_pld=by_pld,
            delta=delta,
            accountant=used,
            reservations=sum(counts.values()),
            budget_epsilon=self.budget_epsilon,
            adjacency=adjacency_of(spends).value if spends else None,
            note=note,
        )

    def entries(self) -> list[LedgerEntry]:
        """Every spend, oldest first."""
        self._load_mechanisms(self._counts())
        rows = self._connection.execute(
            f"SELECT {_store.COLUMNS} FROM log ORDER BY seq"
        ).fetchall()
        done = {row[1] for row in rows if row[0] == "commit"}
        reserved = [row for row in rows if row[0] == "reserve"]
        return [
            LedgerEntry(
                sequence=number,
                run_id=row[2],
                stage=row[3],
                round_index=row[4],
                mechanism=self._budget.mechanisms[row[5]],
                fingerprint=row[6],
                time=row[7],
                committed=row[1] in done,
            )
            for number, row in enumerate(reserved, start=1)
        ]

    def committed_rounds(self, run_id: str, stage: str = "") -> list[int]:
        """Rounds of a run's stage that were committed, in increasing order."""
        rows = self._connection.execute(
            "SELECT round_index FROM log WHERE kind = 'commit' AND run_id = ? "
            "AND stage = ? ORDER BY round_index",
            (run_id, stage),
        )
        return [int(row[0]) for row in rows]

    def verify(self) -> None:
        """Check the file, the hash chain and the tallies.

        Raises:
            LedgerError: if anything is corrupt or inconsistent; the file is untouched.
        """
        try:
            _store.check(self._connection)
        except LedgerError as problem:
            raise LedgerError(
                f"{self.path} cannot be trusted: {problem}; restore it from a backup, "
                "nothing was changed."
            ) from None

    def close(self) -> None:
        """Let go of the file; the object cannot be used afterwards."""
        self._connection.close()

    def _rows_of(self, key: tuple[str, str, int]) -> list[tuple[Any, ...]]:
        return self._connection.execute(
            f"SELECT {_store.COLUMNS} FROM log "
            "WHERE run_id = ? AND stage = ? AND round_index = ?",
            key,
        ).fetchall()

    def _repeat(
        self, key: tuple[str, str, int], digest: str, fingerprint: str
    ) -> Receipt | None:
        """The earlier reservation that this one repeats bit for bit, if any."""
        rows = self._rows_of(key)
        if any(row[0] == "commit" for row in rows):
            raise LedgerError(
                f"round {key[2]} of run {key[0]!r} (stage {key[1]!r}) is already "
                "committed; resume after it, or use a new run_id."
            )
        if fingerprint:
            for row in rows:
                if row[5:7] == (digest, fingerprint):
                    return receipt_of(row[1:7], repeated=True)
        return None

    def _fits(self, digest: str, planned: int = 1) -> bool:
        counts = self._counts()
        self._load_mechanisms(counts)
        counts[digest] = counts.get(digest, 0) + 1
        common_adjacencies(spends_of(counts, self._budget.mechanisms))
        return self._budget.allows(counts, digest, planned)

    def _counts(self) -> Counts:
        return dict(self._connection.execute("SELECT digest, count FROM tally"))

    def _counts_of(self, run_id: str) -> Counts:
        rows = self._connection.execute(
            "SELECT digest, count(*) FROM log WHERE kind = 'reserve' AND run_id = ? "
            "GROUP BY digest",
            (run_id,),
        )
        return dict(rows)

    def _load_mechanisms(self, counts: Counts) -> None:
        if all(digest in self._budget.mechanisms for digest in counts):
            return
        for digest, text in self._connection.execute("SELECT * FROM mechanisms"):
            self._budget.mechanisms[digest] = SampledGaussian.from_json(
                json.loads(text)
            )
