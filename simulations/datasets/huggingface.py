"""`hf:NAME`: Hugging Face data sets with a column of users (extra `hub`).

NAME is a folder that `save_to_disk` wrote, or the name of a data set on the hub. Code
that comes with a data set is never run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fedemb.data import InMemoryDataset
from fedemb.errors import NotAvailable, UserError
from simulations.datasets.images import MAX_BYTES
from simulations.datasets.listing import Listing, open_in_memory
from simulations.datasets.parquet import listing_of_columns
from simulations.datasets.partitions import is_partition
from simulations.datasets.registry import LoadOptions


class NaturalPartitions(Protocol):
    """What is used of Flower Datasets' `NaturalIdPartitioner`."""

    num_partitions: int
    partition_id_to_natural_id: Mapping[int, Any]

    def load_partition(self, partition_id: int) -> Any:
        """The rows of one user."""
        ...


def load(options: LoadOptions) -> InMemoryDataset:
    """Every image of the data set, decoded and checked.

    Raises:
        NotAvailable: the package `datasets` or the data set is missing.
        UserError: a column is missing, bad rows that may not be skipped, or nothing to
            train on.
    """
    return open_in_memory(listing(options), options.image_size)


def listing(options: LoadOptions) -> Listing:
    """The rows of all splits; split names other than train are held out."""
    found = _open(options.path)
    parts = dict(found) if isinstance(found, Mapping) else {"": found}
    values: dict[str, list[Any]] = {}
    for split, part in parts.items():
        rows = _columns(part, options)
        if split:
            rows["split"] = [split] * len(part)
        for name, column in rows.items():
            values.setdefault(name, []).extend(column)
    return listing_of_columns(
        values,
        options,
        columns=_names(options),
        description=f"Hugging Face data set {options.path}",
    )


def from_natural_ids(
    partitions: NaturalPartitions, options: LoadOptions
) -> InMemoryDataset:
    """A data set from Flower Datasets' natural-id partitioner: a partition is a user.

    Args:
        partitions: a `NaturalIdPartitioner` whose `dataset` is set.
        options: names of the image and label columns, size, seed; see `options_for`.

    Raises:
        UserError: a column is missing, or bad rows that may not be skipped.
    """
    image_column, label_column, user_column = _names(options)
    count = partitions.num_partitions  # fills the table of natural ids
    values: dict[str, list[Any]] = {}
    for number in range(count):
        part = partitions.load_partition(number)
        rows = _columns(part, options, with_users=False)
        natural = partitions.partition_id_to_natural_id[number]
        rows[user_column] = [natural] * len(part)
        for name, column in rows.items():
            values.setdefault(name, []).extend(column)
    rows_of_all = listing_of_columns(
        values,
        options,
        columns=(image_column, label_column, user_column),
        description=f"{count} natural partitions of Flower Datasets",
    )
    return open_in_memory(rows_of_all, options.image_size)


def _names(options: LoadOptions) -> tuple[str, str, str]:
    return (
        options.image_column or "image",
        options.label_column or "label",
        options.user_column or "user_id",
    )


def _open(name: str) -> Any:
    try:
        import datasets  # type: ignore[import-not-found,unused-ignore]

        datasets.load_dataset  # noqa: B018  # a folder of that name imports as well
    except (ImportError, AttributeError) as error:
        raise NotAvailable(
            "hf: needs the package datasets; install fedemb with the extra hub."
        ) from error
    folder = Path(name)
    try:
        if folder.is_dir():
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name)
    except Exception as error:  # hub, network and file errors have no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise NotAvailable(f"data set hf:{name} cannot be opened: {reason}") from error


def _columns(
    part: Any, options: LoadOptions, *, with_users: bool = True
) -> dict[str, list[Any]]:
    """The wanted columns of a split as Python values, images still encoded."""
    from datasets import Image  # type: ignore[import-not-found,unused-ignore]

    image_column, label_column, user_column = _names(options)
    wanted = [image_column, label_column]
    if with_users and not is_partition(user_column):
        wanted.append(user_column)
    missing = [name for name in wanted if name not in part.column_names]
    if missing:
        raise UserError(
            f"{options.name}: column {missing[0]!r} is missing; the data set has "
            f"{', '.join(part.column_names)}. Name the columns with --user-column, "
            "--label-column and --image-column."
        )
    if isinstance(part.features[image_column], Image):
        part = part.cast_column(image_column, Image(decode=False))
    part = part.with_format(None)
    columns = {name: list(part[name]) for name in wanted}
    columns[image_column] = [_with_bytes(value) for value in columns[image_column]]
    names = getattr(part.features[label_column], "names", None)
    if names:
        columns[label_column] = [
            names[v] if isinstance(v, int) and 0 <= v < len(names) else None
            for v in columns[label_column]
        ]
    return columns


def _with_bytes(value: Any) -> Any:
    """An encoded image; where only a path is stored, the file's content."""
    if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
        path = Path(str(value["path"]))
        usable = path.is_file() and path.stat().st_size <= MAX_BYTES
        return {"bytes": path.read_bytes() if usable else None}
    return value
