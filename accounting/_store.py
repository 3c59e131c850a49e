"""The ledger's file: an append-only, hash-chained log in SQLite.

Every entry carries the hash of the one before it, and the first one that of the file's
own header, so that a missing, altered or foreign entry shows. Entries are never
changed: a commit is an entry of its own that names the reservation.
"""

import hashlib
import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accounting.errors import LedgerError

APPLICATION_ID = 0x666C6467
"""Marks the file as a ledger (SQLite header, bytes 68-71)."""

SCHEMA = 1

_TABLES = """
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE mechanisms (digest TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('reserve', 'commit')),
    receipt TEXT NOT NULL,
    run_id TEXT NOT NULL, stage TEXT NOT NULL, round_index INTEGER NOT NULL,
    digest TEXT NOT NULL, fingerprint TEXT NOT NULL, time TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
);
CREATE INDEX by_round ON log (run_id, stage, round_index);
CREATE TABLE tally (digest TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""

COLUMNS = "kind, receipt, run_id, stage, round_index, digest, fingerprint, time"


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def chain(previous: str, entry: tuple[Any, ...]) -> str:
    """The hash of an entry that follows `previous`."""
    return digest(json.dumps([previous, *entry]))


def create(path: Path, header: dict[str, Any]) -> None:
    """Write a new, empty ledger; the file appears complete or not at all.

    Raises:
        LedgerError: if something is already there, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise LedgerError(f"{path} could not be created: {problem}.") from None
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        draft.unlink(missing_ok=True)
        connection = sqlite3.connect(draft)
        with connection:
            connection.executescript(_TABLES)
            connection.executemany(
                "INSERT INTO header VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in header.items()],
            )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.close()
        os.link(draft, path)  # unlike a rename, refuses to replace anything
        _sync_folder(path.parent)
    except FileExistsError:
        raise LedgerError(
            f"{path} already exists; open it, or choose another."
        ) from None
    except (OSError, sqlite3.Error) as problem:
        raise LedgerError(f"{path} could not be created: {problem}.") from None
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where the platform allows it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def connect(path: Path) -> sqlite3.Connection:
    """Open a ledger for reading and writing; a foreign file is left untouched.

    Raises:
        LedgerError: if the file is missing, foreign, of another version, or unreadable.
    """
    _check_file(path)
    try:
        connection = sqlite3.connect(
            path, timeout=120, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as problem:
        raise LedgerError(f"{path} could not be opened: {problem}.") from None
    return connection


def _check_file(path: Path) -> None:
    """Look at the first bytes only, before SQLite touches anything."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError as problem:
        raise LedgerError(f"{path} could not be read: {problem.strerror}.") from None
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise LedgerError(f"{path} is not a ledger (no SQLite file); left untouched.")
    version, application = struct.unpack(">I4xI", head[60:72])
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is another program's SQLite file; left untouched.")
    if version != SCHEMA:
        raise LedgerError(
            f"{path} has ledger schema {version}, this version reads {SCHEMA}; "
            "install the version that wrote it."
        )


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """One writer at a time, all or nothing.

    Raises:
        LedgerError: if the file cannot be locked or written (a full disk, for example).
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.Error as problem:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise LedgerError(f"{path} could not be written: {problem}.") from None


def append(connection: sqlite3.Connection, entry: tuple[Any, ...]) -> None:
    """Add an entry (kind ... fingerprint) to the log, inside a transaction."""
    dated = (*entry, datetime.now(UTC).isoformat(timespec="seconds"))
    connection.execute(
        f"INSERT INTO log ({COLUMNS}, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*dated, chain(last_hash(connection), dated)),
    )


def last_hash(connection: sqlite3.Connection) -> str:
    """Hash of the newest entry, or of the header if there is none."""
    row = connection.execute(
        "SELECT hash FROM log ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return str(row[0]) if row else header_hash(connection)


def header_hash(connection: sqlite3.Connection) -> str:
    """Where the chain starts."""
    rows = connection.execute("SELECT name, value FROM header ORDER BY name").fetchall()
    return digest(json.dumps(rows))


def check(connection: sqlite3.Connection) -> None:
    """Recompute everything that can be.

    Raises:
        LedgerError: naming the first inconsistency.
    """
    try:
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if sound != "ok":
            raise LedgerError(f"the file is corrupt ({sound})")
        previous, counts = header_hash(connection), dict[str, int]()
        reserved, committed = dict[str, tuple[Any, ...]](), set[str]()
        rows = connection.execute(f"SELECT {COLUMNS}, hash, seq FROM log ORDER BY seq")
        for number, (*entry, value, seq) in enumerate(rows, start=1):
            if seq != number or chain(previous, tuple(entry)) != value:
                raise LedgerError(f"entry {number} does not follow from the one before")
            kind, receipt, *rest = entry[:-1]
            if kind == "reserve":
                counts[rest[3]] = counts.get(rest[3], 0) + 1
                if receipt in reserved:
                    raise LedgerError(f"entry {number} reserves a receipt twice")
                reserved[receipt] = tuple(rest)
            elif reserved.get(receipt) != tuple(rest) or receipt in committed:
                raise LedgerError(f"entry {number} commits what was not reserved")
            else:
                committed.add(receipt)
            previous = value
        if dict(connection.execute("SELECT digest, count FROM tally")) != counts:
            raise LedgerError("the tally differs from the entries")
        known = dict(connection.execute("SELECT digest, json FROM mechanisms"))
    except sqlite3.Error as problem:
        raise LedgerError(f"the file is corrupt ({problem})") from None
    for name in counts:
        if digest(known.get(name, "")) != name:
            raise LedgerError(f"mechanism {name[:12]} is missing or altered")
