"""Hugging Face data sets with a user column, also through Flower's partitioner."""

import io

import numpy as np
import pytest
from PIL import Image

from fedemb.errors import NotAvailable, UserError
from simulations.datasets import load
from simulations.datasets.huggingface import from_natural_ids
from simulations.datasets.registry import options_for

datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")


def make(rows=24):
    def png(value):
        out = io.BytesIO()
        Image.new("L", (9, 9), value).save(out, "PNG")
        return {"bytes": out.getvalue(), "path": None}

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b", "c", "d"]),
            "writer": datasets.Value("string"),
        }
    )
    content = {
        "image": [png(i) for i in range(rows)],
        "label": [i % 4 for i in range(rows)],
        "writer": [f"w{i % 5}" for i in range(rows)],
    }
    return datasets.Dataset.from_dict(content, features=features)


def test_a_saved_data_set_with_splits(tmp_path):
    both = datasets.DatasetDict({"train": make(20), "test": make(8)})
    both.save_to_disk(str(tmp_path / "d"))
    data = load(f"hf:{tmp_path / 'd'}", user_column="writer")
    assert (data.num_users, data.num_classes) == (5, 4)
    assert list(data.class_names) == ["a", "b", "c", "d"]
    assert data.fetch(np.array([1])).fields["image"][:, 0, 0, 0].tolist() == [
        1,
        6,
        11,
        16,
    ]
    assert len(data.held_out()) == 8


def test_without_splits_classes_are_held_out_and_missing_columns_named(tmp_path):
    make().save_to_disk(str(tmp_path / "d"))
    data = load(f"hf:{tmp_path / 'd'}", user_column="writer")
    assert "2 of 4 classes" in data.provenance.notices[0]
    with pytest.raises(UserError, match="'user_id' is missing.*writer"):
        load(f"hf:{tmp_path / 'd'}")
    with pytest.raises(NotAvailable, match="cannot be opened"):
        load(f"hf:{tmp_path}", user_column="writer")


def test_flowers_natural_partitions_are_users():
    partitioners = pytest.importorskip("flwr_datasets.partitioner")
    partitioner = partitioners.NaturalIdPartitioner(partition_by="writer")
    partitioner.dataset = make()
    options = options_for("hf:flower", root=None, user_column="writer")
    data = from_natural_ids(partitioner, options)
    assert {data.user_id(i) for i in range(data.num_users)} == {
        f"w{i}" for i in range(5)
    }
