"""Build the shipped sample of OpenClipart drawings; run by hand, not at import.

Reads what Debian's packages `openclipart-svg` and `openclipart-png` install: the SVG
files carry the metadata (RDF: artist, title, keywords, licence), the PNG files are the
same drawings, rendered. The artist becomes the user, the folder the class, title and
keywords the caption. Left out: `shapes/` and `computer/icons/` (generated series and
logos of programs), and every file whose metadata do not dedicate it to the public
domain or do not name an artist. Drawings whose rendering is blank are left out too, and
so are training copies of a drawing that is also filed in a held-out folder.

    apt-get install openclipart-svg openclipart-png
    python -m simulations.datasets.openclipart.build /usr/share/openclipart
"""

import argparse
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

SIDE = 64
QUALITY = 70
BLANK = 247  # a picture without a darker pixel
LEFT_OUT = ("shapes", "computer/icons")
HELD_OUT_SHARE = 0.2
HELD_OUT_SIZES = range(4, 61)  # works: enough to recognise, not a catch-all folder
_DC = "{http://purl.org/dc/elements/1.1/}"
_EMAIL = re.compile(r"\s*[(<\[]?\s*[\w.+-]+@[\w.-]+\s*[)>\]]?")


@dataclass(frozen=True)
class Work:
    """One drawing: its metadata and its picture."""

    file: str
    artist: str
    folder: str
    title: str
    keywords: list[str]
    split: str
    image: bytes


def main() -> None:
    """Write `openclipart.parquet` and `ATTRIBUTION.txt` beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with svg/ and png/")
    source = parser.parse_args().source
    Image.MAX_IMAGE_PIXELS = None  # one drawing has 231 million; the source is trusted
    target = Path(__file__).parent
    works = without_leaks([work for work in read_works(source) if work.image])
    table = pa.Table.from_pylist([asdict(work) for work in works])
    parquet.write_table(
        table,
        target / "openclipart.parquet",
        compression="zstd",
        use_dictionary=["artist", "folder", "split"],
        write_statistics=False,
    )
    (target / "ATTRIBUTION.txt").write_text(attribution(works), encoding="utf-8")
    artists, folders = {w.artist for w in works}, {w.folder for w in works}
    print(f"{len(works)} works, {len(artists)} artists, {len(folders)} folders")


def read_works(source: Path) -> Iterator[Work]:
    """The drawings to ship, sorted by file name."""
    found = []
    for svg in sorted((source / "svg").rglob("*.svg")):
        file = svg.relative_to(source / "svg").with_suffix("").as_posix()
        folder = file.rpartition("/")[0]
        if not any(folder == out or folder.startswith(f"{out}/") for out in LEFT_OUT):
            artist, title, keywords = read_metadata(svg)
            if artist:
                found.append((file, artist, folder, title, keywords))
    held_out = choose_held_out(Counter(folder for _, _, folder, _, _ in found))
    for file, artist, folder, title, keywords in found:
        split = "test" if folder in held_out else "train"
        image = thumbnail(source / "png" / f"{file}.png")
        yield Work(file, artist, folder, title, keywords, split, image)


def read_metadata(svg: Path) -> tuple[str, str, list[str]]:
    """Artist, title and keywords; the artist is empty if the work must be left out."""
    work = next(
        (e for e in ElementTree.parse(svg).iter() if e.tag.endswith("}Work")), None
    )
    if work is None:
        return "", "", []
    licences = [
        value
        for element in work.iter()
        if element.tag.endswith("}license")
        for name, value in element.attrib.items()
        if name.endswith("}resource")
    ]
    if not any("publicdomain" in licence.lower() for licence in licences):
        return "", "", []
    creator = work.find(f"{_DC}creator")
    artist = "" if creator is None else " ".join("".join(creator.itertext()).split())
    title = _EMAIL.sub("", " ".join((work.findtext(f"{_DC}title") or "").split()))
    items = [e.text for e in work.iterfind(f"{_DC}subject//*") if e.tag.endswith("}li")]
    words = {_EMAIL.sub("", " ".join(item.split())) for item in items if item}
    name = _EMAIL.sub("", artist).strip() or artist.partition("@")[0].strip(" <([")
    return "" if name.startswith("HASH(0x") else name, title, sorted(words - {""})


def choose_held_out(works: Counter[str]) -> set[str]:
    """A fifth of the folders, those whose names hash lowest, for evaluation."""
    fit = [folder for folder, count in works.items() if count in HELD_OUT_SIZES]
    fit.sort(key=lambda folder: hashlib.sha256(folder.encode()).hexdigest())
    return set(fit[: round(HELD_OUT_SHARE * len(works))])


def thumbnail(png: Path) -> bytes:
    """The drawing on white, fitted into 64 x 64 pixels, as WebP; empty if blank."""
    with Image.open(png) as image:
        drawing = image.convert("RGBA")
    box = drawing.getchannel("A").getbbox()
    drawing = drawing.crop(box) if box else drawing
    page = Image.new("RGBA", drawing.size, "white")
    page.alpha_composite(drawing)
    scale = (SIDE - 4) / max(page.size)
    size = (max(1, round(page.width * scale)), max(1, round(page.height * scale)))
    small = page.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    if square.point(lambda level: level <= BLANK).getbbox() is None:
        return b""
    out = io.BytesIO()
    square.save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def without_leaks(works: list[Work]) -> list[Work]:
    """No picture twice in the held-out folders, and none of them in training."""
    held_out = {work.image: work for work in reversed(works) if work.split == "test"}
    return [work for work in works if held_out.get(work.image, work) is work]


def attribution(works: list[Work]) -> str:
    """Who drew how many of the works."""
    counts = Counter(work.artist for work in works)
    lines = [
        "Drawings of the Open Clip Art Library, release 0.18, as distributed by",
        "Debian in the packages openclipart-svg and openclipart-png 1:0.18+dfsg-19.",
        "Every drawing is dedicated to the public domain by the artist named in its",
        "metadata; no attribution is required, and it is given gladly.",
        "Drawings by each artist:",
        "",
    ]
    lines += [f"{count:5d}  {artist}" for artist, count in sorted(counts.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
