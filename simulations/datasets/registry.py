"""Opening a data set by name, with options checked against what it understands.

A data set is a module of `simulations.datasets` with a function `load(options)`; it is
imported when it is asked for.
"""

import importlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from fedemb.data import UserDataset
from fedemb.errors import UserError
from simulations.datasets.catalogue import DatasetCard, cards

MOST_FRAMES = 300
"""Of a clip or motion: as many as the longest recordings of NTU RGB+D have."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What a caller asked for; a loader takes the fields its entry names.

    Attributes:
        name: registered name, without the path.
        path: what follows the colon in `folder:PATH`, or empty.
        root: where prepared and official files lie.
        users: size of a synthetic population; None is the data set's default.
        seed: of generators, partitions and splits; public.
        require_real: refuse stand-ins.
        image_size: side of the images in pixels; None is the data set's own.
        frames: of each clip; None is the data set's own.
        skip_bad: leave out bad rows and say how many, instead of stopping.
        user_column: name of a table's column of users.
        label_column: name of a table's column of labels.
        image_column: name of a table's column of images.
        keep: open what an earlier run kept of the same files, and keep what takes long
            to read; see `simulations.datasets.kept`.
    """

    name: str
    path: str = ""
    root: Path = Path("data")
    users: int | None = None
    seed: int = 0
    require_real: bool = False
    image_size: int | None = None
    frames: int | None = None
    skip_bad: bool = False
    user_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise UserError(f"image_size={self.image_size} must be 8 to 1024 pixels.")
        if self.frames is not None and not 1 <= self.frames <= MOST_FRAMES:
            raise UserError(f"frames={self.frames} must be 1 to {MOST_FRAMES}.")
        if self.users is not None and self.users < 1:
            raise UserError(f"users={self.users} must be at least 1.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} must be in [0, 2**63).")


def names() -> list[str]:
    """What can be passed to `load`, in the order of the table.

    Example:
        >>> names()[0]
        'synthetic'
    """
    return [card.name for card in cards().values()]


OPTIONAL = frozenset(
    {
        *("users", "image_size", "frames", "skip_bad"),
        *("user_column", "label_column", "image_column"),
    }
)
"""Options that a data set may or may not understand; see `DatasetCard.options`."""


def describe(name: str) -> DatasetCard:
    """The card of a data set; a path after the name is ignored.

    Raises:
        UserError: for an unknown name; the message lists the known ones.

    Example:
        >>> describe("synthetic").description
        'procedural characters, any number of users, made on demand'
    """
    kind = name.partition(":")[0]
    known = cards()
    if kind not in known:
        raise UserError(f"unknown data set {name!r}; choose from {', '.join(names())}.")
    return known[kind]


def load(
    name: str,
    *,
    root: Path | None = None,
    users: int | None = None,
    seed: int = 0,
    require_real: bool = False,
    image_size: int | None = None,
    frames: int | None = None,
    skip_bad: bool = False,
    user_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    amplify: int | None = None,
    keep: bool = True,
) -> UserDataset:
    """Open a data set by name.

    Args:
        name: a registered name, or `folder:PATH`, `npz:PATH`, `parquet:PATH`.
        root: where official and prepared files lie; `data` if None.
        users: population of `synthetic`.
        seed: of generators, partitions and splits; public.
        require_real: refuse stand-ins.
        image_size: side of the images in pixels; None keeps the data set's own.
        frames: of each clip; None keeps the data set's own.
        skip_bad: leave out bad rows; `provenance.notices` says how many.
        user_column: column of users in a table.
        label_column: column of labels in a table.
        image_column: column of images in a table.
        amplify: make this many users from the data set's by per-user styles.
        keep: whether what takes long to read is kept below `root` for later runs.

    Returns:
        A data set whose calls cost O(users asked for).

    Raises:
        UserError: unknown name, option that does not apply, or bad input data.
        NotAvailable: files or packages are missing.

    Example:
        >>> load("synthetic", users=10_000_000).num_users
        10000000
    """
    options = options_for(
        name,
        root=root,
        users=users,
        seed=seed,
        require_real=require_real,
        image_size=image_size,
        frames=frames,
        skip_bad=skip_bad,
        user_column=user_column,
        label_column=label_column,
        image_column=image_column,
        keep=keep,
    )
    data = _open(options)
    if amplify is not None:
        from simulations.datasets.amplify import Amplified

        data = Amplified(data, amplify, seed)
    return data


def options_for(name: str, *, root: Path | None, **given: Any) -> LoadOptions:
    """The options of `load`, checked against what the data set understands.

    Raises:
        UserError: unknown name, a path too many or too few, an option that does not
            apply or is out of range.
    """
    card = describe(name)
    kind, _, path = name.partition(":")
    if card.takes_path and not path:
        raise UserError(f"data set {name!r} needs a path: {card.name}.")
    if path and not card.takes_path:
        raise UserError(f"data set {kind!r} takes no path, but {path!r} was given.")
    root = Path("data") if root is None else Path(root)
    options = LoadOptions(name=name, path=path, root=root, **given)
    _refuse_unused(card, options)
    return options


def _open(options: LoadOptions) -> UserDataset:
    """The prepared shards if there are any, what was kept, or what is read now."""
    from simulations.datasets.prepared import open_prepared

    prepared = open_prepared(options)
    if prepared is not None:
        return prepared
    card = describe(options.name)
    module: Any = importlib.import_module(f"simulations.datasets.{card.module}")
    if options.keep and hasattr(module, "READER"):
        from simulations.datasets.kept import load_kept

        return load_kept(module, options)
    return cast(UserDataset, module.load(options))


def _refuse_unused(card: DatasetCard, options: LoadOptions) -> None:
    """Every option a caller sets must be one that the data set honours."""
    for field in fields(LoadOptions):
        value = getattr(options, field.name)
        given = field.name in OPTIONAL and value not in (None, False)
        if given and field.name not in card.options:
            known = ", ".join(sorted(card.options)) or "none"
            raise UserError(
                f"{field.name}={value!r} does not apply to {card.name!r}; of the "
                f"optional settings it understands {known}."
            )
