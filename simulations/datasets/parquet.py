"""`parquet:PATH`: a table, or a folder of tables, with encoded images in a column."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.listing import MEMORY_LIMIT, Listing, open_in_memory
from simulations.datasets.partitions import is_partition
from simulations.datasets.registry import LoadOptions
from simulations.datasets.rows import clean_names, split_rows, users_of

_STEP = 64  # rows read at a time


def load(options: LoadOptions) -> InMemoryDataset:
    """Every image of the table, decoded and checked.

    Raises:
        NotAvailable: no such file or folder.
        UserError: a column is missing, bad rows that may not be skipped, or nothing to
            train on.
    """
    return open_in_memory(listing(options), options.image_size)


def listing(options: LoadOptions) -> Listing:
    """The rows of the table: columns of users, labels, images and maybe `split`.

    The columns are `user_id`, `label` and `image` unless named otherwise. An image is a
    string of bytes, or a struct with a field `bytes`, as Hugging Face stores it.
    """
    user_column = options.user_column or "user_id"
    label_column = options.label_column or "label"
    image_column = options.image_column or "image"
    needed = [image_column, label_column]
    if not is_partition(user_column):
        needed.append(user_column)
    files = table_files(Path(options.path))
    table = _read(files, needed)
    rows = listing_of_columns(
        {name: table[name].to_pylist() for name in table.column_names},
        options,
        columns=(image_column, label_column, user_column),
        description=f"table {options.path}",
    )
    return replace(rows, tables=tuple(files))


def table_files(path: Path) -> list[Path]:
    """A parquet file, or those in a folder, sorted.

    Raises:
        NotAvailable: neither.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise NotAvailable(f"{path} is neither a parquet file nor a folder of them.")
    return files


def listing_of_columns(
    values: dict[str, list[Any]],
    options: LoadOptions,
    *,
    columns: tuple[str, str, str],
    description: str,
) -> Listing:
    """A listing from Python values; `columns` are image, label and user."""
    image_column, label_column, user_column = columns
    bad = BadRows(len(values[image_column]))
    images = [_content(v, row, bad) for row, v in enumerate(values[image_column])]
    labels = clean_names(values[label_column], label_column, bad)
    users, of_users = users_of(
        values.get(user_column), user_column, labels, options.seed, bad
    )
    held_out, of_split = split_rows(values.get("split"), labels, options.seed, bad)
    provenance = Provenance(
        name=options.name,
        source=Source.REAL,
        description=description,
        notices=of_users + of_split,
    )
    provenance = bad.settle(provenance, options.skip_bad)
    rows = Listing(
        images=images,
        users=users,
        labels=labels,
        held_out=np.asarray(held_out),
        provenance=provenance,
        skip_bad=options.skip_bad,
    )
    return rows.keep(bad.good)


def _read(files: list[Path], needed: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    tables, size = [], 0
    for file in files:
        try:
            names = parquet.read_schema(file).names
            missing = [name for name in needed if name not in names]
            if missing:
                raise UserError(
                    f"{file}: column {missing[0]!r} is missing; the table has "
                    f"{', '.join(names)}. Name the columns with --user-column, "
                    "--label-column and --image-column."
                )
            split = ["split"] if "split" in names else []
            table = _read_bounded(file, [*needed, *split], MEMORY_LIMIT - size)
            size += table.nbytes
            tables.append(table)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise UserError(f"{file} is not a parquet file: {reason}.") from error
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(
            f"{files[0].parent}: the tables differ in their columns."
        ) from error


def _read_bounded(file: Path, columns: list[str], room: int) -> Any:
    """Some columns of a file, in small steps: a few bytes may stand for many."""
    import pyarrow as pa
    from pyarrow import parquet

    batches, size = [], 0
    with parquet.ParquetFile(file) as source:
        for batch in source.iter_batches(batch_size=_STEP, columns=columns):
            size += batch.nbytes
            if size > room:
                raise UserError(
                    f"{file}: more than {MEMORY_LIMIT >> 30} GiB of encoded images; "
                    "store smaller ones, or use a folder and prepare it."
                )
            batches.append(batch)
        schema = pa.schema([source.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(batches, schema=None if batches else schema)


def _content(value: Any, row: int, bad: BadRows) -> bytes:
    """The bytes of an encoded image."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    bad.add(row, "image is missing" if content is None else "image is not bytes")
    return b""
