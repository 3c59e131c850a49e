"""`folder:PATH`: images with a `metadata.csv` beside them."""

from pathlib import Path

import numpy as np

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import NotAvailable
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.listing import Listing, open_in_memory
from simulations.datasets.partitions import is_partition
from simulations.datasets.registry import LoadOptions
from simulations.datasets.rows import clean_names, split_rows, users_of
from simulations.datasets.tables import header_of, read_csv


def load(options: LoadOptions) -> InMemoryDataset:
    """Every image of the folder, decoded and checked.

    Raises:
        NotAvailable: no such folder.
        UserError: bad rows that may not be skipped, or nothing to train on.
    """
    return open_in_memory(listing(options), options.image_size)


def listing(options: LoadOptions) -> Listing:
    """The rows of `metadata.csv`: `file_name`, `user_id`, `label` and maybe `split`.

    File names are relative to the folder and may not lead out of it, also not through
    symbolic links. A file may be listed once.
    """
    folder = Path(options.path)
    table = folder / "metadata.csv"
    if not table.is_file():
        raise NotAvailable(
            f"{table} does not exist; {options.name} needs this file, with columns "
            "file_name, user_id, label and optionally split."
        )
    user_column = options.user_column or "user_id"
    label_column = options.label_column or "label"
    image_column = options.image_column or "file_name"
    columns = [image_column, label_column]
    if not is_partition(user_column):
        columns.append(user_column)
    if "split" in [name.strip() for name in header_of(table)]:
        columns.append("split")
    values = read_csv(table, columns)

    files = values[image_column]
    bad = BadRows(len(files))
    paths = [_inside(folder, file, row, bad) for row, file in enumerate(files)]
    first: dict[Path, int] = {}
    for row, path in enumerate(paths):
        if first.setdefault(path, row) != row:
            bad.add(row, f"listed before, in row {first[path]}")
    labels = clean_names(values[label_column], label_column, bad)
    users, of_users = users_of(
        values.get(user_column), user_column, labels, options.seed, bad
    )
    held_out, of_split = split_rows(values.get("split"), labels, options.seed, bad)
    provenance = Provenance(
        name=options.name,
        source=Source.REAL,
        description=f"images of {folder}",
        notices=of_users + of_split,
    )
    provenance = bad.settle(provenance, options.skip_bad, files)
    rows = Listing(
        images=paths,
        users=users,
        labels=labels,
        held_out=np.asarray(held_out),
        provenance=provenance,
        skip_bad=options.skip_bad,
        tables=(table,),
    )
    return rows.keep(bad.good)


def _inside(folder: Path, file: str, row: int, bad: BadRows) -> Path:
    """The path of a file, which must lie in the folder and not be empty."""
    if not file or "\0" in file:
        bad.add(row, "no file name")
        return folder / f"row {row}"
    path = folder / file
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        inside = False
    if not inside:
        bad.add(row, "leads out of the folder")
    return path
