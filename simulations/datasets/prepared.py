"""Prepared data sets: decoded once into memory-mapped shards, read by the row.

A prepared folder holds `NNNNN.npy` (uint8 `[rows, side, side, C]`), `NNNNN.json` (its
checksum and the rows that could not be decoded), `index.npz` (who owns which row) and,
written last, `manifest.json`. Rows lie grouped by user, so drawing a user touches one
place of one file, and memory is whatever the operating system keeps of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, Provenance
from fedemb.errors import UserError
from simulations.datasets.listing import digest
from simulations.datasets.prepared_files import (
    prepared_root,
    provenance_of,
    slug_of,
    stamp_of,
)
from simulations.datasets.registry import LoadOptions

VERSION = 1
_ROW = "row"  # of a draft: where an image lies among all shards


@dataclass(frozen=True)
class PreparedDataset:
    """A `UserDataset` over the shards of a folder.

    Fields: `image` uint8 `[n, side, side, C]`, `label` int64 `[n]`.

    Attributes:
        folder: what `prepare` wrote.

    Raises:
        UserError: the folder is unfinished, damaged, or of another version.
    """

    folder: Path

    def __post_init__(self) -> None:
        for name in ("manifest.json", "index.npz"):
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder / name} is missing: the preparation is unfinished; "
                    "run `fedemb datasets prepare` again, it goes on where it stopped."
                )
        if self.manifest.get("version") != VERSION:
            raise UserError(
                f"{self.folder} was prepared in format {self.manifest.get('version')}, "
                f"this is format {VERSION}; delete the folder and prepare it again."
            )
        self._refuse_stale()
        _ = self._index  # a damaged one is found now, not in some round

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What `prepare` wrote down."""
        try:
            content = json.loads((self.folder / "manifest.json").read_text())
        except ValueError as error:
            raise UserError(f"{self.folder}/manifest.json is damaged.") from error
        return dict(content)

    @cached_property
    def provenance(self) -> Provenance:
        """The source record of the files that were prepared."""
        return provenance_of(self.manifest["provenance"])

    @property
    def num_users(self) -> int:
        """Number of users with training images."""
        return len(self._index["offsets"]) - 1

    @property
    def num_classes(self) -> int:
        """Number of training classes."""
        return int(self.manifest["num_classes"])

    @property
    def class_names(self) -> Sequence[str]:
        """Names of all classes, by label."""
        return list(self.manifest["class_names"])

    def user_id(self, index: int) -> str:
        """The user's name in the source."""
        return str(self._index["user_ids"][index])

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """Training examples of `users`, one group per user, in the order asked for."""
        return self.complete(self.draft(users))

    def draft(self, users: NDArray[np.int64]) -> Examples:
        """Labels of the images of `users`, and where these are."""
        offsets = self._index["offsets"]
        starts, sizes = offsets[users], offsets[np.asarray(users) + 1] - offsets[users]
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(starts - ends[:-1], sizes) + np.arange(ends[-1])
        fields = {_ROW: self._index["rows"][rows], "label": self._index["labels"][rows]}
        return Examples(fields, ends)

    def complete(self, drafted: Examples) -> Examples:
        """The images of a draft, decoded."""
        rest = dict(drafted.fields)
        pixels = self._images(rest.pop(_ROW).astype(np.int64))
        return Examples({"image": pixels, **rest}, drafted.offsets)

    def held_out(self) -> Examples:
        """The evaluation examples."""
        rows = self._index["held_out_rows"]
        fields = {_ROW: rows, "label": self._index["held_out_labels"]}
        one_group = np.array([0, len(rows)], dtype=np.int64)
        return self.complete(Examples(fields, one_group))

    def verify(self) -> list[str]:
        """Names of shards whose bytes differ from what was written; reads them all."""
        shards = enumerate(self.manifest["shards"])
        return [s["file"] for number, s in shards if not self._is_whole(number)]

    def _is_whole(self, number: int) -> bool:
        try:
            found = digest(self._shard(number))
        except UserError:
            return False
        return bool(found == self.manifest["shards"][number]["checksum"])

    @cached_property
    def _index(self) -> dict[str, NDArray[Any]]:
        path = self.folder / "index.npz"
        try:
            with np.load(path, allow_pickle=False) as content:
                index = dict(content)
            right = digest_of_index(index) == self.manifest["index"]
        except Exception as error:  # zip, zlib, header and missing keys alike
            raise UserError(_damaged(path)) from error
        if not right:
            raise UserError(_damaged(path))
        return index

    @cached_property
    def _opened(self) -> dict[int, NDArray[np.uint8]]:
        return {}

    def _shard(self, number: int) -> NDArray[np.uint8]:
        if number not in self._opened:
            path = self.folder / self.manifest["shards"][number]["file"]
            try:
                self._opened[number] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}); delete it and its .json and run "
                    "`fedemb datasets prepare` again."
                ) from error
        return self._opened[number]

    def _images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(rows), *self.manifest["shape"]), dtype=np.uint8)
        per_shard = int(self.manifest["rows_per_shard"])
        shard_of = rows // per_shard
        for number in np.unique(shard_of):
            wanted = np.flatnonzero(shard_of == number)
            out[wanted] = self._shard(int(number))[rows[wanted] % per_shard]
        return out

    def _refuse_stale(self) -> None:
        for name, stamp in self.manifest["tables"].items():
            if Path(name).is_file() and stamp_of(Path(name)) != stamp:
                raise UserError(
                    f"{name} has changed since it was prepared into {self.folder}; "
                    "delete that folder and run `fedemb datasets prepare` again."
                )


def digest_of_index(index: Mapping[str, NDArray[Any]]) -> str:
    """Checksum of the arrays of `index.npz`, as the manifest has it."""
    return digest(*(index[name] for name in sorted(index)))


def _damaged(path: Path) -> str:
    return f"{path} is damaged; run `fedemb datasets prepare` again, it repairs it."


def open_prepared(options: LoadOptions) -> PreparedDataset | None:
    """The prepared shards of a data set, or None if there are none.

    Raises:
        UserError: they were prepared from other columns, or cannot be used.
    """
    folder = prepared_folder(options)
    if not (folder / "manifest.json").is_file():
        return None
    data = PreparedDataset(folder)
    if data.manifest["columns"] != columns_of(options):
        raise UserError(
            f"{folder} was prepared from the columns {data.manifest['columns']}, not "
            f"{columns_of(options)}; name the same, or delete the folder."
        )
    return data


def prepared_folder(options: LoadOptions) -> Path:
    """Where a data set's shards lie below the data root, whether there or not."""
    slug = slug_of(options)
    if options.user_column and not options.path:
        slug += f"-{re.sub('[^A-Za-z0-9_-]+', '-', options.user_column)}"
    return prepared_root(options) / f"{slug}-{options.image_size or 'own'}"


def columns_of(options: LoadOptions) -> list[str | None]:
    """The columns that a caller named."""
    return [options.user_column, options.label_column, options.image_column]
