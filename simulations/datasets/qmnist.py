"""QMNIST by writer (Yadav and Bottou 2019, arXiv:1905.10498).

The extended labels, `qmnist-<part>-labels-idx2-int[.gz]`, have eight columns: digit,
NIST series, writer, index of the writer's digit, NIST class, index in the series, and
two more. Writers are users; a fifth of the digits is held out.
"""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import UserError
from simulations.datasets import official
from simulations.datasets.arrays import resized
from simulations.datasets.grouping import by_user, held_out_classes
from simulations.datasets.listing import MEMORY_LIMIT, digest
from simulations.datasets.registry import LoadOptions

_PARTS = ("train", "test")
_TYPES: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 12: np.dtype(">i4")}
_DIGIT, _WRITER = 0, 2


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """Labels and images of the parts of which both are there, in turn.

    Raises:
        NotAvailable: no labels.
        UserError: labels without images.
    """
    names = [f"qmnist-{part}-labels-idx2-int" for part in _PARTS]
    files = [f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    folder = official.find_folder(options, "qmnist", files)
    if folder is None:
        raise official.not_found(options)
    found: list[Path] = []
    for part in _PARTS:
        table = _either(folder / f"qmnist-{part}-labels-idx2-int")
        pixels = _either(folder / f"qmnist-{part}-images-idx3-ubyte")
        if table.is_file() and pixels.is_file():
            found += [table, pixels]
    if not found:
        raise UserError(f"{folder}: the labels are there but no images idx3-ubyte.")
    return found


def load(options: LoadOptions) -> InMemoryDataset:
    """All digits in memory, uint8 `[n, 28, 28, 1]`, bright ink on black.

    Raises:
        NotAvailable: no official files.
        UserError: a file is damaged.
    """
    files = sources(options)
    images, labels = [], []
    for table, pixels in zip(files[::2], files[1::2], strict=True):
        labels.append(read_idx(table))
        images.append(read_idx(pixels))
        if labels[-1].ndim != 2 or len(labels[-1]) != len(images[-1]):
            raise UserError(
                f"{table}: shape {labels[-1].shape} does not go with images of "
                f"shape {images[-1].shape}."
            )
    image = np.concatenate(images).astype(np.uint8)[..., None]
    rows = np.concatenate(labels)
    digits = rows[:, _DIGIT].tolist()
    held_out = held_out_classes(digits, options.seed)
    chosen = sorted({d for d, out in zip(digits, held_out, strict=True) if out})
    notice = f"digits {chosen}, chosen with seed {options.seed}, are held out."
    image = resized(image, options.image_size)
    return by_user(
        fields={"image": image},
        users=rows[:, _WRITER].tolist(),
        labels=digits,
        held_out=held_out,
        provenance=Provenance(
            name=options.name,
            source=Source.REAL,
            licence="BSD-3-Clause",
            checksum=digest(image, rows),
            description="QMNIST digits by writer",
            notices=(notice,),
        ),
    )


def read_idx(path: Path) -> NDArray[np.generic]:
    """An array of the MNIST family's IDX format, plain or gzipped.

    Raises:
        UserError: not IDX, of another type than bytes or 32-bit integers, or truncated.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as stream:
            content = stream.read(MEMORY_LIMIT)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise UserError(f"{path} is not an IDX file of bytes or 32-bit integers.")
    kind, axes = _TYPES[content[2]], content[3]
    shape = np.frombuffer(content[4 : 4 + 4 * axes], dtype=">u4").astype(np.int64)
    body = content[4 + 4 * axes :]
    expected = int(np.prod(shape, dtype=object)) * kind.itemsize if axes else 0
    if len(shape) != axes or len(body) != expected:
        raise UserError(f"{path}: {len(body)} bytes of data where {expected} belong.")
    return np.asarray(np.frombuffer(body, dtype=kind).reshape(shape))


def _either(path: Path) -> Path:
    return path if path.is_file() else path.with_name(f"{path.name}.gz")
