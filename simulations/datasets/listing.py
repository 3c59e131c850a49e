"""A data set that is still a list of image files, and the ways to open it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, InMemoryDataset, Provenance
from fedemb.errors import UserError
from simulations.datasets import images
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import by_user

DEFAULT_SIDE = 64
"""Side of images that have no common size of their own, in pixels."""

MEMORY_LIMIT = 2 << 30
"""Bytes of decoded images that are held in memory; more must be prepared."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Rows of a user-partitioned data set whose images are files (or their content).

    Attributes:
        images: where each image is, `[n]`.
        users: whose it is, `[n]`.
        labels: its class, `[n]`.
        held_out: whether it is for evaluation, bool `[n]`.
        provenance: the source record.
        skip_bad: leave out what cannot be decoded, and say how many.
        channels: 1 or 3; None is 1 if every image is grey, 3 otherwise.
        tables: the files that the rows come from.

    Raises:
        UserError: the columns differ in length.
    """

    images: Sequence[Path | bytes]
    users: Sequence[str]
    labels: Sequence[str]
    held_out: NDArray[np.bool_]
    provenance: Provenance
    skip_bad: bool = False
    channels: int | None = None
    tables: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.users), len(self.labels), len(self.held_out)}
        if lengths != {len(self.images)}:
            raise UserError(
                f"{self.provenance.name}: {len(self.images)} images but columns of "
                f"{sorted(lengths)} rows."
            )

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def names(self) -> list[str]:
        """What to call each row's image in messages."""
        return [
            f"row {row}" if isinstance(image, bytes) else printable(image.name)
            for row, image in enumerate(self.images)
        ]

    def keep(self, rows: NDArray[np.bool_]) -> "Listing":
        """The listing without the other rows."""
        kept: list[int] = np.flatnonzero(rows).tolist()
        return replace(
            self,
            images=[self.images[i] for i in kept],
            users=[self.users[i] for i in kept],
            labels=[self.labels[i] for i in kept],
            held_out=self.held_out[kept],
        )


def printable(name: str) -> str:
    """A file's name with bytes that are not UTF-8 written out.

    Example:
        >>> printable("caf\\udce9.png")
        'caf\\\\udce9.png'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def open_in_memory(listing: Listing, image_size: int | None) -> InMemoryDataset:
    """Decode everything now; every bad image is found before training starts.

    Args:
        listing: what to decode.
        image_size: side in pixels; None keeps the size if all images share one, and
            is 64 with a notice otherwise.

    Raises:
        UserError: bad images that may not be skipped, or too many bytes for memory.
    """
    bad = BadRows(len(listing))
    headers = read_headers(listing, bad)
    provenance = listing.provenance
    if not headers:
        bad.settle(provenance, skip=False, names=listing.names)
        raise UserError(f"{provenance.name}: there are no images.")
    size = common_size(headers) if image_size is None else (image_size, image_size)
    if size is None:
        size = (DEFAULT_SIDE, DEFAULT_SIDE)
        notice = f"images of different sizes were stretched to {size[0]} x {size[1]}."
        provenance = replace(provenance, notices=(*provenance.notices, notice))
    channels = listing.channels or channels_of(headers)
    refuse_too_large(provenance.name, len(headers), size[0] * size[1] * channels)

    rows: list[int] = np.flatnonzero(bad.good).tolist()
    pixels = np.empty((len(rows), *size, channels), dtype=np.uint8)
    sources = [listing.images[row] for row in rows]
    decoded = images.decode_all(sources, size, channels)
    for position, (row, image) in enumerate(zip(rows, decoded, strict=True)):
        if isinstance(image, images.BadImage):
            bad.add(row, str(image))
        else:
            pixels[position] = image
    provenance = bad.settle(provenance, listing.skip_bad, listing.names)
    fine = bad.good
    kept = listing.keep(fine)
    if len(kept) < len(pixels):
        pixels = pixels[fine[rows]]
    return by_user(
        fields={"image": pixels},
        users=kept.users,
        labels=kept.labels,
        held_out=kept.held_out,
        provenance=replace(provenance, checksum=digest(pixels)),
    )


def read_headers(listing: Listing, bad: BadRows) -> list[images.Header]:
    """Headers of the readable images; the others go to `bad`."""
    headers = []
    for row, source in enumerate(listing.images):
        try:
            headers.append(images.read_header(source))
        except images.BadImage as error:
            bad.add(row, str(error))
    return headers


def common_size(headers: Sequence[images.Header]) -> tuple[int, int] | None:
    """(height, width) if all images share it."""
    found = {(header.height, header.width) for header in headers}
    return found.pop() if len(found) == 1 else None


def channels_of(headers: Sequence[images.Header]) -> int:
    """1 if every image is grey, else 3."""
    return 1 if all(header.grey for header in headers) else 3


def refuse_too_large(name: str, rows: int, bytes_each: int) -> None:
    """Stop before memory runs out.

    Raises:
        UserError: more than `MEMORY_LIMIT` bytes.
    """
    if rows * bytes_each > MEMORY_LIMIT:
        raise UserError(
            f"{name}: {rows:,} images of {bytes_each:,} bytes are "
            f"{rows * bytes_each / 2**30:.1f} GiB, more than is held in memory; give a "
            "smaller --image-size, or run `fedemb datasets prepare` once."
        )


def digest(*arrays: NDArray[np.generic]) -> str:
    """Digest of the contents of arrays, 16 hexadecimal digits."""
    summary = hashlib.blake2b(digest_size=8)
    for array in arrays:
        summary.update(str((array.dtype, array.shape)).encode())
        summary.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return summary.hexdigest()


def without_damaged(listing: Listing, side: int) -> Listing:
    """The rows whose images can be decoded; a notice counts and names the others.

    Decodes every image, which takes as long as preparing them does.

    Raises:
        UserError: nothing is left.
    """
    bad = BadRows(len(listing))
    for row, image in enumerate(images.decode_all(listing.images, side, 3)):
        if isinstance(image, images.BadImage):
            bad.add(row, str(image))
    provenance = bad.settle(listing.provenance, skip=True, names=listing.names)
    return replace(listing.keep(bad.good), provenance=provenance)


class FileDataset:
    """A `UserDataset` that decodes a user's images when she is drawn.

    For large official sets that were not prepared: correct at once, slower per round.

    Fields: `image` uint8 `[n, side, side, channels]`, `label` int64 `[n]`.

    Args:
        listing: what there is.
        side: of the images, in pixels.
        channels: 1 or 3.
    """

    def __init__(self, listing: Listing, side: int, channels: int = 3) -> None:
        rows = {"row": np.arange(len(listing))}
        self._index = by_user(
            fields=rows,
            users=listing.users,
            labels=listing.labels,
            held_out=listing.held_out,
            provenance=listing.provenance,
        )
        self._listing, self._side, self._channels = listing, side, channels

    @property
    def provenance(self) -> Provenance:
        """The source record."""
        return self._index.provenance

    @property
    def num_users(self) -> int:
        """Number of users with training images."""
        return self._index.num_users

    @property
    def num_classes(self) -> int:
        """Number of training classes."""
        return self._index.num_classes

    @property
    def class_names(self) -> Sequence[str]:
        """Names of all classes, by label."""
        return self._index.class_names

    def user_id(self, index: int) -> str:
        """The user's name in the files."""
        return self._index.user_id(index)

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """Training examples of `users`, decoded now.

        Raises:
            UserError: an image cannot be decoded.
        """
        return self.complete(self.draft(users))

    def draft(self, users: NDArray[np.int64]) -> Examples:
        """Labels of the images of `users`, and where these are."""
        return self._index.fetch(users)

    def held_out(self) -> Examples:
        """The evaluation examples, decoded now."""
        return self.complete(self._index.held_out())

    def complete(self, drafted: Examples) -> Examples:
        """The images of a draft, decoded now.

        Raises:
            UserError: an image cannot be decoded.
        """
        shape = (len(drafted), self._side, self._side, self._channels)
        pixels = np.empty(shape, dtype=np.uint8)
        rest = dict(drafted.fields)
        numbers: list[int] = rest.pop("row").tolist()
        sources = [self._listing.images[i] for i in numbers]
        for position, image in enumerate(
            images.decode_all(sources, self._side, self._channels)
        ):
            if isinstance(image, images.BadImage):
                raise UserError(
                    f"{self._listing.names[numbers[position]]}: {image}; leave such "
                    "images out with --skip-bad, or once and for all with `fedemb "
                    "datasets prepare`."
                )
            pixels[position] = image
        return Examples({"image": pixels, **rest}, drafted.offsets)
