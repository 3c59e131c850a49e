"""The published files of user-partitioned sets, written here in their format."""

import json
import lzma
import sqlite3
import zlib

import numpy as np
import pytest

from fedemb.errors import NotAvailable, UserError
from simulations.datasets import load
from simulations.datasets.prepare import prepare
from simulations.datasets.tf_example import parse_example
from tests.simulations.datasets.published_files import (
    digiface,
    example,
    fedjax_array,
    field,
    inaturalist_of_tff,
    save_csv,
    save_images,
    tff_database,
    write_idx,
)


def test_tf_examples_are_parsed():
    numbers = np.array([0, 1, 127, 128, 255, 300, -1, 2**40])
    floats = np.array([0.5, -1.0, 3.25])
    read = parse_example(example(a=numbers, pixels=floats))
    np.testing.assert_array_equal(read["a"], numbers)
    np.testing.assert_array_equal(read["pixels"], floats)
    unpacked = field(1, field(1, field(1, b"x") + field(2, field(3, b"\x08\x05"))))
    assert parse_example(unpacked)["x"].tolist() == [5]
    for cut in range(1, 40):
        record = example(a=numbers)
        try:
            parse_example(record[:-cut])
        except (ValueError, UnicodeDecodeError):
            continue
    with pytest.raises(ValueError, match="ends inside"):
        parse_example(example(a=numbers)[:-3])


# writer, split, label; writer f0000_14 has both shards
CHARACTERS = [
    ("f0000_14", "train", 3),
    ("f0000_14", "train", 40),
    ("f0000_14", "test", 35),
    ("f0001_41", "train", 35),
    ("f0001_41", "test", 61),
]


def drawn(writer, split):
    return [label for w, s, label in CHARACTERS if (w, s) == (writer, split)]


def pixels(label):
    values = np.ones(784)
    values[label] = 0.0
    return values


def check_emnist(data):
    assert data.num_users == 2
    assert [data.user_id(i) for i in (0, 1)] == ["f0000_14", "f0001_41"]
    assert data.num_classes == 2
    assert list(data.class_names) == ["3", "35", "40", "61"]
    rows = data.fetch(np.array([0, 1]))
    assert rows.sizes.tolist() == [2, 1]
    assert rows.fields["image"].shape == (3, 28, 28, 1)
    dark = rows.fields["image"].reshape(3, -1).argmin(axis=1).tolist()
    assert sorted(dark[:2]) == [3, 35]
    assert dark[2] == 35
    assert sorted(data.held_out().fields["label"].tolist()) == [2, 3]


@pytest.mark.parametrize("packed", [False, True])
def test_emnist_of_tff_merges_a_writers_shards(tmp_path, packed):
    path = tmp_path / "emnist_all.sqlite"
    rows = [
        (split, writer, example(pixels=pixels(label), label=np.array([label])))
        for writer, split, label in CHARACTERS
    ]
    tff_database(path, rows)
    if packed:
        archive = tmp_path / "emnist" / "emnist_all.sqlite.lzma"
        archive.parent.mkdir()
        archive.write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    check_emnist(load("emnist", root=tmp_path))
    check_emnist(load("emnist", root=tmp_path))  # unpacked before
    assert load("emnist", root=tmp_path, image_size=14).held_out().fields[
        "image"
    ].shape == (2, 14, 14, 1)


def test_emnist_of_fedjax_merges_a_writers_shards(tmp_path):
    msgpack = pytest.importorskip("msgpack")
    for split in ("train", "test"):
        database = sqlite3.connect(tmp_path / f"federated_emnist_{split}.sqlite")
        database.execute(
            "CREATE TABLE federated_data (client_id BLOB NOT NULL PRIMARY KEY, "
            "data BLOB NOT NULL, num_examples INTEGER NOT NULL)"
        )
        for writer in ("f0000_14", "f0001_41"):
            labels = drawn(writer, split)
            images = np.stack([pixels(label) for label in labels]).astype("f4")
            content = {
                "pixels": fedjax_array(
                    images.astype(np.float32).reshape(-1, 28, 28), msgpack
                ),
                "label": fedjax_array(np.array(labels, dtype=np.int32), msgpack),
            }
            client = f"{'ab' * 8}:{writer}".encode()
            data = zlib.compress(msgpack.packb(content, use_bin_type=True))
            row = (client, data, len(labels))
            database.execute("INSERT INTO federated_data VALUES (?, ?, ?)", row)
        database.commit()
        database.close()
    check_emnist(load("emnist", root=tmp_path))


def test_emnist_of_leaf_merges_a_writers_shards(tmp_path):
    for split in ("train", "test"):
        users = sorted({w for w, s, _ in CHARACTERS if s == split})
        rows = {
            user: {
                "x": [pixels(label).tolist() for label in drawn(user, split)],
                "y": drawn(user, split),
            }
            for user in users
        }
        content = {
            "users": users,
            "num_samples": [len(rows[user]["y"]) for user in users],
            "user_data": rows,
        }
        file = tmp_path / "emnist" / split / f"all_data_0_{split}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    check_emnist(load("emnist", root=tmp_path))
    file.write_text("[1]")
    with pytest.raises(UserError, match="not a LEAF file"):
        load("emnist", root=tmp_path)


def test_damaged_databases_are_refused(tmp_path):
    path = tmp_path / "emnist_all.sqlite"
    path.write_bytes(b"nonsense" * 100)
    with pytest.raises(UserError, match="not the published database"):
        load("emnist", root=tmp_path)
    path.unlink()
    tff_database(path, [("train", "f0000_14", b"\x0a\xff")])
    with pytest.raises(UserError, match="is damaged"):
        load("emnist", root=tmp_path)
    path.unlink()
    tff_database(path, [("train", "u", example(pixels=np.ones(9), label=1))])
    with pytest.raises(UserError, match="9 pixels"):
        load("emnist", root=tmp_path)
    path.unlink()
    (tmp_path / "emnist_all.sqlite.lzma").write_bytes(b"\xfd7zXZ\0broken")
    with pytest.raises(UserError, match="is damaged"):
        load("emnist", root=tmp_path)


def test_celeba_holds_out_the_test_clients(tmp_path):
    rows = []
    for number, client in enumerate(["10", "11", "12"]):
        split = "split_by_clients_test" if client == "12" else "split_by_clients_train"
        for value in (3, 200):
            image = np.full(84 * 84 * 3, value + number)
            rows.append((split, client, example(image=image, male=1, young=0)))
    tff_database(tmp_path / "celeba.sqlite", rows)
    data = load("celeba", root=tmp_path, image_size=16)
    assert (data.num_users, data.num_classes) == (2, 2)
    images = data.fetch(np.array([1])).fields["image"]
    assert images.shape == (2, 16, 16, 3)
    assert images[:, 0, 0, 0].tolist() == [4, 201]
    assert data.held_out().fields["label"].tolist() == [2, 2]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_qmnist_writers_are_users(tmp_path, suffix):
    draw = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 40)):
        labels = np.zeros((count, 8), dtype=">i4")
        labels[:, 0] = np.arange(count) % 10
        labels[:, 2] = np.arange(count) % 4 + (2100 if part == "test" else 0)
        images = draw.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"qmnist-{part}-labels-idx2-int{suffix}", labels, 12)
        write_idx(tmp_path / f"qmnist-{part}-images-idx3-ubyte{suffix}", images, 8)
    data = load("qmnist", root=tmp_path)
    assert (data.num_users, data.num_classes) == (8, 8)
    assert {data.user_id(i) for i in range(8)} >= {"0", "3", "2100"}
    assert len(data.held_out()) == 20
    broken = tmp_path / f"qmnist-train-labels-idx2-int{suffix}"
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(UserError, match="where .* belong|cannot be read"):
        load("qmnist", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("gldv2", "federated_train.csv", "test.csv"),
        ("gldv2-mini", "mini_gld_train_split.csv", "mini_gld_test.csv"),
    ],
)
def test_landmarks_by_photographer(tmp_path, name, train, test):
    folder = tmp_path / "gldv2"
    save_images(folder / "images", [f"{i:016x}.jpg" for i in range(6)])
    rows = [(i // 2, f"{i:016x}", i % 2) for i in range(5)]
    save_csv(folder / train, ["user_id", "image_id", "class"], rows)
    save_csv(folder / test, ["image_id", "class"], [(f"{5:016x}", 1)])
    data = load(name, root=tmp_path)
    assert (data.num_users, data.num_classes) == (3, 2)
    assert data.held_out().fields["image"].shape == (1, 64, 64, 3)


def test_landmarks_by_author_of_the_original_tables(tmp_path):
    save_images(tmp_path / "a" / "b", [f"{i:x}.jpg" for i in range(9)])
    header = ["id", "url", "author", "license", "title"]
    rows = [(f"{i:x}", "u", "Ann" if i < 5 else "Bo, Jr.", "CC", "t") for i in range(9)]
    save_csv(tmp_path / "train_attribution.csv", header, rows)
    listed = [(k, " ".join(f"{i:x}" for i in range(9) if i % 3 == k)) for k in range(3)]
    save_csv(tmp_path / "train_clean.csv", ["landmark_id", "images"], listed)
    data = load("gldv2", root=tmp_path)
    assert {data.user_id(i) for i in range(2)} == {"Ann", "Bo, Jr."}
    assert "no test table" in data.provenance.notices[0]
    report = prepare("gldv2", root=tmp_path, image_size=16)
    assert report.images == 9
    assert load("gldv2", root=tmp_path, image_size=16).num_users == 2


def test_digiface_subjects_are_users_and_classes(tmp_path):
    for subject in range(10):
        folder = tmp_path / "digiface" / str(subject)
        save_images(folder, [f"{k}.png" for k in range(3)])
    data = load("digiface", root=tmp_path)
    assert data.num_users == data.num_classes == 8
    assert len(data.held_out()) == 6
    assert "2,000" not in data.provenance.notices[0]


def test_links_to_other_folders_are_no_subjects(tmp_path):
    digiface(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    save_images(elsewhere, ["0.png", "1.png"])
    (tmp_path / "digiface" / "out").symlink_to(elsewhere)
    (tmp_path / "digiface" / "loop").symlink_to(tmp_path / "digiface")
    data = load("digiface", root=tmp_path)
    assert data.num_users + len(np.unique(data.held_out().fields["label"])) == 10


def test_damaged_photographs_are_left_out_and_counted_on_request(tmp_path):
    inaturalist_of_tff(tmp_path)
    first, second, *_, last = sorted(tmp_path.glob("inaturalist/**/*.jpg"))
    first.write_bytes(first.read_bytes()[:300])
    second.unlink()
    last.write_bytes(b"")
    data = load("inaturalist", root=tmp_path, skip_bad=True)
    missing, damaged = data.provenance.notices
    assert "1 of 40 rows cannot be used: 00000001.jpg (no such file)" in missing
    assert "2 of 39 rows" in damaged
    rows = len(data.fetch(np.arange(data.num_users))) + len(data.held_out())
    assert rows == 37
    second.write_bytes(b"")
    whole = load("inaturalist", root=tmp_path)
    with pytest.raises(UserError, match=r"00000027\.jpg: .* --skip-bad"):
        whole.held_out()


def test_flair_takes_the_rarest_label_and_holds_out_its_test_partition(tmp_path):
    labels = [["plant"], ["plant", "art"], ["plant", "food"], ["art"], ["plant"]]
    parts = ["train", "train", "train", "val", "test"]
    rows = [
        {
            "image_id": str(i),
            "user_id": f"{i // 2}@N0",
            "labels": labels[i],
            "fine_grained_labels": [f"fine {i}"],
            "partition": parts[i],
        }
        for i in range(5)
    ]
    (tmp_path / "labels_and_metadata.json").write_text(json.dumps(rows))
    save_images(tmp_path / "small_images", [f"{i}.jpg" for i in range(5)])
    data = load("flair", root=tmp_path)
    assert list(data.class_names) == ["art", "food", "plant"]
    assert data.fetch(np.arange(2)).fields["label"].tolist() == [2, 0, 1]
    assert data.held_out().fields["label"].tolist() == [2]
    with pytest.raises(UserError, match="label_column"):
        load("flair", root=tmp_path, label_column="x")


@pytest.mark.parametrize(
    "name",
    ["emnist", "qmnist", "gldv2", "gldv2-mini", "digiface", "celeba", "flair"],
)
def test_missing_files_are_named_with_the_place(tmp_path, name):
    with pytest.raises(NotAvailable, match=str(tmp_path)) as error:
        load(name, root=tmp_path)
    assert error.value.exit_code == 4
