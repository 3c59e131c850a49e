"""The shipped sample: what is in it, and that it is what its licence says."""

from importlib import resources

import numpy as np
import pytest

from fedemb.data import Source
from fedemb.errors import UserError
from simulations.datasets import load


@pytest.fixture(scope="module")
def data():
    return load("openclipart")


def test_its_size_is_as_described(data):
    assert data.num_users > 450
    assert data.num_classes == 107
    assert len(data.class_names) == 134
    images = data.examples.fields["image"]
    assert images.shape == (len(data.examples), 64, 64, 3)
    assert images.dtype == np.uint8
    assert len(data.examples) + len(data.held_out()) == 4274


def test_held_out_folders_are_unseen_in_training(data):
    labels = data.held_out().fields["label"]
    assert labels.min() >= data.num_classes
    assert np.bincount(labels)[data.num_classes :].min() >= 2


def test_every_training_user_has_drawings_and_the_dropped_are_counted(data):
    assert data.examples.sizes.min() >= 1
    assert "have no training examples" in data.provenance.notices[0]
    assert data.provenance.source is Source.SAMPLE


def test_captions_name_what_is_drawn_and_no_address(data):
    captions = data.examples.fields["caption"]
    assert np.mean([len(c) > 3 for c in captions]) > 0.95
    everything = [*captions, *data.user_ids]
    assert not [text for text in everything if "@" in text]


def test_no_drawing_is_blank_and_no_held_out_one_is_trained_on(data):
    trained = data.examples.fields["image"]
    held_out = data.held_out().fields["image"]
    assert trained.min(axis=(1, 2, 3)).max() < 250
    seen = {image.tobytes() for image in trained}
    unseen = {image.tobytes() for image in held_out}
    assert len(unseen) == len(held_out)
    assert not seen & unseen
    assert np.median(trained[:, 0, 0]) > 250  # on white


def test_another_size_and_the_licence_files(data):
    small = load("openclipart", image_size=32)
    assert small.examples.fields["image"].shape[1:] == (32, 32, 3)
    folder = resources.files("simulations.datasets.openclipart")
    assert "public domain" in (folder / "LICENSE").read_text()
    named = (folder / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert all(data.user_id(i) in named for i in range(data.num_users))
    with pytest.raises(UserError, match="skip_bad"):
        load("openclipart", skip_bad=True)
