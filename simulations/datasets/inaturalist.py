"""iNaturalist by observer: the official tables, or a stand-in that says so.

Read are, in this order: TensorFlow Federated's `iNaturalist_train.csv` (columns
`image_id`, `class`, `user_120k`, `geo_100` ... `geo_30k`; `NA` leaves a row out) with
`iNaturalist_test.csv`; FedVision's `federated_train_<split>.csv` (`user_id`,
`image_id`, `class`) with `test.csv` (Hsu, Qi and Brown 2020, arXiv:2003.08082); and
iNaturalist 2017's own `train2017.json` with `val2017.json`, where the rights holder of
a photograph is its user (Van Horn et al. 2018, arXiv:1707.06642).
"""

import json
from pathlib import Path
from typing import Any

from fedemb.data import UserDataset
from fedemb.errors import NotAvailable, UserError
from simulations.datasets import official
from simulations.datasets.listing import Listing
from simulations.datasets.official import Official, Table
from simulations.datasets.registry import LoadOptions
from simulations.datasets.tables import header_of, read_csv

SPLITS = ("user_120k", "geo_100", "geo_300", "geo_1k", "geo_3k", "geo_10k", "geo_30k")
_TFF, _JSON = "iNaturalist_train.csv", "train2017.json"
_LICENCE = "by photograph; see the iNaturalist 2017 terms (non-commercial research)"


def load(options: LoadOptions) -> UserDataset:
    """The official split under the data root, or the generated stand-in.

    `user_column` chooses the split, such as `geo_1k`; `user_120k` by default.

    Raises:
        NotAvailable: no official files, and `require_real` is set.
    """
    try:
        rows = listing(options)
    except NotAvailable:
        if options.require_real:
            raise
        return _stand_in(options)
    return official.open_files(rows, options)


def listing(options: LoadOptions) -> Listing:
    """The rows of the official files.

    Raises:
        NotAvailable: none of the official files is under the data root.
        UserError: a table is damaged, or images are missing.
    """
    split = options.user_column or SPLITS[0]
    if split not in SPLITS:
        raise UserError(
            f"user_column={split!r}: iNaturalist's splits are {', '.join(SPLITS)}."
        )
    fedvision = f"federated_train_{split}.csv"
    folder = official.find_folder(options, "inaturalist", (_TFF, fedvision, _JSON))
    if folder is None:
        raise official.not_found(options)
    if (folder / _TFF).is_file():
        found = _read_tff(folder, split)
    elif (folder / fedvision).is_file():
        found = _read_fedvision(folder, fedvision, split)
    else:
        found = _read_json(folder)
    return official.listing(found, options)


def _read_tff(folder: Path, split: str) -> Official:
    columns = read_csv(folder / _TFF, ("image_id", "class", split))
    rows = [
        row
        for row in zip(
            columns["image_id"], columns[split], columns["class"], strict=True
        )
        if row[1] != "NA"
    ]
    train = Table(
        ids=[_stem(image) for image, _, _ in rows],
        users=[user for _, user, _ in rows],
        labels=[label for _, _, label in rows],
    )
    test = _read_test(folder / "iNaturalist_test.csv")
    return _official(folder / _TFF, train, test, f"iNaturalist split {split}")


def _read_fedvision(folder: Path, file: str, split: str) -> Official:
    columns = read_csv(folder / file, ("user_id", "image_id", "class"))
    train = Table(
        ids=[_stem(image) for image in columns["image_id"]],
        users=columns["user_id"],
        labels=columns["class"],
    )
    test = _read_test(folder / "test.csv")
    return _official(folder / file, train, test, f"iNaturalist split {split}")


def _read_test(path: Path) -> Table | None:
    if "image_id" not in header_of(path):
        return None
    columns = read_csv(path, ("image_id", "class"))
    ids = [_stem(image) for image in columns["image_id"]]
    return Table(ids=ids, users=[""] * len(ids), labels=columns["class"])


def _read_json(folder: Path) -> Official:
    train = _read_coco(folder / _JSON)
    validation = folder / "val2017.json"
    test = _read_coco(validation) if validation.is_file() else None
    return _official(folder / _JSON, train, test, "iNaturalist 2017 by rights holder")


def _read_coco(path: Path) -> Table:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        label_of = {a["image_id"]: a["category_id"] for a in content["annotations"]}
        rows = [
            (
                _stem(str(i["file_name"])),
                str(i["rights_holder"]),
                str(label_of[i["id"]]),
            )
            for i in content["images"]
            if i.get("rights_holder") and i["id"] in label_of
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not iNaturalist's annotation file ({error!r}); it needs "
            "`images` with `id`, `file_name`, `rights_holder` and `annotations` with "
            "`image_id`, `category_id`."
        ) from error
    return Table(
        ids=[image for image, _, _ in rows],
        users=[user for _, user, _ in rows],
        labels=[label for _, _, label in rows],
    )


def _stem(image: str) -> str:
    """The name of an image without folder and suffix."""
    name = image.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("jpg", "jpeg", "png") else name


def _official(
    table: Path, train: Table, test: Table | None, description: str
) -> Official:
    return Official(
        folder=table.parent,
        tables=(table,),
        train=train,
        test=test,
        licence=_LICENCE,
        description=description,
    )


def _stand_in(options: LoadOptions) -> UserDataset:
    from simulations.datasets.observations import Observations, stand_in_provenance

    side = options.image_size or 32
    source = stand_in_provenance(
        options.name, options.seed, side, official.missing_files(options)
    )
    return Observations(source, options.seed, side)
