"""iNaturalist: the official tables as published, and the stand-in."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from fedemb.data import Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets import load


def save_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.full((40, 50, 3), 20 * number % 255, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95)


def save_csv(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture
def tff(tmp_path):
    """TFF's two tables; image files lie in nested folders."""
    header = ["image_id", "class", "user_120k", "geo_100", "geo_300", "geo_1k"]
    header += ["geo_3k", "geo_10k", "geo_30k"]
    rows = [
        ["jpg1jpg", "5", "u9", "a", "a", "a", "a", "a", "a"],
        ["p2", "7", "u10", "a", "a", "a", "a", "a", "a"],
        ["p3", "5", "NA", "b", "a", "a", "a", "a", "a"],
        ["p4", "7", "u9", "b", "a", "a", "a", "a", "a"],
    ]
    save_csv(tmp_path / "iNaturalist_train.csv", header, rows)
    save_csv(tmp_path / "iNaturalist_test.csv", ["image_id", "class"], [["t1", "7"]])
    save_images(tmp_path / "train_val_images" / "Aves", ["jpg1jpg", "p2", "p3"])
    save_images(tmp_path / "deep" / "er", ["p4", "t1"])
    return tmp_path


def test_tff_tables_are_read_and_na_rows_left_out(tff):
    data = load("inaturalist", root=tff, image_size=16)
    assert data.provenance.source is Source.REAL
    assert [data.user_id(i) for i in range(data.num_users)] == ["u10", "u9"]
    rows = data.fetch(np.array([0, 1]))
    assert rows.sizes.tolist() == [1, 2]
    assert rows.fields["image"].shape == (3, 16, 16, 3)
    assert [data.class_names[i] for i in rows.fields["label"]] == ["7", "5", "7"]
    assert data.held_out().fields["label"].tolist() == [1]


def test_geo_splits_are_chosen_by_column(tff):
    data = load("inaturalist", root=tff, user_column="geo_100")
    assert [data.user_id(i) for i in range(data.num_users)] == ["a", "b"]
    with pytest.raises(UserError, match="geo_1k"):
        load("inaturalist", root=tff, user_column="geo_7")


def test_missing_images_are_named_or_skipped(tff):
    (tff / "deep" / "er" / "p4.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 4 rows .* p4\.jpg \(no such file\)"):
        load("inaturalist", root=tff)
    data = load("inaturalist", root=tff, skip_bad=True)
    assert "p4.jpg" in data.provenance.notices[0]
    assert len(data.fetch(np.array([1]))) == 1


def test_fedvision_tables(tmp_path):
    folder = tmp_path / "inaturalist"
    save_images(folder / "x", ["a", "b", "c", "t"])
    save_csv(
        folder / "federated_train_user_120k.csv",
        ["user_id", "image_id", "class"],
        [["3", "a", "0"], ["3", "b", "1"], ["4", "c", "1"]],
    )
    save_csv(folder / "test.csv", ["image_id", "class"], [["t", "1"]])
    data = load("inaturalist", root=tmp_path)
    assert data.num_users == 2
    assert data.provenance.notices == ()


def test_the_2017_annotations_with_rights_holders_as_users(tmp_path):
    images = [
        {"id": i, "file_name": f"train_val2017/Aves/{i}/{i}.jpg", "rights_holder": who}
        for i, who in enumerate(["Ann", "Ann", "Bo", "Bo", "Bo", "Cy"])
    ]
    images.append({"id": 6, "file_name": "6.jpg", "rights_holder": ""})
    annotations = [{"id": i, "image_id": i, "category_id": i % 4} for i in range(7)]
    content = {"images": images, "annotations": annotations, "categories": []}
    (tmp_path / "train2017.json").write_text(json.dumps(content))
    save_images(tmp_path, [str(i) for i in range(6)])
    data = load("inaturalist", root=tmp_path)
    assert {data.user_id(i) for i in range(data.num_users)} <= {"Ann", "Bo", "Cy"}
    assert "no test table" in data.provenance.notices[0]
    (tmp_path / "train2017.json").write_text("{}")
    with pytest.raises(UserError, match="annotation file"):
        load("inaturalist", root=tmp_path)


def test_without_files_the_stand_in_says_so_loudly(tmp_path):
    data = load("inaturalist", root=tmp_path)
    assert data.provenance.source is Source.STAND_IN
    assert "STAND-IN" in data.provenance.notices[0]
    assert "iNaturalist_train.csv" in data.provenance.notices[0]
    assert str(tmp_path) in data.provenance.notices[0]
    with pytest.raises(NotAvailable, match="federated_train_user_120k.csv") as error:
        load("inaturalist", root=tmp_path, require_real=True)
    assert error.value.exit_code == 4


def test_the_stand_in_has_the_published_shape(tmp_path):
    data = load("inaturalist", root=tmp_path)
    assert (data.num_users, data.num_classes) == (9_275, 1_203)
    sizes = data._sizes
    assert sizes.sum() == 120_300
    assert sizes.max() > 5 * np.median(sizes)
    held_out = data.held_out().fields
    assert held_out["image"].shape == (3_000, 32, 32, 3)
    assert held_out["label"].min() == data.num_classes


def test_an_observers_pictures_do_not_depend_on_the_others(tmp_path):
    data = load("inaturalist", root=tmp_path, image_size=20)
    together = data.fetch(np.array([9_274, 3, 500]))
    for position, user in enumerate([9_274, 3, 500]):
        alone = data.fetch(np.array([user])).fields
        np.testing.assert_array_equal(together.group(position)["image"], alone["image"])
        np.testing.assert_array_equal(together.group(position)["label"], alone["label"])


def test_observers_see_few_species_again_and_again_and_species_have_a_tail(tmp_path):
    data = load("inaturalist", root=tmp_path, image_size=8)
    rows = data.fetch(np.arange(0, 9_275, 5))
    few = [len(np.unique(rows.group(u)["label"])) for u in range(rows.num_groups)]
    assert np.mean(few) < 0.6 * rows.sizes.mean()
    counts = np.sort(np.bincount(rows.fields["label"], minlength=1_203))
    assert (counts > 0).mean() > 0.9
    assert counts[-12:].mean() > 10 * np.median(counts)


def test_any_number_of_observers_is_generated_and_says_so():
    data = load("observations", users=1_000_000)
    assert data.num_users == 1_000_000
    assert data.provenance.source is Source.SYNTHETIC
    assert not data.provenance.notices
    rows = data.fetch(np.array([999_999, 5]))
    assert rows.fields["image"].shape[1:] == (32, 32, 3)
    assert rows.sizes.min() >= 3
    assert abs(data._sizes.mean() - 120_300 / 9_275) < 0.01
    other = load("observations", users=999_999)
    assert data.provenance.checksum != other.provenance.checksum
    np.testing.assert_array_equal(
        data.held_out().fields["image"], other.held_out().fields["image"]
    )
