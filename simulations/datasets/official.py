"""What the official splits have in common: tables that name images, users and classes.

The tables are those that TensorFlow Federated and FedVision publish; the images lie
anywhere below the folder of the tables, as `<image_id>.jpg`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedemb.data import Provenance, Source, UserDataset
from fedemb.errors import NotAvailable, UserError
from simulations.datasets import images
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import held_out_classes
from simulations.datasets.listing import (
    DEFAULT_SIDE,
    FileDataset,
    Listing,
    without_damaged,
)
from simulations.datasets.registry import LoadOptions, describe


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of an official table: image names (without suffix), users and classes."""

    ids: Sequence[str]
    users: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Official:
    """An official split as read from its tables.

    Attributes:
        folder: below which the images lie.
        tables: the files that were read.
        train: the training rows.
        test: the evaluation rows; None holds out a fifth of the classes.
        licence: of the images.
        description: one sentence.
    """

    folder: Path
    tables: tuple[Path, ...]
    train: Table
    test: Table | None
    licence: str
    description: str


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")


def find_folder(options: LoadOptions, name: str, files: Sequence[str]) -> Path | None:
    """The data root, or its subfolder `name`, whichever holds one of `files`."""
    for folder in (options.root / name, options.root):
        if any((folder / file).is_file() for file in files):
            return folder
    return None


def not_found(options: LoadOptions) -> NotAvailable:
    """What to say when the official files are not there."""
    return NotAvailable(missing_files(options))


def missing_files(options: LoadOptions) -> str:
    """One sentence: which files were looked for, and where; another of archives there.

    Archives are not unpacked unasked: they may be large, and the folder another's.
    """
    card = describe(options.name)
    said = (
        f"None of {', '.join(card.files)} is in {options.root / card.module} or "
        f"{options.root}; put the official files there, or name their folder with "
        "--root."
    )
    packed = sorted(
        path.name
        for path in (options.root / card.module).glob("*")
        if path.name.endswith(_ARCHIVES)
    )
    return f"{said} {', '.join(packed)} is there: unpack it first." if packed else said


def listing(official: Official, options: LoadOptions) -> Listing:
    """Look up the image files of an official split.

    Raises:
        UserError: images are missing and `skip_bad` is not set, or repeated rows.
    """
    train, test = official.train, official.test
    repeated = len(train.ids) - len(set(train.ids))
    if repeated:
        raise UserError(
            f"{options.name}: {repeated} images are listed more than once in the "
            "training table; an image must have one user."
        )
    found = images.image_files(official.folder)
    parts = [train] if test is None else [train, test]
    ids = [image for part in parts for image in part.ids]
    labels = [label for part in parts for label in part.labels]
    notices: tuple[str, ...] = ()
    if test is None:
        held_out = held_out_classes(labels, options.seed)
        notices = (
            f"no test table: the classes of {int(held_out.sum()):,} images, a fifth "
            f"chosen with seed {options.seed}, are held out for evaluation.",
        )
    else:
        held_out = np.arange(len(ids)) >= len(train.ids)
    bad = BadRows(len(ids))
    for row, image in enumerate(ids):
        if image not in found:
            bad.add(row, "no such file")
    provenance = Provenance(
        name=options.name,
        source=Source.REAL,
        licence=official.licence,
        description=official.description,
        notices=notices,
    )
    rows = Listing(
        images=[found.get(image, official.folder / f"{image}.jpg") for image in ids],
        users=[user for part in parts for user in part.users],
        labels=labels,
        held_out=held_out,
        provenance=provenance,
        skip_bad=options.skip_bad,
        channels=3,
        tables=official.tables,
    )
    provenance = bad.settle(provenance, options.skip_bad, rows.names)
    return replace(rows.keep(bad.good), provenance=provenance) if len(bad) else rows


def open_files(rows: Listing, options: LoadOptions) -> UserDataset:
    """The split, decoded as it is drawn; 64 pixels in colour unless told otherwise.

    With `skip_bad` every image is decoded once beforehand, to leave out the damaged
    ones; without it, a damaged image stops the run that draws it.
    """
    side = options.image_size or DEFAULT_SIDE
    return FileDataset(without_damaged(rows, side) if rows.skip_bad else rows, side)
