"""Your own data: folders, arrays and tables, whole and broken."""

import csv
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fedemb.data import Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets import load

USERS = [f"u{i % 3}" for i in range(12)]
LABELS = [f"c{i % 4}" for i in range(12)]


def png(value=0, mode="L", size=(10, 10)):
    out = io.BytesIO()
    Image.new(mode, size, value).save(out, "PNG")
    return out.getvalue()


def write_folder(folder, contents=None, names=None, header=None, split=None):
    folder.mkdir(exist_ok=True)
    contents = contents or {f"{i}.png": png(i) for i in range(12)}
    names = names or list(contents)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    columns = [names, USERS, LABELS] + ([split] if split else [])
    header = header or ["file_name", "user_id", "label"] + (["split"] if split else [])
    with (folder / "metadata.csv").open("w", newline="") as stream:
        rows = zip(*columns, strict=False)
        csv.writer(stream).writerows([header, *rows])
    return f"folder:{folder}"


def save_npz(path, **arrays):
    content = {
        "images": np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8),
        "labels": np.array(LABELS),
        "users": np.array(USERS),
    }
    content.update(arrays)
    np.savez_compressed(path, **{k: v for k, v in content.items() if v is not None})
    return f"npz:{path}"


def test_a_folder_is_read_with_its_split(tmp_path):
    split = ["train"] * 9 + ["test"] * 3
    data = load(write_folder(tmp_path / "d", split=split))
    assert data.provenance.source is Source.REAL
    assert data.provenance.notices == ()
    assert (data.num_users, data.num_classes) == (3, 4)
    rows = data.fetch(np.array([1]))
    assert rows.fields["image"].shape == (3, 10, 10, 1)
    assert rows.fields["image"][:, 0, 0, 0].tolist() == [1, 4, 7]
    assert data.held_out().fields["image"][:, 0, 0, 0].tolist() == [9, 10, 11]


def test_without_a_split_classes_are_held_out_and_the_notice_says_so(tmp_path):
    data = load(write_folder(tmp_path / "d"))
    assert "2 of 4 classes" in data.provenance.notices[0]
    assert (data.held_out().fields["label"] >= data.num_classes).all()
    again = load(write_folder(tmp_path / "d"))
    assert again.class_names == data.class_names
    assert again.provenance.checksum == data.provenance.checksum


def test_sizes_colours_and_depths_are_brought_to_one_shape(tmp_path):
    kinds = [("L", 9), ("RGB", (1, 2, 3)), ("1", 1), ("RGBA", (0, 0, 0, 0)), ("P", 3)]
    kinds += [("LA", (9, 0)), ("I;16", 65535)]
    contents = {
        f"{i}.png": png(value, mode, (8 + i, 9))
        for i, (mode, value) in enumerate(kinds)
    }
    contents |= {f"{i}.png": png(i) for i in range(7, 12)}
    split = ["train"] * 11 + ["test"]
    data = load(write_folder(tmp_path / "d", contents, split=split))
    assert data.examples.fields["image"].shape == (11, 64, 64, 3)
    assert "different sizes" in data.provenance.notices[0]
    white = data.fetch(np.array([0, 2])).fields["image"]
    assert (white == 255).all(axis=(1, 2, 3)).any()  # the transparent picture


@pytest.mark.parametrize("missing", ["file_name", "user_id", "label"])
def test_a_missing_column_is_named(tmp_path, missing):
    header = [c if c != missing else "x" for c in ("file_name", "user_id", "label")]
    with pytest.raises(UserError, match=f"column '{missing}' is missing") as error:
        load(write_folder(tmp_path / "d", header=header))
    assert error.value.exit_code == 2


def test_missing_paths_are_not_available(tmp_path):
    for kind in ("folder", "npz", "parquet"):
        with pytest.raises(NotAvailable):
            load(f"{kind}:{tmp_path / 'nowhere'}")
        with pytest.raises(UserError, match="needs a path"):
            load(kind)


def truncated_jpeg():
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()[:900]


def bomb(side):
    """A PNG of a few bytes that claims many pixels."""

    def chunk(kind, content):
        body = kind + content
        length, check = struct.pack(">I", len(content)), zlib.crc32(body)
        return length + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


BROKEN = {
    "truncated": (truncated_jpeg(), "truncated"),
    "bomb": (bomb(60_000), "exceeds limit"),
    "huge": (bomb(9_000), "too large"),
    "empty": (b"", "not an image"),
    "text": (b"hello", "not an image"),
    "svg": (b"<svg/>", "not an image"),
    "half a png": (png(3, "RGB", (200, 200))[:60], ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_or_skipped_and_counted(tmp_path, kind):
    content, reason = BROKEN[kind]
    contents = {f"{i}.png": png(i) for i in range(12)}
    contents["7.png"] = content
    name = write_folder(tmp_path / "d", contents)
    with pytest.raises(UserError, match=rf"1 of 12 rows .* 7\.png \(.*{reason}"):
        load(name)
    data = load(name, skip_bad=True)
    assert len(data.examples) + len(data.held_out()) == 11
    assert "left out: 1 of 12" in data.provenance.notices[-1]


def test_names_that_lead_out_repeat_or_are_not_there(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    folder = tmp_path / "d"
    write_folder(folder)
    (folder / "link.png").symlink_to(secret)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    names = ["../secret.png", "link.png", str(secret), "loop.png", "", "no.png"]
    names += ["6.png", "6.png", "8.png", "9.png", "10.png", "11.png"]
    name = write_folder(folder, {f"{i}.png": png(i) for i in range(12)}, names)
    with pytest.raises(UserError, match=r"6 of 12 rows .*secret\.png \(leads out"):
        load(name)
    data = load(name, skip_bad=True)
    assert len(data.examples) + len(data.held_out()) == 5
    notices = " ".join(data.provenance.notices)
    assert "6 of 12" in notices
    assert "1 of 6 rows" in notices  # no.png, found when decoding


def test_pipes_folders_and_odd_names_do_not_hang_or_crash(tmp_path):
    folder = tmp_path / "d"
    write_folder(folder)
    for name in ("3.png", "4.png"):
        (folder / name).unlink()
    os.mkfifo(folder / "3.png")
    (folder / "4.png").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"")
    with pytest.raises(UserError, match=r"3\.png \(not a regular file\), 4\.png"):
        load(f"folder:{folder}")


def test_a_link_inside_the_folder_is_fine(tmp_path):
    folder = tmp_path / "d"
    write_folder(folder)
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to(folder / "real.png")
    (folder / "real.png").write_bytes(png(0))
    assert load(f"folder:{folder}").num_users == 3


def test_metadata_that_is_not_utf8_or_not_csv(tmp_path):
    folder = tmp_path / "d"
    write_folder(folder)
    (folder / "metadata.csv").write_bytes(b"file_name,user_id,label\n\xff\xfe,a,b\n")
    with pytest.raises(UserError, match="not UTF-8"):
        load(f"folder:{folder}")
    (folder / "metadata.csv").write_text("file_name,user_id,label\na.png\n")
    with pytest.raises(UserError, match="fewer than 3 cells"):
        load(f"folder:{folder}")
    (folder / "metadata.csv").write_text("")
    with pytest.raises(UserError, match="missing"):
        load(f"folder:{folder}")


def test_arrays_are_read(tmp_path):
    split = np.array(["train"] * 9 + ["held_out"] * 3)
    data = load(save_npz(tmp_path / "a.npz", split=split))
    assert data.examples.fields["image"].shape == (9, 8, 8, 1)
    assert data.examples.fields["label"].dtype == np.int64
    assert len(data.held_out()) == 3
    small = load(save_npz(tmp_path / "a.npz", split=split), image_size=10)
    assert small.examples.fields["image"].shape == (9, 10, 10, 1)


def test_numbers_are_names_too_and_other_arrays_may_be_named(tmp_path):
    numbers = np.arange(12) % 4
    one = load(save_npz(tmp_path / "a.npz", labels=numbers, users=numbers % 3))
    two = load(save_npz(tmp_path / "b.npz", labels=numbers * 1.0, users=numbers % 3))
    assert one.class_names == two.class_names
    path = save_npz(tmp_path / "c.npz", users=None, hand=np.array(USERS))
    assert load(path, user_column="hand").num_users == 3
    with pytest.raises(UserError, match="'users' is missing.* hand"):
        load(path)


def test_pixels_of_all_accepted_kinds_agree(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (12, 8, 8)).astype(bool)
    expected = load(save_npz(tmp_path / "a.npz", images=pixels)).examples
    for kind in (np.float32, np.float64):
        path = save_npz(tmp_path / "a.npz", images=pixels.astype(kind))
        np.testing.assert_array_equal(
            load(path).examples.fields["image"], expected.fields["image"]
        )
    for kind in (np.uint8, np.int64):
        path = save_npz(tmp_path / "a.npz", images=pixels.astype(kind) * kind(255))
        np.testing.assert_array_equal(
            load(path).examples.fields["image"], expected.fields["image"]
        )


def test_floats_up_to_255_and_channels_first_are_recognised(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    expected = np.moveaxis(pixels, 1, -1)
    for images in (pixels, pixels.astype(np.float32), expected.astype(np.float64)):
        data = load(save_npz(tmp_path / "a.npz", images=images))
        rows = data.fetch(np.array([0])).fields["image"]
        assert rows.shape[1:] == (8, 8, 3)
        first = np.flatnonzero(~np.isin(np.array(LABELS), data.class_names[3:]))[0]
        np.testing.assert_array_equal(rows[0], expected[first])


def test_images_that_are_nowhere_bright_are_pointed_out(tmp_path):
    images = np.random.default_rng(0).integers(0, 17, (12, 8, 8))
    images[0, 0, 0] = 16
    (notice, _) = load(save_npz(tmp_path / "a.npz", images=images)).provenance.notices
    assert "brightest pixel is 16 of 255" in notice
    with pytest.raises(UserError, match=r"from 0 to 1[0-6].*divide by what means"):
        load(save_npz(tmp_path / "a.npz", images=images * 1.0))


def test_users_and_labels_may_stand_in_a_column(tmp_path):
    path = save_npz(
        tmp_path / "a.npz",
        labels=np.array(LABELS)[:, None],
        users=np.array(USERS)[:, None],
    )
    assert load(path).num_users == 3


def test_poses_and_clips_come_as_arrays_too(tmp_path):
    draw = np.random.default_rng(0)
    poses = draw.random((12, 4, 13, 3))
    data = load(save_npz(tmp_path / "a.npz", images=None, pose3d=poses))
    assert data.held_out().fields["pose3d"].shape == (6, 4, 13, 3)
    views = draw.random((12, 2, 4, 13, 2))
    path = save_npz(tmp_path / "a.npz", images=None, pose3d=poses, keypoints=views)
    assert set(load(path).examples.fields) == {"keypoints", "pose3d", "label"}
    with pytest.raises(UserError, match="does not apply to poses"):
        load(path, image_size=32)
    clips = draw.integers(0, 255, (12, 4, 8, 8, 3), dtype=np.uint8)
    said = np.array([f"clip {i}" for i in range(12)])
    path = save_npz(tmp_path / "b.npz", images=None, clips=clips, captions=said)
    rows = load(path, image_size=16).examples.fields
    assert rows["clip"].shape == (6, 4, 16, 16, 3)
    assert set(rows["caption"]) < set(said)
    poses[5, 0, 0, 0] = np.nan
    path = save_npz(tmp_path / "c.npz", images=None, pose3d=poses)
    with pytest.raises(UserError, match=r"row 5 \(pose3d is not finite"):
        load(path)
    assert len(load(path, skip_bad=True).examples) < 12
    flickering = clips / 255.0
    flickering[7, 2, 1, 1, 1] = np.inf
    path = save_npz(tmp_path / "d.npz", images=None, clips=flickering)
    with pytest.raises(UserError, match=r"row 7 \(pixels that are not finite"):
        load(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((12, 64))}, "shape"),
        ({"labels": np.eye(12)}, "argmax"),
        ({"labels": np.arange(12) * 1j}, "neither text nor numbers"),
        ({"users": np.arange(12).astype("M8[D]")}, "neither text nor numbers"),
        ({"images": None, "pose3d": np.zeros((12, 4, 17, 3))}, "left shoulder"),
        ({"images": None, "pose3d": np.full((12, 4, 13, 3), "x")}, "no position"),
        ({"images": None, "clips": np.zeros((12, 8, 8, 3))}, "clips have the shape"),
        ({"images": None, "captions": np.array(LABELS)}, "'images' is missing"),
        ({"images": np.zeros((12, 8, 8, 4), np.uint8)}, "1 or 3 channels"),
        ({"images": np.full((12, 8, 8), 7.0)}, r"must lie in \[0, 1\]"),
        ({"images": np.full((12, 8, 8), -1)}, r"must lie in \[0, 255\]"),
        ({"images": np.zeros((12, 8, 8), complex)}, "not pixels"),
        ({"labels": np.array(["c"] * 12)}, "too few"),
        ({"labels": np.array(LABELS[:7])}, "differ in length"),
        ({"images": np.zeros((0, 8, 8))}, "differ in length"),
        ({"labels": np.array([None] * 12, dtype=object)}, "Python objects"),
        ({"labels": np.float64(3)}, "single value"),
        ({"split": np.array(["train"] * 6 + ["x"] * 6)}, "6 of 12 rows .* not train"),
        ({"split": np.array(["test"] * 12)}, "no training rows"),
        ({"split": np.array(["train"] * 12)}, "no held-out rows"),
        ({"users": np.array([np.nan] * 12)}, "nothing is left|12 of 12"),
    ],
)
def test_unusable_arrays_are_refused_with_the_rule(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        load(save_npz(tmp_path / "a.npz", **arrays))
    assert error.value.exit_code == 2


def test_nan_labels_and_pixels_are_named_or_skipped(tmp_path):
    labels = np.arange(12) % 4 * 1.0
    labels[5] = np.nan
    images = np.zeros((12, 8, 8), np.float32)
    images[3, 2, 2] = np.inf
    path = save_npz(tmp_path / "a.npz", labels=labels, images=images)
    with pytest.raises(UserError, match=r"row 3 \(pixels.*row 5 \(label is not a num"):
        load(path)
    data = load(path, skip_bad=True)
    assert len(data.examples) + len(data.held_out()) == 10


def test_files_that_are_not_npz_or_claim_too_much(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not an npz"):
        load(f"npz:{path}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "labels", "users"):
            archive.writestr(f"{name}.npy", b"\0" * 4_000_000)
    with pytest.raises(UserError, match="cannot be read"):
        load(f"npz:{path}")
    monkeypatch.setattr("simulations.datasets.npz.BYTES_LIMIT", 1 << 20)
    with pytest.raises(UserError, match="unpacks to"):
        load(f"npz:{path}")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(
        tmp_path / "a.npz",
        images=np.zeros((12, 8, 8), np.uint8),
        labels=np.array([Trap()] * 12, dtype=object),
        users=np.array(USERS),
    )
    with pytest.raises(UserError, match="Python objects"):
        load(f"npz:{tmp_path / 'a.npz'}")
    assert not (tmp_path / "sprung").exists()


def test_tables_of_bytes_and_of_hugging_faces_structs(tmp_path):
    contents = [png(i) for i in range(12)]
    plain = pa.table({"image": contents, "user_id": USERS, "label": LABELS})
    parquet.write_table(plain, tmp_path / "a.parquet")
    data = load(f"parquet:{tmp_path / 'a.parquet'}")
    folder = tmp_path / "parts"
    folder.mkdir()
    structs = [{"bytes": c, "path": None} for c in contents]
    nested = pa.table({"img": structs, "author": USERS, "fine": LABELS})
    parquet.write_table(nested.slice(0, 5), folder / "0.parquet")
    parquet.write_table(nested.slice(5), folder / "1.parquet")
    columns = {"user_column": "author", "label_column": "fine", "image_column": "img"}
    other = load(f"parquet:{folder}", **columns)
    assert data.provenance.checksum == other.provenance.checksum
    with pytest.raises(UserError, match="--user-column"):
        load(f"parquet:{folder}")


def test_broken_tables(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a parquet file"):
        load(f"parquet:{path}")
    images = [png(i) for i in range(10)] + [None, b"?"]
    table = pa.table({"image": images, "user_id": [*USERS[:11], None], "label": LABELS})
    parquet.write_table(table, path)
    with pytest.raises(UserError, match=r"row 10 \(image is missing\), row 11"):
        load(f"parquet:{path}")
    data = load(f"parquet:{path}", skip_bad=True)
    assert len(data.examples) + len(data.held_out()) == 10


def test_labels_that_are_lists_are_no_names(tmp_path):
    images, lists = [png(i) for i in range(12)], [[1, 2], [3]] * 6
    table = pa.table({"image": images, "user_id": USERS, "label": lists})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"row 0 \(label is neither text nor a number"):
        load(f"parquet:{tmp_path / 't.parquet'}")


@pytest.mark.parametrize("spec", ["iid:4", "dirichlet:4:0.3", "shards:4:3"])
def test_data_without_users_get_artificial_ones_that_say_so(tmp_path, spec):
    path = save_npz(tmp_path / "a.npz", users=None)
    data = load(path, user_column=spec)
    assert 1 <= data.num_users <= 4
    assert "ARTIFICIAL USERS" in data.provenance.notices[0]
    assert spec in data.provenance.notices[0]
    again = load(path, user_column=spec)
    np.testing.assert_array_equal(again.examples.offsets, data.examples.offsets)


def test_options_that_do_not_apply_and_unknown_names_are_refused():
    with pytest.raises(UserError, match="does not apply to 'openclipart'"):
        load("openclipart", users=5)
    with pytest.raises(UserError, match="unknown data set 'mnist'.*synthetic"):
        load("mnist")
    with pytest.raises(UserError, match="takes no path"):
        load("synthetic:x")
    with pytest.raises(UserError, match="image_size=4"):
        load("synthetic", image_size=4)


def packed_omniglot(path, drawings=8):
    draw = np.random.default_rng(0)
    ink = np.zeros((drawings, 105, 105), np.uint8)
    ink[:, 30:60, 30:61] = draw.integers(0, 2, (drawings, 30, 31))
    number = np.arange(drawings)
    np.savez(
        path,
        ink_packed=np.packbits(ink.reshape(drawings, -1), axis=1),
        alphabet=(number // 4).astype(np.uint8),
        character=(1 + number % 2).astype(np.uint8),
        drawer=(1 + number // 2 % 2).astype(np.uint8),
        evaluation_split=number >= 4,
    )
    return ink


def test_omniglot_is_read_in_its_packed_form(tmp_path):
    ink = packed_omniglot(tmp_path / "o.npz")
    data = load(f"npz:{tmp_path / 'o.npz'}")
    assert (data.num_users, data.num_classes) == (2, 2)
    assert set(data.held_out().fields["label"].tolist()) == {2, 3}
    first = data.fetch(np.array([0])).fields["image"][0, ..., 0]
    means = ink[0].reshape(35, 3, 35, 3).mean((1, 3)) * 255
    np.testing.assert_allclose(first, means, atol=1)


def test_packed_drawings_of_another_size_are_refused(tmp_path):
    packed_omniglot(tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as content:
        arrays = dict(content)
    arrays["ink_packed"] = arrays["ink_packed"][:, :-1]
    np.savez(tmp_path / "o.npz", **arrays)
    with pytest.raises(UserError, match="ink_packed is uint8 of shape"):
        load(f"npz:{tmp_path / 'o.npz'}")


OMNIGLOT = Path(__file__).parents[3] / "../shared/data/omniglot/omniglot_105.npz"


@pytest.mark.skipif(not OMNIGLOT.exists(), reason="Omniglot is not there")
def test_all_of_omniglot_has_its_published_size():
    data = load(f"npz:{OMNIGLOT}")
    held_out = data.held_out().fields["label"]
    assert (data.num_users, data.num_classes) == (600, 964)
    assert len(np.unique(held_out)) == 659
    assert len(held_out) == 13_180


def test_a_small_archive_that_unpacks_to_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.datasets.npz.BOMB_BYTES", 1 << 20)
    path = save_npz(tmp_path / "a.npz", images=np.zeros((12, 512, 512), np.uint8))
    with pytest.raises(UserError, match="unpacks to"):
        load(path)
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 255, (12, 512, 512), dtype=np.uint8)
    assert load(save_npz(tmp_path / "b.npz", images=noise)).num_users == 3


def test_a_table_of_repeated_images_is_read_no_further_than_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.datasets.parquet.MEMORY_LIMIT", 1 << 20)
    image = np.random.default_rng(0).bytes(20_000)
    rows = 600
    columns = {
        "image": [image] * rows,
        "user_id": ["u"] * rows,
        "label": ["a"] * rows,
    }
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table(columns), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="of encoded images"):
        load(f"parquet:{path}")


def test_an_array_that_claims_an_impossible_shape(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path)
    header = str({"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8)})
    text = header.ljust(117).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 64
    with zipfile.ZipFile(path) as old:
        others = {n: old.read(n) for n in old.namelist() if n != "images.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**others, "images.npy": content}.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match="'images' cannot be read"):
        load(f"npz:{path}")
