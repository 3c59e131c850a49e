"""SQLite files of user-partitioned examples, as TFF and FedJAX publish them."""

import importlib
import lzma
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import NotAvailable, UserError
from simulations.datasets.tf_example import parse_example

UNPACKED_LIMIT = 16 << 30
"""Bytes that a compressed database may unpack to."""


def unpacked(path: Path, folder: Path) -> Path:
    """The database behind a `.lzma` file, unpacked once into `folder`.

    Raises:
        UserError: damaged, or larger than `UNPACKED_LIMIT`.
    """
    if path.suffix != ".lzma":
        return path
    target = folder / path.stem
    if target.is_file() and target.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{path.stem}.{os.getpid()}"
    written = 0
    try:
        with lzma.open(path) as packed, part.open("wb") as stream:
            while block := packed.read(1 << 24):
                written += len(block)
                if written > UNPACKED_LIMIT:
                    raise UserError(
                        f"{path} unpacks to more than {UNPACKED_LIMIT >> 30} GiB; this "
                        "is not the published file."
                    )
                stream.write(block)
        part.replace(target)
    except (lzma.LZMAError, EOFError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def tff_rows(
    path: Path, splits: tuple[str, ...]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(split, client, features) of every example of TFF's table `examples`.

    Raises:
        UserError: not such a database, or a damaged record.
    """
    marks = ", ".join("?" for _ in splits)
    query = (
        "SELECT split_name, client_id, serialized_example_proto FROM examples "
        f"WHERE split_name IN ({marks}) ORDER BY rowid"
    )
    for split, client, record in _rows(path, query, splits):
        try:
            features = parse_example(record)
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: a record of {_text(client)} is damaged ({error})."
            ) from error
        yield _text(split), _text(client), features


def fedjax_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(client, arrays) of every client of FedJAX's table `federated_data`.

    A client's arrays are a msgpack map, compressed with zlib; an array is an extension
    of type 1 that holds (shape, type, bytes). Needs the package `msgpack`.

    Raises:
        NotAvailable: `msgpack` is not installed.
        UserError: not such a database, or a damaged record.
    """
    try:
        msgpack: Any = importlib.import_module("msgpack")
    except ImportError as error:
        raise NotAvailable("FedJAX's files need the package msgpack.") from error

    def extension(code: int, content: bytes) -> NDArray[np.generic]:
        if code != 1:
            raise ValueError(f"extension {code} is not an array of numbers")
        shape, kind, values = msgpack.unpackb(content, raw=True)
        return np.frombuffer(values, dtype=np.dtype(kind.decode())).reshape(shape)

    query = "SELECT client_id, data FROM federated_data ORDER BY rowid"
    for client, content in _rows(path, query, ()):
        try:
            plain = zlib.decompressobj().decompress(content, 1 << 30)
            arrays = msgpack.unpackb(plain, ext_hook=extension, raw=False)
        except (zlib.error, ValueError, TypeError, msgpack.UnpackException) as error:
            raise UserError(f"{path}: {_text(client)} is damaged ({error}).") from error
        yield _text(client), arrays


def _rows(path: Path, query: str, values: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            yield from database.execute(query, values)
    except sqlite3.Error as error:
        raise UserError(f"{path} is not the published database: {error}.") from error


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
