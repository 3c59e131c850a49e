"""CelebA by celebrity, from TFF's database; a celebrity is a user and a class.

The identities of TFF's `split_by_clients_test` are held out: 8,408 users train, 935 are
for evaluation (Liu et al. 2015, arXiv:1411.7766; Caldas et al. 2018, arXiv:1812.01097).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import UserError
from simulations.datasets import official
from simulations.datasets.arrays import resized
from simulations.datasets.client_databases import tff_rows, unpacked
from simulations.datasets.grouping import by_user
from simulations.datasets.listing import digest, refuse_too_large
from simulations.datasets.prepared_files import prepared_root
from simulations.datasets.registry import LoadOptions

DEFAULT_SIDE = 48
_FILES = ("celeba.sqlite", "celeba.sqlite.lzma")
_SPLITS = ("split_by_clients_train", "split_by_clients_test")
_PUBLISHED = (84, 84, 3)


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """The database, packed or not.

    Raises:
        NotAvailable: it is not there.
    """
    folder = official.find_folder(options, "celeba", _FILES)
    if folder is None:
        raise official.not_found(options)
    return [folder / name for name in _FILES if (folder / name).is_file()][:1]


def load(options: LoadOptions) -> InMemoryDataset:
    """All faces in memory, uint8 `[n, side, side, 3]`; 48 pixels unless told otherwise.

    Raises:
        NotAvailable: no official file.
        UserError: the file is damaged, or the images too many for memory.
    """
    side = options.image_size or DEFAULT_SIDE
    images: list[NDArray[np.uint8]] = []
    users: list[str] = []
    held_out: list[bool] = []
    path = unpacked(sources(options)[0], prepared_root(options))
    for split, client, features in tff_rows(path, _SPLITS):
        pixels = np.asarray(features.get("image", ()))
        if pixels.size != 84 * 84 * 3:
            raise UserError(
                f"{path}: an image of {client} has {pixels.size} values, not "
                f"{_PUBLISHED[0]} x {_PUBLISHED[1]} x 3."
            )
        refuse_too_large(options.name, len(images), side * side * 3)
        image = pixels.astype(np.uint8).reshape(1, *_PUBLISHED)
        images.append(resized(image, side)[0])
        users.append(client)
        held_out.append(split == _SPLITS[1])
    if not images:
        raise UserError(f"{path}: no examples in {', '.join(_SPLITS)}.")
    stacked = np.stack(images)
    return by_user(
        fields={"image": stacked},
        users=users,
        labels=users,
        held_out=np.array(held_out),
        provenance=Provenance(
            name=options.name,
            source=Source.REAL,
            licence="non-commercial research; see the CelebA agreement",
            checksum=digest(stacked),
            description="CelebA by celebrity; identities of the test clients held out",
        ),
    )
