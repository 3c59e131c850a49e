"""Data sets that are parsed once: what a reader made of its files, kept for later runs.

A reader that takes part is a module with `READER`, the version of what it makes,
`sources(options)`, the files that it reads, and `load(options)`. What it made lies in
one file below `prepared/` of the data root, with a key: a digest of the version, of the
options and of the name, size and time of change of every source. Another key, or
damage, and the sources are read again. Whoever changes what a reader makes of the same
files raises its `READER`.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, InMemoryDataset
from simulations.datasets.listing import digest
from simulations.datasets.prepared_files import (
    prepared_root,
    provenance_of,
    record_of,
    slug_of,
    stamp_of,
    written_whole,
)
from simulations.datasets.registry import LoadOptions

FORMAT = 1

WORTH_SECONDS = 1.0
"""What takes less to read is not kept: it would fill disks and save nothing."""

_NOT_ASKED = frozenset({"root", "path", "require_real", "keep"})


class Reader(Protocol):
    """A module whose data are kept."""

    READER: int
    sources: Callable[[LoadOptions], Sequence[Path]]
    load: Callable[[LoadOptions], InMemoryDataset]


def load_kept(reader: Reader, options: LoadOptions) -> InMemoryDataset:
    """What `reader.load(options)` returns, without reading a source if it was kept.

    Guarantees: equal to what the reader returns, provenance included; the file is
    written whole or not at all, and never inside the folder that the path names. One
    line on standard error says when it is written, and why what was there is of no use.

    Raises:
        UserError, NotAvailable: as the reader does.
    """
    files = reader.sources(options)
    path = kept_file(options)
    if options.path and _lies_in(path, Path(options.path)):
        return reader.load(options)
    key = key_of(reader.READER, options, files)
    found = _open(path, key)
    if isinstance(found, InMemoryDataset):
        return found
    start = time.perf_counter()
    data = reader.load(options)
    if not path.exists() and time.perf_counter() - start < WORTH_SECONDS:
        return data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as stream:
            np.savez(stream, **_arrays(data, key))
    except OSError as error:
        _say(f"{found}what was read cannot be kept ({error}); it is read in every run.")
        return data
    _say(f"{found}what was read of {options.name} is kept in {path} for later runs.")
    return data


def kept_file(options: LoadOptions) -> Path:
    """Where a data set read with these options is kept, whether there or not."""
    asked = hashlib.sha256(_asked(options).encode()).hexdigest()[:8]
    return prepared_root(options) / f"{slug_of(options)}-{asked}.npz"


def key_of(reader: int, options: LoadOptions, files: Sequence[Path]) -> str:
    """Digest of all that decides what a reader makes.

    Files are told apart by name, size and time of change, not by content.
    """
    summary = hashlib.sha256(f"{FORMAT} {reader} {_asked(options)}".encode())
    for file in files:
        name = os.fsencode(os.path.abspath(file))
        summary.update(name + b"\0" + str(stamp_of(file)).encode() + b"\0")
    return summary.hexdigest()


def _asked(options: LoadOptions) -> str:
    asked = {k: v for k, v in asdict(options).items() if k not in _NOT_ASKED}
    return json.dumps(asked, sort_keys=True)


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _arrays(data: InMemoryDataset, key: str) -> dict[str, Any]:
    facts = {
        "key": key,
        "provenance": record_of(data.provenance),
        "class_names": list(data.class_names),
        "user_ids": list(data.user_ids),
    }
    arrays: dict[str, NDArray[Any]] = {
        "facts": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    }
    for part, examples in (("train", data.examples), ("held_out", data.evaluation)):
        arrays[f"{part}_offsets"] = examples.offsets
        arrays |= {f"{part}/{name}": v for name, v in examples.fields.items()}
    return {**arrays, "digest": np.array(_digest(arrays))}


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    return digest(*(arrays[name] for name in sorted(arrays) if name != "digest"))


def _open(path: Path, key: str) -> InMemoryDataset | str:
    """What is kept under this key, or the beginning of a sentence that says why not."""
    if not path.is_file():
        return ""
    try:
        with np.load(path, allow_pickle=False) as content:
            facts = json.loads(content["facts"].tobytes())
            if facts["key"] != key:
                return f"the files behind {path} have changed; "
            arrays = dict(content)
        whole = str(arrays["digest"]) == _digest(arrays)
        return _dataset(facts, arrays) if whole else f"the file {path} is damaged; "
    except Exception:  # zip, zlib, header and missing keys alike
        return f"the file {path} is damaged; "


def _dataset(
    facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> InMemoryDataset:
    def part(name: str) -> Examples:
        prefix = f"{name}/"
        own = [key for key in arrays if key.startswith(prefix)]
        fields = {key.removeprefix(prefix): arrays[key] for key in own}
        return Examples(fields, arrays[f"{name}_offsets"])

    return InMemoryDataset(
        part("train"),
        part("held_out"),
        provenance_of(facts["provenance"]),
        class_names=facts["class_names"],
        user_ids=facts["user_ids"],
    )


def _say(text: str) -> None:
    print(text[0].upper() + text[1:], file=sys.stderr)
