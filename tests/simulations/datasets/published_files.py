"""Writers of the published formats: small files with enough rows to train on."""

import csv
import gzip
import io
import json
import lzma
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

USERS, CLASSES = 8, 6
ROWS = [(user, label) for user in range(USERS) for label in (user % 4, 0, 1, 2)]
"""Training rows: every user has two or three of four classes."""
HELD_OUT = [label for label in (4, 5) for _ in range(4)]
"""Evaluation rows: two unseen classes of four examples each."""


def varint(value: int) -> bytes:
    out = b""
    value &= 2**64 - 1
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features: object) -> bytes:
    """A serialised tf.Example of float or integer lists."""
    entries = b""
    for name, given in features.items():
        values = np.atleast_1d(given)  # type: ignore[call-overload]
        if values.dtype.kind == "f":
            feature = field(2, field(1, values.astype("<f4").tobytes()))
        else:
            packed = b"".join(varint(int(v)) for v in values)
            feature = field(3, field(1, packed))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def tff_database(path: Path, rows: Iterable[tuple[str, str, bytes]]) -> None:
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, "
        "serialized_example_proto BLOB NOT NULL)"
    )
    database.execute(
        "CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT "
        "NULL, num_examples INTEGER NOT NULL)"
    )
    database.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()


def fedjax_array(array: np.ndarray, msgpack) -> object:
    body = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(body, use_bin_type=True))


def write_idx(path: Path, array: np.ndarray, code: int) -> None:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def save_images(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(folder / name)


def save_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def picture(label: int, number: int, side: int = 28) -> np.ndarray:
    """Grey `[side, side]` in [0, 1]: a bar whose place is its class, and noise."""
    draw = np.random.default_rng(number)
    pixels = draw.uniform(0.8, 1.0, (side, side))
    first = 2 + 4 * label % (side - 4)
    pixels[:, first : first + 3] = 0.1
    return pixels


def coloured(label: int, number: int, side: int = 28) -> np.ndarray:
    """The same as uint8 `[side, side, 3]`."""
    grey = np.rint(255 * picture(label, number, side)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def jpeg(label: int, number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(coloured(label, number)).save(stream, "JPEG")
    return stream.getvalue()


def _jpegs(folder: Path) -> tuple[list[str], list[str]]:
    """Image files of training and evaluation rows; their names without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [label for _, label in ROWS] + HELD_OUT
    names = [f"{number:08x}" for number in range(len(labels))]
    for number, (name, label) in enumerate(zip(names, labels, strict=True)):
        (folder / f"{name}.jpg").write_bytes(jpeg(label, number))
    return names[: len(ROWS)], names[len(ROWS) :]


def inaturalist_of_tff(root: Path) -> None:
    train, test = _jpegs(root / "inaturalist" / "train_val_images" / "Aves")
    header = ["image_id", "class", "user_120k", "geo_100", "geo_1k"]
    rows = [
        (image, label, user, user // 2, "NA")
        for image, (user, label) in zip(train, ROWS, strict=True)
    ]
    save_csv(root / "inaturalist" / "iNaturalist_train.csv", header, rows)
    held_out = zip(test, HELD_OUT, strict=True)
    path = root / "inaturalist" / "iNaturalist_test.csv"
    save_csv(path, ["image_id", "class"], held_out)


def inaturalist_of_fedvision(root: Path) -> None:
    _split(root / "inaturalist", "federated_train_user_120k.csv", "test.csv")


def inaturalist_of_2017(root: Path) -> None:
    train, test = _jpegs(root / "inaturalist" / "train_val_images" / "Aves")
    users = [f"Observer {user}" for user, _ in ROWS]
    labels = [label for _, label in ROWS]
    parts = (("train", train, users, labels), ("val", test, ["x"] * 8, HELD_OUT))
    for part, names, owners, classes in parts:
        content = {
            "images": [
                {
                    "id": number,
                    "file_name": f"train_val_images/Aves/{name}.jpg",
                    "rights_holder": owner,
                }
                for number, (name, owner) in enumerate(zip(names, owners, strict=True))
            ],
            "annotations": [
                {"id": number, "image_id": number, "category_id": label}
                for number, label in enumerate(classes)
            ],
        }
        path = root / "inaturalist" / f"{part}2017.json"
        path.write_text(json.dumps(content))


def _split(folder: Path, train: str, test: str) -> None:
    names, held_out = _jpegs(folder / "images")
    rows = [
        (user, image, label) for image, (user, label) in zip(names, ROWS, strict=True)
    ]
    save_csv(folder / train, ["user_id", "image_id", "class"], rows)
    unseen = zip(held_out, HELD_OUT, strict=True)
    save_csv(folder / test, ["image_id", "class"], unseen)


def landmarks(root: Path) -> None:
    _split(root / "gldv2", "federated_train.csv", "test.csv")


def landmarks_mini(root: Path) -> None:
    _split(root / "gldv2", "mini_gld_train_split.csv", "mini_gld_test.csv")


def landmarks_by_author(root: Path) -> None:
    train, test = _jpegs(root / "gldv2" / "train")
    owners = [f"Photographer {user}" for user, _ in ROWS] + ["Other, One"] * 8
    labels = [label for _, label in ROWS] + HELD_OUT
    names = train + test
    header = ["id", "url", "author", "license", "title"]
    rows = [
        (name, "https://example.org", owner, "CC BY", "File")
        for name, owner in zip(names, owners, strict=True)
    ]
    save_csv(root / "gldv2" / "train_attribution.csv", header, rows)
    listed = [
        (
            label,
            " ".join(
                n for n, known in zip(names, labels, strict=True) if known == label
            ),
        )
        for label in range(CLASSES)
    ]
    header = ["landmark_id", "images"]
    save_csv(root / "gldv2" / "train_clean.csv", header, listed)


# Characters of EMNIST: classes below 36 train, the others are held out.
_LETTERS = [
    (f"f{user:04d}_{user}", split, label)
    for user in range(USERS)
    for split, label in (
        ("train", 1 + user % 2),
        ("train", 1),
        ("train", 12),
        ("train", 40),
        ("test", 12),
        ("test", 41),
    )
]


def emnist_of_tff(root: Path) -> None:
    rows = [
        (
            split,
            writer,
            example(pixels=picture(label % 7, number).ravel(), label=label),
        )
        for number, (writer, split, label) in enumerate(_LETTERS)
    ]
    path = root / "emnist_all.sqlite"
    tff_database(path, rows)
    packed = root / "emnist_all.sqlite.lzma"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    path.unlink()


def emnist_of_fedjax(root: Path) -> None:
    import msgpack

    for split in ("train", "test"):
        database = sqlite3.connect(root / f"federated_emnist_{split}.sqlite")
        database.execute(
            "CREATE TABLE federated_data (client_id BLOB NOT NULL PRIMARY KEY, "
            "data BLOB NOT NULL, num_examples INTEGER NOT NULL)"
        )
        for writer in sorted({row[0] for row in _LETTERS}):
            labels = [lab for w, s, lab in _LETTERS if (w, s) == (writer, split)]
            images = np.stack([picture(lab % 7, i) for i, lab in enumerate(labels)])
            content = {
                "pixels": fedjax_array(images.astype(np.float32), msgpack),
                "label": fedjax_array(np.array(labels, dtype=np.int32), msgpack),
            }
            data = zlib.compress(msgpack.packb(content, use_bin_type=True))
            row = (f"{'ab' * 8}:{writer}".encode(), data, len(labels))
            database.execute("INSERT INTO federated_data VALUES (?, ?, ?)", row)
        database.commit()
        database.close()


def emnist_of_leaf(root: Path) -> None:
    for split in ("train", "test"):
        users = sorted({w for w, s, _ in _LETTERS if s == split})
        data = {}
        for user in users:
            labels = [lab for w, s, lab in _LETTERS if (w, s) == (user, split)]
            drawn = [picture(lab % 7, i).ravel() for i, lab in enumerate(labels)]
            data[user] = {"x": [row.round(3).tolist() for row in drawn], "y": labels}
        content = {
            "users": users,
            "num_samples": [len(data[user]["y"]) for user in users],
            "user_data": data,
        }
        file = root / "emnist" / split / f"all_data_0_niid_0_keep_0_{split}_9.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))


def celeba(root: Path) -> None:
    rows = []
    for number, client in enumerate(range(USERS + 2)):
        held_out = number >= USERS
        split = f"split_by_clients_{'test' if held_out else 'train'}"
        for shot in range(4):
            image = coloured(number % 7, 10 * number + shot, 84).ravel().astype(int)
            rows.append((split, str(client), example(image=image, smiling=shot % 2)))
    tff_database(root / "celeba.sqlite", rows)


def qmnist(root: Path) -> None:
    for part, count in (("train", 80), ("test", 60)):
        labels = np.zeros((count, 8), dtype=">i4")
        labels[:, 0] = np.arange(count) % 10
        labels[:, 2] = np.arange(count) % 4 + (2100 if part == "test" else 0)
        images = np.stack([255 * (1 - picture(i % 6, i)) for i in range(count)])
        write_idx(root / f"qmnist-{part}-labels-idx2-int.gz", labels, 12)
        pixels = images.astype(np.uint8)
        write_idx(root / f"qmnist-{part}-images-idx3-ubyte.gz", pixels, 8)


def digiface(root: Path) -> None:
    for subject in range(10):
        folder = root / "digiface" / str(subject)
        folder.mkdir(parents=True)
        for shot in range(4):
            pixels = coloured(subject % 7, 10 * subject + shot)
            Image.fromarray(pixels).save(folder / f"{shot}.png")


def flair(root: Path) -> None:
    names = ["plant", "art", "food", "animal", "sport", "sky"]
    train, test = _jpegs(root / "flair" / "small_images")
    owners = [f"{user}@N00" for user, _ in ROWS] + ["99@N00"] * 8
    labels = [label for _, label in ROWS] + HELD_OUT
    rows = [
        {
            "image_id": image,
            "user_id": owner,
            "labels": [names[label]],
            "fine_grained_labels": [f"{names[label]} {number % 2}"],
            "partition": "train" if number < len(ROWS) else "test",
        }
        for number, (image, owner, label) in enumerate(
            zip(train + test, owners, labels, strict=True)
        )
    ]
    path = root / "flair" / "labels_and_metadata.json"
    path.write_text(json.dumps(rows))


def _table(folder: Path) -> tuple[list[str], list[str], list[str], list[bytes]]:
    """Users, labels, splits and images of rows that a person might bring."""
    users = [f"person {user}" for user, _ in ROWS] + ["visitor"] * len(HELD_OUT)
    labels = [f"class {label}" for label in [label for _, label in ROWS] + HELD_OUT]
    splits = ["train"] * len(ROWS) + ["test"] * len(HELD_OUT)
    numbers = [int(label[-1]) for label in labels]
    images = [jpeg(label, number) for number, label in enumerate(numbers)]
    folder.mkdir(parents=True, exist_ok=True)
    return users, labels, splits, images


def own_folder(root: Path) -> str:
    folder = root / "mine"
    users, labels, splits, images = _table(folder)
    names = [f"{number}.jpg" for number in range(len(images))]
    for name, content in zip(names, images, strict=True):
        (folder / name).write_bytes(content)
    header = ["file_name", "user_id", "label", "split"]
    rows = zip(names, users, labels, splits, strict=True)
    save_csv(folder / "metadata.csv", header, rows)
    return f"folder:{folder}"


def own_npz(root: Path) -> str:
    users, labels, splits, _ = _table(root)
    images = [coloured(int(label[-1]), i) for i, label in enumerate(labels)]
    path = root / "mine.npz"
    np.savez(
        path,
        images=np.stack(images),
        labels=np.array(labels),
        users=np.array(users),
        split=np.array(splits),
    )
    return f"npz:{path}"


def own_parquet(root: Path) -> str:
    import pyarrow as pa
    from pyarrow import parquet

    users, labels, splits, images = _table(root)
    columns = {"image": images, "label": labels, "user_id": users, "split": splits}
    path = root / "mine.parquet"
    parquet.write_table(pa.table(columns), path)
    return f"parquet:{path}"


def own_hugging_face(root: Path) -> str:
    import datasets

    users, labels, splits, images = _table(root)
    names = sorted(set(labels))
    kinds = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=names),
            "user_id": datasets.Value("string"),
        }
    )
    parts = {}
    for split in ("train", "test"):
        rows = [i for i, value in enumerate(splits) if value == split]
        columns = {
            "image": [{"bytes": images[i], "path": None} for i in rows],
            "label": [names.index(labels[i]) for i in rows],
            "user_id": [users[i] for i in rows],
        }
        parts[split] = datasets.Dataset.from_dict(columns, features=kinds)
    path = root / "hub"
    datasets.DatasetDict(parts).save_to_disk(str(path))
    return f"hf:{path}"
