"""What all prepared data have in common: where they lie, and how files are written."""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from fedemb.data import Provenance, Source
from simulations.datasets.registry import LoadOptions, describe


def prepared_root(options: LoadOptions) -> Path:
    """The folder of all that is prepared, below the data root."""
    return options.root / "prepared"


def slug_of(options: LoadOptions) -> str:
    """What names of prepared files and folders of a data set begin with.

    Paths of the same last part differ in eight digits of a digest of the whole.

    Example:
        >>> slug_of(LoadOptions(name="emnist"))
        'emnist'
        >>> slug_of(LoadOptions(name="npz:my files.npz", path="/my files.npz"))
        'npz-my-files-npz-f04a5f2f'
    """
    slug = describe(options.name).name.removesuffix(":PATH")
    if not options.path:
        return slug
    full = Path(options.path).resolve()
    tail = re.sub(r"[^A-Za-z0-9_-]+", "-", full.name)[:40]
    return f"{slug}-{tail}-{hashlib.sha256(os.fsencode(full)).hexdigest()[:8]}"


def stamp_of(path: Path) -> list[int]:
    """Size and time of change of a file, to notice that it is another one."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def record_of(provenance: Provenance) -> dict[str, Any]:
    """A source record as JSON can hold it."""
    return {**asdict(provenance), "source": provenance.source.value}


def provenance_of(record: Mapping[str, Any]) -> Provenance:
    """The source record behind `record_of`.

    Raises:
        KeyError, TypeError, ValueError: it is none.

    Example:
        >>> source = Provenance(name="toy", source=Source.REAL, notices=("a", "b"))
        >>> provenance_of(record_of(source)) == source
        True
    """
    source, notices = Source(record["source"]), tuple(record["notices"])
    return Provenance(**{**record, "source": source, "notices": notices})


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file at its end, or nothing does.

    Meanwhile it is a hidden part file beside it, locked by its writer. What writers
    that were killed have left in the folder is removed first; an operating system
    unlocks the files of a process that has ended, whatever ended it.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    _remove_orphans(path.parent)
    part, stream = _own_part(path)
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            part.replace(path)  # as long as it is locked
    finally:
        part.unlink(missing_ok=True)


def _own_part(path: Path) -> tuple[Path, BinaryIO]:
    """A new part file, locked where the file system knows locks."""
    while True:
        part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
        stream = part.open("xb")
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        if _is_of(part, stream):
            return part, stream
        stream.close()  # taken for an orphan before it was locked


def _remove_orphans(folder: Path) -> None:
    """Remove part files that no living process has locked; where in doubt, none."""
    for part in folder.glob(".*.part-*"):
        with suppress(OSError), part.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_of(part, stream):
                part.unlink()


def _is_of(path: Path, stream: BinaryIO) -> bool:
    """Whether a path still names the file of a stream."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
