"""The privacy ledger: a durable, append-only record of what a population has spent.

Budget belongs to a population, not to a run: several runs, stages and tuning runs over
the same users compose. A round is *reserved* before any data is read and *committed*
once its result is durable; both kinds count as spent, so a crash costs budget at worst
and privacy never. A reservation that is repeated bit for bit (same fingerprint) is the
same release and is not paid twice.

SQLite with a write-ahead log and `synchronous=FULL`; reserving takes the write lock
first, so that two processes cannot both spend the last round. Entries are chained by
hashes; a file that is corrupt or is not a ledger of this population is refused and left
as it is.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from accounting import _validate
from accounting.epsilon import composed_epsilon
from accounting.mechanism import SampledGaussian

_APPLICATION = 0x46454D42  # "FEMB"
_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE mechanisms (id INTEGER PRIMARY KEY, json TEXT NOT NULL UNIQUE);
CREATE TABLE reservations (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, stage TEXT NOT NULL,
  round_index INTEGER NOT NULL, mechanism INTEGER NOT NULL REFERENCES mechanisms(id),
  fingerprint TEXT NOT NULL, time TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX rounds ON reservations (run_id, stage, round_index);
CREATE TABLE commits (
  reservation INTEGER PRIMARY KEY REFERENCES reservations(id), time TEXT NOT NULL);
"""


class LedgerError(Exception):
    """The ledger cannot be used: corrupt, foreign, or used against its rules."""


class BudgetExhausted(Exception):
    """The next round would exceed the population's budget; nothing was spent."""


@dataclass(frozen=True)
class Receipt:
    """The right to run one round.

    Attributes:
        id: of the reservation.
        repeated: whether an earlier, uncommitted reservation is repeated bit for bit.
    """

    id: int
    repeated: bool


@dataclass(frozen=True)
class LedgerEntry:
    """One reservation, as listed by `fedemb ledger show`."""

    id: int
    run_id: str
    stage: str
    round_index: int
    mechanism: SampledGaussian
    fingerprint: str
    time: str
    committed: bool


class PrivacyLedger:
    """What a population has spent, and whether it can afford another round.

    Example:
        >>> import tempfile
        >>> from accounting.vocabulary import Sampler
        >>> m = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS, population=1000,
        ...                     users_per_round=10, noise_multiplier=1.0)
        >>> path = Path(tempfile.mkdtemp()) / "ledger.sqlite"
        >>> ledger = PrivacyLedger.create(path, population_id="toy", population=1000,
        ...                               budget_epsilon=1.0, delta=1e-5)
        >>> ledger.commit(ledger.reserve(m, run_id="a", round_index=0))
        >>> [(entry.run_id, entry.committed) for entry in ledger.entries()]
        [('a', True)]
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection
        about = dict(connection.execute("SELECT key, value FROM about"))
        self.population_id = about["population_id"]
        self.population = int(about["population"])
        self.delta = float(about["delta"])
        budget = about["budget_epsilon"]
        self.budget_epsilon = float(budget) if budget else None
        self._affordable: dict[tuple[tuple[str, int], ...], int] = {}

    @staticmethod
    def create(
        path: Path,
        *,
        population_id: str,
        population: int,
        budget_epsilon: float | None,
        delta: float,
    ) -> "PrivacyLedger":
        """A new ledger.

        Args:
            path: where; must not exist.
            population_id: names the users, such as a data set's name and checksum.
            population: number of users.
            budget_epsilon: never exceeded at `delta`; None records without a limit.
            delta: of (epsilon, delta).

        Raises:
            LedgerError: if the file exists or cannot be written.
        """
        _validate.delta(delta)
        if budget_epsilon is not None:
            _validate.positive("budget_epsilon", budget_epsilon)
        if path.exists():
            raise LedgerError(f"{path} already exists; a ledger is never overwritten.")
        about = {
            "population_id": population_id,
            "population": str(population),
            "budget_epsilon": "" if budget_epsilon is None else repr(budget_epsilon),
            "delta": repr(delta),
        }
        connection = _connect(path)
        with _refusing(path), _transaction(connection):
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        return PrivacyLedger(path, connection)

    @staticmethod
    def open(path: Path) -> "PrivacyLedger":
        """An existing ledger.

        Raises:
            LedgerError: if the file is missing, corrupt or something else.
        """
        if not path.is_file():
            raise LedgerError(f"{path} is not there; check the path of the ledger.")
        with _refusing(path):
            # Look before touching: a foreign file must stay as it is, byte for byte.
            look = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            with closing(look):
                found = look.execute("PRAGMA application_id").fetchone()[0]
            if found != _APPLICATION:
                raise LedgerError(
                    f"{path} is not a privacy ledger; it was left as it is."
                )
            ledger = PrivacyLedger(path, _connect(path))
        ledger.verify()
        return ledger

    @staticmethod
    def open_or_create(
        path: Path,
        *,
        population_id: str,
        population: int,
        budget_epsilon: float | None,
        delta: float,
    ) -> "PrivacyLedger":
        """The ledger at `path`, new if there is none.

        Raises:
            LedgerError: if it belongs to another population, or to another delta or
                budget than given.
        """
        if not path.exists():
            return PrivacyLedger.create(
                path,
                population_id=population_id,
                population=population,
                budget_epsilon=budget_epsilon,
                delta=delta,
            )
        ledger = PrivacyLedger.open(path)
        wanted = (population_id, population)
        found = (ledger.population_id, ledger.population)
        if wanted != found:
            raise LedgerError(
                f"{path} belongs to the population {found}, not to {wanted}; use one "
                "ledger per population."
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
        """Pay for one round, durably, before any data is read.

        Args:
            mechanism: what the round releases.
            run_id, stage, round_index: name the round.
            fingerprint: identifies everything the round depends on. An uncommitted
                reservation of the same round and non-empty fingerprint is repeated for
                free; otherwise both stay paid.
            planned: rounds that are likely to follow; affordability is checked for all
                of them at once, so that later reservations cost next to nothing.

        Raises:
            BudgetExhausted: if the round would exceed the budget; nothing is recorded.
            LedgerError: if the round has been committed before.
        """
        name = (run_id, stage, round_index)
        with _refusing(self._path), _transaction(self._connection):
            earlier = self._connection.execute(
                "SELECT r.id, r.fingerprint, r.mechanism, c.reservation FROM reservations r "
                "LEFT JOIN commits c ON c.reservation = r.id "
                "WHERE run_id = ? AND stage = ? AND round_index = ?",
                name,
            ).fetchall()
            number = self._mechanism_number(mechanism)
            for own, known, kind, committed in earlier:
                if committed is not None:
                    raise LedgerError(
                        f"round {round_index} of run {run_id!r} {stage} is already "
                        "committed and cannot run again."
                    )
                if fingerprint and known == fingerprint and kind == number:
                    return Receipt(own, repeated=True)
            self._check_budget(mechanism, planned)
            before = self._connection.execute(
                "SELECT id, hash FROM reservations ORDER BY id DESC LIMIT 1"
            ).fetchone() or (0, self.population_id)
            row = (before[0] + 1, *name, number, fingerprint, _now())
            self._connection.execute(
                "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, _link(before[1], (*row, mechanism.digest()))),
            )
            return Receipt(row[0], repeated=False)

    def commit(self, receipt: Receipt) -> None:
        """Record that a reserved round is complete and durable; idempotent."""
        with _refusing(self._path), _transaction(self._connection):
            known = self._connection.execute(
                "SELECT 1 FROM reservations WHERE id = ?", (receipt.id,)
            ).fetchone()
            if known is None:
                raise LedgerError(f"receipt {receipt.id} is not of the ledger {self._path}.")
            self._connection.execute(
                "INSERT OR IGNORE INTO commits VALUES (?, ?)", (receipt.id, _now())
            )

    def composition(self, run_id: str | None = None) -> list[tuple[SampledGaussian, int]]:
        """Everything reserved or committed, as (mechanism, rounds); of one run if named."""
        query = (
            "SELECT m.json, count(*) FROM reservations r JOIN mechanisms m "
            "ON m.id = r.mechanism WHERE ?1 IS NULL OR r.run_id = ?1 GROUP BY m.id"
        )
        with _refusing(self._path):
            rows = self._connection.execute(query, (run_id,)).fetchall()
        return [(_mechanism(text), int(count)) for text, count in rows]

    def spent(
        self,
        *,
        delta: float | None = None,
        accountant: str = "pld",
        run_id: str | None = None,
    ) -> float:
        """Epsilon of everything reserved or committed (by one run, if named)."""
        rounds = tuple(self.composition(run_id))
        return _epsilon(rounds, delta or self.delta, accountant)

    def entries(self) -> list[LedgerEntry]:
        """All reservations, oldest first."""
        query = (
            "SELECT r.id, run_id, stage, round_index, m.json, fingerprint, r.time, "
            "c.reservation IS NOT NULL FROM reservations r JOIN mechanisms m "
            "ON m.id = r.mechanism LEFT JOIN commits c ON c.reservation = r.id ORDER BY r.id"
        )
        with _refusing(self._path):
            rows = self._connection.execute(query).fetchall()
        return [
            LedgerEntry(*row[:4], _mechanism(row[4]), row[5], row[6], bool(row[7]))
            for row in rows
        ]

    def committed_rounds(self, run_id: str, stage: str = "") -> list[int]:
        """Indices of the committed rounds of a run's stage, in order."""
        query = (
            "SELECT round_index FROM reservations r JOIN commits c ON c.reservation = r.id "
            "WHERE run_id = ? AND stage = ? ORDER BY round_index"
        )
        with _refusing(self._path):
            rows = self._connection.execute(query, (run_id, stage)).fetchall()
        return [int(row[0]) for row in rows]

    def verify(self) -> None:
        """Check the file and the chain of hashes.

        Raises:
            LedgerError: naming the first entry that does not fit.
        """
        with _refusing(self._path):
            health = self._connection.execute("PRAGMA integrity_check").fetchone()[0]
            if health != "ok":
                raise LedgerError(f"{self._path} is corrupt: {health}")
            rows = self._connection.execute(
                "SELECT r.id, run_id, stage, round_index, mechanism, fingerprint, time, "
                "m.json, hash FROM reservations r JOIN mechanisms m ON m.id = r.mechanism "
                "ORDER BY r.id"
            ).fetchall()
            total = self._connection.execute("SELECT count(*) FROM reservations").fetchone()
        before = self.population_id
        for position, row in enumerate(rows, start=1):
            if row[0] != position or row[-1] != _link(before, row[:-1]):
                raise LedgerError(f"{self._path} was altered at entry {row[0]}.")
            before = row[-1]
        if total[0] != len(rows):
            raise LedgerError(f"{self._path} names a mechanism that is not recorded.")

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def _mechanism_number(self, mechanism: SampledGaussian) -> int:
        text = mechanism.digest()
        self._connection.execute("INSERT OR IGNORE INTO mechanisms (json) VALUES (?)", (text,))
        row = self._connection.execute(
            "SELECT id FROM mechanisms WHERE json = ?", (text,)
        ).fetchone()
        return int(row[0])

    def _check_budget(self, mechanism: SampledGaussian, planned: int) -> None:
        if self.budget_epsilon is None:
            return
        counts = dict(self.composition())
        used = counts.pop(mechanism, 0)
        others = tuple(sorted(counts.items(), key=lambda item: item[0].digest()))
        known = (*((m.digest(), n) for m, n in others), (mechanism.digest(), -1))
        limit = self._affordable.get(known, -1)
        if used + 1 > limit >= used:
            limit = -1  # the limit was only what had been planned for: look again
        if limit < 0:
            limit = self._most(mechanism, others, used, max(planned, 1))
            self._affordable[known] = limit
        if used + 1 > limit:
            raise BudgetExhausted(
                f"one more round would exceed the budget of epsilon={self.budget_epsilon:g} "
                f"at delta={self.delta:.3g} in {self._path}; {used} rounds of this kind are "
                "spent. Use a larger budget, more noise, or a smaller cohort."
            )

    def _most(
        self,
        mechanism: SampledGaussian,
        others: tuple[tuple[SampledGaussian, int], ...],
        used: int,
        planned: int,
    ) -> int:
        """How many of the next `planned` rounds fit, as a total count."""

        def fits(count: int) -> bool:
            rounds = (*others, (mechanism, count))
            return _epsilon(rounds, self.delta, "pld") <= (self.budget_epsilon or 0.0)

        if fits(used + planned):
            return used + planned
        low, high = used, used + planned
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


@lru_cache(maxsize=256)
def _epsilon(
    rounds: tuple[tuple[SampledGaussian, int], ...], delta: float, accountant: str
) -> float:
    from accounting import pld

    if accountant == "pld" and not all(pld.supports(m) for m, _ in rounds):
        accountant = "rdp"  # both are upper bounds
    return composed_epsilon(rounds, delta, accountant) if rounds else 0.0


@lru_cache(maxsize=256)
def _mechanism(text: str) -> SampledGaussian:
    return SampledGaussian.from_json(json.loads(text))


def _link(before: str, row: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps([before, *row]).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _connect(path: Path) -> sqlite3.Connection:
    with _refusing(path):
        connection = sqlite3.connect(
            path, timeout=60, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"ledger {path} cannot be used: {error}.") from error
