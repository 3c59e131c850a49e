"""Prepare once: decode, resize, group by user, write memory-mapped shards.

Every file is written under another name and moved into place, the manifest last, so a
run that is killed leaves whole shards behind and the next one goes on after them. One
run at a time writes to a folder; it removes what a killed one had begun to write.
"""

import fcntl
import hashlib
import importlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset
from fedemb.errors import UserError
from simulations.datasets import images
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import by_user
from simulations.datasets.listing import (
    DEFAULT_SIDE,
    Listing,
    channels_of,
    common_size,
    digest,
    read_headers,
)
from simulations.datasets.prepared import (
    VERSION,
    PreparedDataset,
    columns_of,
    digest_of_index,
    prepared_folder,
)
from simulations.datasets.prepared_files import record_of, stamp_of, written_whole
from simulations.datasets.registry import describe, options_for

ROWS_PER_SHARD = 4096
_PART = re.compile(r"\.(\d{5}\.npy|\w+\.json|index\.npz)\.\d+")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What `prepare` did.

    Attributes:
        folder: where the shards are.
        images: how many images are in them.
        users: training users.
        bad: name and reason of each image that could not be decoded.
        notices: what every run on these data will say, such as rows that were left out.
        resumed: images that an earlier run had written.
        seconds: wall time.
    """

    folder: Path
    images: int
    users: int
    bad: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]
    resumed: int
    seconds: float


def prepare(
    name: str,
    *,
    root: Path,
    image_size: int | None = None,
    seed: int = 0,
    user_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Decode a data set of image files into `root/prepared/`.

    Images that cannot be decoded are left out, named in the report and the manifest,
    and counted in the notices of every later run.

    Args:
        name: a registered data set of image files.
        root: the data root.
        image_size: side in pixels; None keeps the size if all images of a folder or
            table share one, and is 64 otherwise.
        seed: of held-out classes and artificial users.
        user_column: column of users.
        label_column: column of labels.
        image_column: column of images.
        workers: decoding threads; None is one per core.
        progress: called with (images done, images in all).

    Raises:
        UserError: the data set is not one of image files; or the folder holds a
            preparation of other data, which is never overwritten, or another run is
            preparing it now.
        NotAvailable: the files are missing.
    """
    start = time.perf_counter()
    module = module_with_listing(name)
    options = options_for(
        name,
        root=root,
        image_size=image_size,
        seed=seed,
        skip_bad=True,
        user_column=user_column,
        label_column=label_column,
        image_column=image_column,
    )
    listing: Listing = module.listing(options)
    folder = prepared_folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    shape = _shape(listing, options.image_size)
    order = _order(listing)
    _claim(folder, _plan(listing, shape))

    shards: list[dict[str, Any]] = []
    resumed = 0
    with _alone(folder):
        for first in range(0, len(order), ROWS_PER_SHARD):
            rows = order[first : first + ROWS_PER_SHARD]
            path = folder / f"{len(shards):05d}.npy"
            done = _finished(path, (len(rows), *shape))
            resumed += len(rows) if done else 0
            shards.append(done or _write_shard(path, listing, rows, shape, workers))
            if progress is not None:
                progress(first + len(rows), len(order))
        facts = {"shape": list(shape), "columns": columns_of(options)}
        bad = _write_index(folder, listing, order, shards, facts)
    data = PreparedDataset(folder)
    return PrepareReport(
        folder=folder,
        images=len(order) - len(bad),
        users=data.num_users,
        bad=tuple(bad),
        notices=data.provenance.notices,
        resumed=resumed,
        seconds=time.perf_counter() - start,
    )


def module_with_listing(name: str) -> ModuleType:
    """The module of a data set that can be prepared.

    Raises:
        UserError: it is made on demand, or lies in arrays or a database already.
    """
    module = importlib.import_module(f"simulations.datasets.{describe(name).module}")
    if not hasattr(module, "listing"):
        raise UserError(
            f"{name} is not a set of image files and needs no preparation; use it as "
            "it is. What takes long to read is kept by the first run that reads it."
        )
    return module


def _shape(listing: Listing, image_size: int | None) -> tuple[int, int, int]:
    """(height, width, channels) of the shards."""
    if listing.channels is not None:
        side = image_size or DEFAULT_SIDE
        return side, side, listing.channels
    headers = read_headers(listing, BadRows(len(listing)))
    size = common_size(headers) if image_size is None else (image_size, image_size)
    return (*(size or (DEFAULT_SIDE, DEFAULT_SIDE)), channels_of(headers))


def _grouped(listing: Listing, rows: NDArray[np.int64]) -> InMemoryDataset:
    return by_user(
        fields={"row": rows},
        users=listing.users,
        labels=listing.labels,
        held_out=listing.held_out,
        provenance=listing.provenance,
    )


def _order(listing: Listing) -> list[int]:
    """Rows in the order of the shards: by user, then the held-out ones."""
    data = _grouped(listing, np.arange(len(listing)))
    parts = (data.examples.fields["row"], data.evaluation.fields["row"])
    order: list[int] = np.concatenate(parts).tolist()
    return order


def _plan(listing: Listing, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What makes two preparations the same."""
    summary = hashlib.sha256()
    for column in (listing.names, listing.users, listing.labels):
        summary.update("\0".join(column).encode(errors="surrogateescape") + b"\1")
    summary.update(np.packbits(listing.held_out).tobytes())
    return {
        "version": VERSION,
        "rows": summary.hexdigest(),
        "shape": list(shape),
        "rows_per_shard": ROWS_PER_SHARD,
    }


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or check that the folder is of the same plan."""
    path = folder / "plan.json"
    if not path.exists():
        with written_whole(path) as stream:
            stream.write(json.dumps(plan, indent=1).encode())
        return
    try:
        same = json.loads(path.read_text()) == plan
    except ValueError:
        same = False
    if not same:
        raise UserError(
            f"{folder} holds a preparation of other rows or sizes; move or delete that "
            "folder and prepare again."
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other preparations out, and clear away what killed ones left half written.

    The lock is on the plan and ends with the process, however it ends; while it is
    held, nobody will finish the parts of files that lie there.
    """
    with (folder / "plan.json").open("rb+") as plan:
        try:
            fcntl.flock(plan, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder} is being prepared by another process; wait until it is done."
            ) from error
        for path in folder.iterdir():
            if _PART.fullmatch(path.name):
                path.unlink()
        yield


def _finished(path: Path, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The record of a shard that an earlier run finished, if its bytes are right."""
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        if pixels.shape == shape and digest(pixels) == record["checksum"]:
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _write_shard(
    path: Path,
    listing: Listing,
    rows: list[int],
    shape: tuple[int, int, int],
    workers: int | None,
) -> dict[str, Any]:
    pixels = np.zeros((len(rows), *shape), dtype=np.uint8)
    bad: dict[str, str] = {}
    sources = [listing.images[row] for row in rows]
    decoded = images.decode_all(sources, shape[:2], shape[2], workers)
    for position, image in enumerate(decoded):
        if isinstance(image, images.BadImage):
            bad[str(position)] = str(image)
        else:
            pixels[position] = image
    record = {"file": path.name, "checksum": digest(pixels), "bad": bad}
    with written_whole(path) as stream:
        np.save(stream, pixels)
    with written_whole(path.with_suffix(".json")) as stream:
        stream.write(json.dumps(record).encode())
    return record


def _write_index(
    folder: Path,
    listing: Listing,
    order: list[int],
    shards: list[dict[str, Any]],
    facts: dict[str, Any],
) -> list[tuple[str, str]]:
    """Index and manifest of the rows that could be decoded; returns the others."""
    bad = BadRows(len(listing))
    for number, shard in enumerate(shards):
        for position, reason in shard["bad"].items():
            bad.add(order[number * ROWS_PER_SHARD + int(position)], reason)
    place = np.empty(len(listing), dtype=np.int64)
    place[order] = np.arange(len(order))
    provenance = bad.settle(listing.provenance, skip=True, names=listing.names)
    good = bad.good
    checksum = hashlib.sha256("".join(s["checksum"] for s in shards).encode())
    kept = replace(
        listing.keep(good),
        provenance=replace(provenance, checksum=checksum.hexdigest()[:16]),
    )
    data = _grouped(kept, place[good])
    arrays: dict[str, Any] = {
        "rows": data.examples.fields["row"],
        "labels": data.examples.fields["label"],
        "offsets": data.examples.offsets,
        "held_out_rows": data.evaluation.fields["row"],
        "held_out_labels": data.evaluation.fields["label"],
        "user_ids": np.array(data.user_ids),
    }
    with written_whole(folder / "index.npz") as stream:
        np.savez(stream, **arrays)
    manifest = {
        **facts,
        "version": VERSION,
        "rows_per_shard": ROWS_PER_SHARD,
        "index": digest_of_index(arrays),
        "num_users": data.num_users,
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "provenance": record_of(data.provenance),
        "tables": {str(t.resolve()): stamp_of(t) for t in listing.tables},
        "shards": [{"file": s["file"], "checksum": s["checksum"]} for s in shards],
        "bad": bad.listed(listing.names),
    }
    with written_whole(folder / "manifest.json") as stream:
        stream.write(json.dumps(manifest, indent=1).encode())
    return bad.listed(listing.names)
