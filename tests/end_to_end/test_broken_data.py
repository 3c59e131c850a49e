"""Broken data by the command line: one line that names it, exit code 2, no run."""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import Said
from tests.simulations.datasets.published_files import own_folder, own_npz

Command = Callable[..., Said]
FEW = [
    *("--rounds", 1, "--users-per-round", 4, "--noise-multiplier", 1, "--seed", 1),
    *("--engine", "serial"),
]


def refused(here: Command, name: str, out: Path, *more: object) -> str:
    """The one line that a refused data set is answered with."""
    code, said, err = here("simulate", "--dataset", name, *FEW, "--out", out, *more)
    assert (code, said) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert not out.exists()
    return line


def encoded(mode: str, kind: str, size: tuple[int, int] = (28, 28), **how) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **how)
    return stream.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        check = struct.pack(">I", zlib.crc32(body))
        return struct.pack(">I", len(content)) + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


BROKEN: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:400]),
    "of no bytes": lambda file: file.write_bytes(b""),
    "60,000 pixels wide": lambda file: file.write_bytes(claiming(60_000, 60_000)),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link out": lambda file: (file.unlink(), file.symlink_to("/etc/hostname")),
    "a link to itself": lambda file: (file.unlink(), file.symlink_to(file)),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(
    here: Command, tmp_path: Path, broken: Callable[[Path], object]
) -> None:
    name = own_folder(tmp_path)
    broken(tmp_path / "mine" / "3.jpg")
    line = refused(here, name, tmp_path / "run")
    assert "1 of 40 rows cannot be used: 3.jpg (" in line
    assert "--skip-bad" in line


def test_broken_files_are_left_out_and_counted_on_request(
    here: Command, tmp_path: Path
) -> None:
    name = own_folder(tmp_path)
    for number, broken in enumerate(BROKEN.values()):
        broken(tmp_path / "mine" / f"{number}.jpg")
    out = tmp_path / "run"
    code, _, err = here("simulate", "--dataset", name, *FEW, "--out", out, "--skip-bad")
    assert code == 0, err
    left_out = re.findall(r"NOTICE left out: (\d+) of", err)
    assert sum(map(int, left_out)) == len(BROKEN)


def test_files_of_every_kind_train_together(here: Command, tmp_path: Path) -> None:
    """Grey, grey with alpha, 16 bits, palettes, moving pictures, turned ones, CMYK."""
    name = own_folder(tmp_path)
    turned = Image.Exif()
    turned[0x112] = 6
    frames = [Image.new("P", (28, 28), i) for i in range(3)]
    kinds = [
        *(encoded(mode, "PNG") for mode in ("1", "L", "LA", "RGBA", "I;16", "P")),
        encoded("P", "PNG", transparency=0),
        encoded("RGB", "JPEG", (40, 20), exif=turned.tobytes()),
        encoded("CMYK", "JPEG"),
        encoded("P", "GIF", save_all=True, append_images=frames),
    ]
    for number, content in enumerate(kinds):
        (tmp_path / "mine" / f"{number}.jpg").write_bytes(content)
    out = tmp_path / "run"
    code, _, err = here("simulate", "--dataset", name, *FEW, "--out", out)
    assert code == 0, err
    assert "NOTICE left out" not in err


TABLES: dict[str, tuple[Callable[[str], bytes], str]] = {
    "empty": (lambda text: b"", "no header"),
    "of one row": (
        lambda text: "".join(text.splitlines(True)[:2]).encode(),
        "at least two classes",
    ),
    "without users": (lambda text: _blanked(text), "user_id is missing"),
    "in UTF-16": (lambda text: text.encode("utf-16"), "not UTF-8"),
    "in Latin-1": (
        lambda text: text.replace("class 0", "caf\xe9").encode("latin-1"),
        "not UTF-8",
    ),
    "of semicolons": (lambda text: text.replace(",", ";").encode(), "is missing"),
    "with an open quote": (
        lambda text: text.replace("person 3", '"person 3', 1).encode(),
        "not a CSV file",
    ),
    "with NaN labels": (
        lambda text: text.replace("class 0", "NaN").encode(),
        "label is missing",
    ),
    "listing a file twice": (
        lambda text: (text + text.splitlines()[1]).encode(),
        "listed before, in row 0",
    ),
    "leading out": (
        lambda text: text.replace("3.jpg", "../mine.jpg", 1).encode(),
        "leads out of the folder",
    ),
    "with an unknown split": (
        lambda text: text.replace("train", "tarin", 1).encode(),
        "split is 'tarin'",
    ),
    "with a short row": (lambda text: (text + "40.jpg,u").encode(), "fewer than 4"),
}


def _blanked(text: str) -> bytes:
    """The table with an empty column of users."""
    head, *rows = text.splitlines()
    cells = [row.split(",") for row in rows]
    return "\n".join([head, *(",".join([c[0], "", *c[2:]]) for c in cells)]).encode()


@pytest.mark.parametrize(("change", "said"), TABLES.values(), ids=TABLES)
def test_a_broken_table_is_explained(
    here: Command, tmp_path: Path, change: Callable[[str], bytes], said: str
) -> None:
    name = own_folder(tmp_path)
    table = tmp_path / "mine" / "metadata.csv"
    table.write_bytes(change(table.read_text()))
    assert said in refused(here, name, tmp_path / "run")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_tables_of_other_editors_are_read(
    here: Command, tmp_path: Path, mark: bytes
) -> None:
    """Lines that end in CR LF, and a byte-order mark."""
    name = own_folder(tmp_path)
    table = tmp_path / "mine" / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_bytes(mark + "\r\n".join(lines).encode())
    code, said, _ = here("datasets", "prepare", name, "--root", tmp_path)
    assert code == 0
    assert "40 images of 8 users" in said


class Evil:
    """Would make a file if anything in an archive were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


ARRAYS: dict[str, tuple[str, Callable[[np.ndarray], object], str]] = {
    "NaN labels": (
        "labels",
        lambda a: np.where(np.arange(40) == 3, np.nan, 1),
        "row 3",
    ),
    "half labels": ("labels", lambda a: np.arange(40) / 2, "label is 0.5"),
    "one-hot labels": ("labels", lambda a: np.eye(40), "argmax"),
    "short labels": ("labels", lambda a: a[:-1], "differ in length"),
    "four channels": ("images", lambda a: np.tile(a, 2)[..., :4], "1 or 3 channels"),
    "bright floats": ("images", lambda a: a * 2.0, "must lie in [0, 255]"),
    "text for images": ("images", lambda a: a[:, 0, 0, 0].astype(str), "the shape"),
    "dates for users": ("users", lambda a: np.zeros(40, "M8[D]"), "neither text nor"),
}


@pytest.mark.parametrize(("key", "change", "said"), ARRAYS.values(), ids=ARRAYS)
def test_a_broken_array_is_explained(
    here: Command,
    tmp_path: Path,
    key: str,
    change: Callable[[np.ndarray], object],
    said: str,
) -> None:
    name = own_npz(tmp_path)
    with np.load(tmp_path / "mine.npz") as content:
        arrays = dict(content)
    arrays[key] = change(arrays[key])
    np.savez(tmp_path / "mine.npz", **arrays)
    assert said in refused(here, name, tmp_path / "run")


@pytest.mark.parametrize("key", ["images", "labels", "users", "split"])
def test_objects_in_an_archive_are_refused_and_never_executed(
    here: Command, tmp_path: Path, key: str
) -> None:
    name = own_npz(tmp_path)
    with np.load(tmp_path / "mine.npz") as content:
        arrays = dict(content)
    made = tmp_path / "made"
    arrays[key] = np.array([Evil(made)] * 40, dtype=object)
    np.savez(tmp_path / "mine.npz", **arrays)
    line = refused(here, name, tmp_path / "run")
    assert f"array {key!r} cannot be read" in line
    assert not made.exists()


def test_a_population_of_a_few_is_told_that_delta_protects_nobody(
    here: Command, tmp_path: Path
) -> None:
    name = own_folder(tmp_path)
    code, _, err = here("simulate", "--dataset", name, *FEW, "--out", tmp_path / "run")
    assert code == 0
    assert "NOTICE delta = 0.1 is too large to protect anybody" in err
