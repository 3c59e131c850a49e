"""FLAIR: Flickr photographs by photographer (Song et al. 2022, arXiv:2207.08869).

`labels_and_metadata.json` lists `image_id`, `user_id`, `labels`, `fine_grained_labels`
and `partition`; images are `small_images/<image_id>.jpg`. An image has several labels;
its class here is the rarest of them in the training partition, which says most about
it. `label_column` chooses `labels` (17 coarse, the default) or `fine_grained_labels`.
"""

import json
from collections import Counter
from typing import Any

from fedemb.data import UserDataset
from fedemb.errors import UserError
from simulations.datasets import official
from simulations.datasets.listing import Listing
from simulations.datasets.official import Official, Table
from simulations.datasets.registry import LoadOptions

_FILE = "labels_and_metadata.json"
_COLUMNS = ("labels", "fine_grained_labels")


def load(options: LoadOptions) -> UserDataset:
    """The photographs below the data root; partition `test` is held out.

    Raises:
        NotAvailable: no official file.
        UserError: the file is damaged, or images are missing.
    """
    return official.open_files(listing(options), options)


def listing(options: LoadOptions) -> Listing:
    """The rows of the official file; partition `val` (or `dev`) is left out."""
    column = options.label_column or _COLUMNS[0]
    if column not in _COLUMNS:
        raise UserError(f"label_column={column!r} must be {' or '.join(_COLUMNS)}.")
    folder = official.find_folder(options, "flair", (_FILE,))
    if folder is None:
        raise official.not_found(options)
    try:
        rows: Any = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        train = [row for row in rows if row["partition"] == "train"]
        test = [row for row in rows if row["partition"] == "test"]
        count = Counter(label for row in train for label in row[column])
        tables = [_table(part, column, count) for part in (train, test)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / _FILE} is not FLAIR's metadata ({error!r}); it needs image_id, "
            f"user_id, {column} and partition."
        ) from error
    found = Official(
        folder=folder,
        tables=(folder / _FILE,),
        train=tables[0],
        test=tables[1] if tables[1].ids else None,
        licence="by photograph; CC BY-NC 4.0 for the annotations",
        description="FLAIR by photographer; class = rarest label",
    )
    return official.listing(found, options)


def _table(rows: list[dict[str, Any]], column: str, count: Counter[str]) -> Table:
    labelled = [row for row in rows if row[column]]
    return Table(
        ids=[str(row["image_id"]) for row in labelled],
        users=[str(row["user_id"]) for row in labelled],
        labels=[min(row[column], key=lambda l: (count[l], l)) for row in labelled],
    )
