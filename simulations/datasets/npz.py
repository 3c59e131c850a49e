"""`npz:PATH`: arrays `images`, `labels`, `users` and maybe `split` in one file.

Omniglot's packed archives (`simulations.datasets.omniglot`) are read as they are.
"""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets.array_fields import fields_of, names_of_fields
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import by_user
from simulations.datasets.listing import digest
from simulations.datasets.omniglot import PACKED, is_packed, unpacked
from simulations.datasets.partitions import is_partition
from simulations.datasets.registry import LoadOptions
from simulations.datasets.rows import clean_names, split_rows, users_of

BYTES_LIMIT = 8 << 30
"""Uncompressed bytes an archive may claim; more is refused unread."""

BOMB_BYTES, BOMB_RATIO = 1 << 30, 200
"""An archive that unpacks to more than this, this many times its size, is a bomb."""


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """The archive.

    Raises:
        NotAvailable: no such file.
    """
    path = Path(options.path)
    _require_file(path)
    return [path]


def load(options: LoadOptions) -> InMemoryDataset:
    """The arrays, checked; nothing in the file is executed (pickles are refused).

    Raises:
        NotAvailable: no such file.
        UserError: not such an archive, arrays of different lengths, bad rows that may
            not be skipped, or nothing to train on.
    """
    label_name = options.label_column or "labels"
    user_name = options.user_column or "users"
    path = Path(options.path)
    members = members_of(path)
    packed = is_packed(members)
    examples = ["images"] if packed else names_of_fields(members, options.image_column)
    needed = [*examples, label_name]
    if not is_partition(user_name):
        needed.append(user_name)
    if packed:
        arrays = unpacked(read_arrays(path, list(PACKED)), options.name)
    else:
        arrays = read_arrays(path, needed, optional=("split",))
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{options.name}: arrays differ in length: {lengths}.")
    rows = lengths[examples[0]]
    if not rows:
        raise UserError(f"{options.name}: there are no {examples[0]}.")

    bad = BadRows(rows)
    fields, of_pixels = fields_of(
        arrays, examples, options.name, options.image_size, bad
    )
    labels = clean_names(one_each(arrays[label_name], label_name), "label", bad)
    owners = arrays.get(user_name)
    users, of_users = users_of(
        None if owners is None else one_each(owners, user_name),
        user_name,
        labels,
        options.seed,
        bad,
    )
    held_out, of_split = split_rows(arrays.get("split"), labels, options.seed, bad)
    provenance = Provenance(
        name=options.name,
        source=Source.REAL,
        checksum=digest(*arrays.values()),
        description=f"arrays of {options.path}",
        notices=of_pixels + of_users + of_split,
    )
    provenance = bad.settle(provenance, options.skip_bad)
    good = bad.good
    if len(bad):
        fields = {name: values[good] for name, values in fields.items()}
    return by_user(
        fields=fields,
        users=[user for user, fine in zip(users, good, strict=True) if fine],
        labels=[label for label, fine in zip(labels, good, strict=True) if fine],
        held_out=held_out[good],
        provenance=provenance,
    )


def one_each(values: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """Users or labels, one for each row: `[n]`, also given as `[n, 1]`.

    Raises:
        UserError: several values for a row (such as one-hot labels), or values that are
            neither text nor numbers.

    Example:
        >>> one_each(np.array([[3], [4]]), "labels").tolist()
        [3, 4]
    """
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise UserError(
            f"array {name!r} has the shape {values.shape}; it must hold one name or "
            "number for each row (of one-hot labels, take argmax(1))."
        )
    if flat.dtype.kind not in "biufUS":
        raise UserError(
            f"array {name!r} of type {values.dtype} holds neither text nor numbers."
        )
    return flat


def read_arrays(
    path: Path, needed: list[str], optional: tuple[str, ...] = ()
) -> dict[str, NDArray[np.generic]]:
    """Named arrays of an npz file.

    Raises:
        NotAvailable: no such file.
        UserError: not an npz file, larger than `BYTES_LIMIT`, an array is missing,
            damaged, without rows, or holds Python objects.
    """
    members = members_of(path)
    missing = [name for name in needed if name not in members]
    if missing:
        raise UserError(
            f"{path}: array {missing[0]!r} is missing; the file has "
            f"{', '.join(members) or 'none'}, and needs {', '.join(needed)}. Name "
            "others with --image-column, --label-column and --user-column; make "
            "artificial users with --user-column iid:100."
        )
    wanted = [*needed, *(name for name in optional if name in members)]
    arrays = {}
    with np.load(path, allow_pickle=False) as content:
        for name in wanted:
            try:
                arrays[name] = content[name]
            except Exception as error:  # zlib, zip, header and type errors alike
                raise UserError(
                    f"{path}: array {name!r} cannot be read ({error}); arrays of "
                    "Python objects are not accepted."
                ) from error
            if not isinstance(arrays[name], np.ndarray):
                raise UserError(f"{path}: {name!r} cannot be read as an array.")
            if arrays[name].ndim < 1:
                raise UserError(f"{path}: array {name!r} is a single value, not rows.")
    return arrays


def members_of(path: Path) -> list[str]:
    """Names of the arrays of an npz file.

    Raises:
        NotAvailable: no such file.
        UserError: not an npz file, or larger than `BYTES_LIMIT`.
    """
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(item.file_size for item in archive.infolist())
            members = [item.filename.removesuffix(".npy") for item in archive.filelist]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not an npz file: {error}.") from error
    packed = max(path.stat().st_size, 1)
    if claimed > BOMB_BYTES and claimed > BOMB_RATIO * packed:
        raise UserError(
            f"{path} of {packed:,} bytes unpacks to {claimed / 2**30:.1f} GiB, which "
            "images do not; store real ones, without compression if need be."
        )
    if claimed > BYTES_LIMIT:
        raise UserError(
            f"{path} unpacks to {claimed / 2**30:.1f} GiB, more than the limit of "
            f"{BYTES_LIMIT >> 30} GiB; store smaller images or several files."
        )
    return members


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise NotAvailable(f"{path} is no file; give the path of one .npz file.")
