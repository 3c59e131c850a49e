"""Google Landmarks v2 by photographer (Weyand et al. 2020, arXiv:2004.01804).

Read are the federated splits of Hsu, Qi and Brown (2020, arXiv:2003.08082):
`federated_train.csv` with `test.csv` (1,262 users, 2,028 classes), the small
`mini_gld_train_split.csv` with `mini_gld_test.csv` (233 users, 203 classes), or the
original `train_attribution.csv` with `train_clean.csv`, whose authors are the users.
"""

from pathlib import Path

from fedemb.data import UserDataset
from simulations.datasets import official
from simulations.datasets.listing import Listing
from simulations.datasets.official import Official, Table
from simulations.datasets.registry import LoadOptions
from simulations.datasets.tables import header_of, read_csv

_LARGE = ("federated_train.csv", "test.csv")
_MINI = ("mini_gld_train_split.csv", "mini_gld_test.csv")
_CLEAN, _AUTHORS = "train_clean.csv", "train_attribution.csv"


def load(options: LoadOptions) -> UserDataset:
    """The split under the data root.

    Raises:
        NotAvailable: no official files.
        UserError: a table is damaged, or images are missing.
    """
    return official.open_files(listing(options), options)


def listing(options: LoadOptions) -> Listing:
    """The rows of the official files; `gldv2-mini` reads the small split only."""
    tables = _MINI if options.name.endswith("mini") else _LARGE
    wanted = (tables[0],) if tables is _MINI else (tables[0], _CLEAN)
    folder = official.find_folder(options, "gldv2", wanted)
    if folder is None:
        raise official.not_found(options)
    if (folder / tables[0]).is_file():
        found = _read_split(folder, *tables)
    else:
        found = _read_authors(folder)
    return official.listing(found, options)


def _read_split(folder: Path, train: str, test: str) -> Official:
    columns = read_csv(folder / train, ("user_id", "image_id", "class"))
    held_out = None
    if "image_id" in header_of(folder / test):
        rows = read_csv(folder / test, ("image_id", "class"))
        users = [""] * len(rows["image_id"])
        held_out = Table(ids=rows["image_id"], users=users, labels=rows["class"])
    return Official(
        folder=folder,
        tables=(folder / train,),
        train=Table(
            ids=columns["image_id"], users=columns["user_id"], labels=columns["class"]
        ),
        test=held_out,
        licence="by photograph; see train_attribution.csv",
        description=f"Google Landmarks v2, {train}",
    )


def _read_authors(folder: Path) -> Official:
    clean = read_csv(folder / _CLEAN, ("landmark_id", "images"))
    names = read_csv(folder / _AUTHORS, ("id", "author"))
    author_of = dict(zip(names["id"], names["author"], strict=True))
    rows = [
        (image, author_of[image], landmark)
        for landmark, listed in zip(clean["landmark_id"], clean["images"], strict=True)
        for image in listed.split()
        if author_of.get(image)
    ]
    return Official(
        folder=folder,
        tables=(folder / _CLEAN, folder / _AUTHORS),
        train=Table(
            ids=[image for image, _, _ in rows],
            users=[author for _, author, _ in rows],
            labels=[landmark for _, _, landmark in rows],
        ),
        test=None,
        licence="by photograph; see train_attribution.csv",
        description="Google Landmarks v2, clean set by author",
    )
