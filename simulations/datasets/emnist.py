"""EMNIST by writer, from TFF's, FedJAX's or LEAF's files.

A writer's train and test shards are one user here; the published reference code counts
them as two, which halves the protection of a writer. Training classes are 0-35 (digits
and capitals), held-out classes 36-61 (small letters), of all writers. Pixels keep the
published polarity: dark ink on white (Cohen et al. 2017, arXiv:1702.05373; Caldas et
al. 2018, arXiv:1812.01097).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import UserError
from simulations.datasets import official
from simulations.datasets.arrays import resized
from simulations.datasets.client_databases import fedjax_rows, tff_rows, unpacked
from simulations.datasets.grouping import by_user
from simulations.datasets.listing import digest
from simulations.datasets.prepared_files import prepared_root
from simulations.datasets.registry import LoadOptions

TRAIN_CLASSES = 36
NUM_CLASSES = 62
_TFF = ("emnist_all.sqlite", "emnist_all.sqlite.lzma")
_FEDJAX = ("federated_emnist_train.sqlite", "federated_emnist_test.sqlite")
Chunk = tuple[str, NDArray[np.floating], NDArray[np.integer]]


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """TFF's database, else FedJAX's two, else all JSON files of LEAF.

    Raises:
        NotAvailable: there is none of them.
    """
    folder = official.find_folder(options, "emnist", (*_TFF, *_FEDJAX))
    if folder is None:
        files = sorted((options.root / "emnist").rglob("*.json"))
        if not files:
            raise official.not_found(options)
        return files
    databases = [folder / name for name in _TFF if (folder / name).is_file()]
    files = [folder / name for name in _FEDJAX if (folder / name).is_file()]
    return databases[:1] or files


def load(options: LoadOptions) -> InMemoryDataset:
    """All writers' characters in memory, uint8 `[n, 28, 28, 1]`.

    Raises:
        NotAvailable: no official files.
        UserError: a file is damaged.
    """
    files = sources(options)
    if files[0].name in _TFF:
        database = unpacked(files[0], prepared_root(options))
        return _dataset(_from_tff(database), options)
    read = _from_fedjax if files[0].name in _FEDJAX else _from_leaf
    return _dataset(read(files), options)


def writer(client: str) -> str:
    """The writer behind a shard's name: `1a2b...:f0000_14` and `f0000_14` are one.

    Example:
        >>> writer("0f:f0000_14"), writer("f0000_14;TE")
        ('f0000_14', 'f0000_14')
    """
    return client.rpartition(":")[2].partition(";")[0]


def _dataset(chunks: Iterator[Chunk], options: LoadOptions) -> InMemoryDataset:
    users: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    for name, images, classes in chunks:
        if images.size != 784 * len(classes):
            raise UserError(
                f"{options.name}: {name} has {images.size} pixels for {len(classes)} "
                "characters of 784."
            )
        users += [name] * len(classes)
        scaled = np.clip(images, 0, 1).reshape(len(classes), 28, 28, 1) * 255
        pixels.append(np.rint(scaled).astype(np.uint8))
        labels.append(np.asarray(classes, dtype=np.int64).reshape(-1))
    label = np.concatenate([np.zeros(0, dtype=np.int64), *labels])
    if len(label) and not 0 <= label.min() <= label.max() < NUM_CLASSES:
        raise UserError(f"{options.name}: labels must lie in 0 .. {NUM_CLASSES - 1}.")
    empty = np.zeros((0, 28, 28, 1), dtype=np.uint8)
    image = resized(np.concatenate([empty, *pixels]), options.image_size)
    return by_user(
        fields={"image": image},
        users=users,
        labels=label.tolist(),
        held_out=label >= TRAIN_CLASSES,
        provenance=Provenance(
            name=options.name,
            source=Source.REAL,
            licence="NIST Special Database 19; public domain in the United States",
            checksum=digest(image, label),
            description="EMNIST by writer; classes 0-35 train, 36-61 held out",
        ),
    )


def _from_tff(path: Path) -> Iterator[Chunk]:
    for _, client, features in tff_rows(path, ("train", "test")):
        yield (
            writer(client),
            np.asarray(features["pixels"]),
            np.asarray(features["label"]),
        )


def _from_fedjax(paths: list[Path]) -> Iterator[Chunk]:
    for path in paths:
        for client, arrays in fedjax_rows(path):
            yield writer(client), arrays["pixels"], arrays["label"]


def _from_leaf(files: list[Path]) -> Iterator[Chunk]:
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for user in content["users"]:
                rows = content["user_data"][user]
                images = np.asarray(rows["x"], dtype=np.float32)
                yield writer(user), images, np.asarray(rows["y"], dtype=np.int64)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} is not a LEAF file ({error!r}); it needs `users` and "
                "`user_data`."
            ) from error
