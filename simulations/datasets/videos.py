"""`videos:PATH`: clips and captions with a `metadata.csv` beside them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.cores import usable_cores
from fedemb.data import InMemoryDataset
from fedemb.errors import UserError
from simulations.datasets import folder
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import by_user
from simulations.datasets.images import BadImage
from simulations.datasets.listing import MEMORY_LIMIT, Listing, digest
from simulations.datasets.registry import LoadOptions
from simulations.datasets.tables import header_of, read_csv
from simulations.datasets.video_files import decode_clip

SIDE, FRAMES = 32, 8
"""Of clips, unless a caller says otherwise."""


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """All files below PATH, whichever of them are clips or frames of some."""
    return sorted(path for path in Path(options.path).rglob("*") if path.is_file())


def load(options: LoadOptions) -> InMemoryDataset:
    """Every clip, decoded and checked before training starts.

    Rows and their rules are those of `folder:PATH`; a `file_name` may also be a folder
    of frames. Fields: `clip` uint8 `[n, T, side, side, 3]`, `caption` str `[n]` (empty
    where there is none; the label if there is no such column), `label` int64 `[n]`.

    Raises:
        NotAvailable: no such folder, or PyAV is needed and missing.
        UserError: bad rows that may not be skipped, too much for memory, or nothing to
            train on.
    """
    rows = folder.listing(options)
    side, frames = options.image_size or SIDE, options.frames or FRAMES
    _refuse_too_large(options.name, len(rows), side * side * frames * 3)
    clips = np.empty((len(rows), frames, side, side, 3), dtype=np.uint8)
    bad = BadRows(len(rows))
    files = [Path(str(file)) for file in rows.images]
    for row, clip in enumerate(_decode_all(files, frames, side)):
        if isinstance(clip, BadImage):
            bad.add(row, str(clip))
        else:
            clips[row] = clip
    provenance = bad.settle(rows.provenance, options.skip_bad, rows.names)
    captions, notices = _captions(
        Path(options.path), options.image_column or "file_name", rows
    )
    good = bad.good
    kept, clips, captions = rows.keep(good), clips[good], captions[good]
    return by_user(
        fields={"clip": clips, "caption": captions},
        users=kept.users,
        labels=kept.labels,
        held_out=kept.held_out,
        provenance=replace(
            provenance,
            description=f"clips of {options.path}",
            checksum=digest(clips, captions),
            notices=provenance.notices + notices,
        ),
    )


def _captions(
    path: Path, files: str, rows: Listing
) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Captions of the rows, and a notice if some are missing."""
    table = path / "metadata.csv"
    if "caption" not in [name.strip() for name in header_of(table)]:
        notice = "no caption column: the label is the caption of every clip."
        return np.array(rows.labels), (notice,)
    values = read_csv(table, [files, "caption"])
    said = zip(values[files], values["caption"], strict=True)
    found = {path / file: caption for file, caption in said}
    captions = [found[Path(str(file))] for file in rows.images]
    empty = sum(not caption for caption in captions)
    notice = f"{empty:,} of {len(rows):,} clips have no caption."
    return np.array(captions), (notice,) if empty else ()


def _decode_all(
    files: Sequence[Path], frames: int, side: int
) -> Iterator[NDArray[np.uint8] | BadImage]:
    """`decode_clip` each in turn, giving the error in place of a bad clip.

    Decoding releases the interpreter lock, so threads are enough.
    """

    def one(file: Path) -> NDArray[np.uint8] | BadImage:
        try:
            return decode_clip(file, frames, side)
        except BadImage as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(files), 256):  # bounds what waits to be taken
            yield from pool.map(one, files[start : start + 256])


def _refuse_too_large(name: str, rows: int, bytes_each: int) -> None:
    if rows * bytes_each > MEMORY_LIMIT:
        raise UserError(
            f"{name}: {rows:,} clips of {bytes_each:,} bytes are "
            f"{rows * bytes_each / 2**30:.1f} GiB, more than is held in memory; give a "
            "smaller --image-size or fewer --frames."
        )
