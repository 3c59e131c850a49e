"""Promises of the generated characters: deterministic, independent, cheap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.errors import UserError
from simulations.datasets import load
from simulations.datasets.synthetic import (
    HELD_OUT_CLASSES,
    TRAIN_CLASSES,
    SyntheticCharacters,
)


@pytest.fixture(scope="module")
def data():
    return SyntheticCharacters(10_000_000)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9_999_999), min_size=1, max_size=6))
def test_a_users_drawings_do_not_depend_on_who_else_is_asked_for(data, users):
    together = data.fetch(np.array(users))
    for position, user in enumerate(users):
        alone = data.fetch(np.array([user]))
        group = together.group(position)
        np.testing.assert_array_equal(group["image"], alone.fields["image"])
        np.testing.assert_array_equal(group["label"], alone.fields["label"])


def test_the_seed_and_the_user_change_everything(data):
    one = data.fetch(np.array([7])).fields["image"]
    assert not np.array_equal(one, data.fetch(np.array([8])).fields["image"])
    other = SyntheticCharacters(10_000_000, seed=1).fetch(np.array([7]))
    assert not np.array_equal(one, other.fields["image"])
    again = SyntheticCharacters(10, seed=0).fetch(np.array([7])).fields["image"]
    np.testing.assert_array_equal(one, again)


def test_a_user_draws_eight_classes_twice_and_no_drawing_is_a_copy(data):
    rows = data.fetch(np.arange(200))
    for user in range(200):
        group = rows.group(user)
        classes, counts = np.unique(group["label"], return_counts=True)
        assert len(classes) == 8
        assert set(counts) == {2}
    flat = rows.fields["image"].reshape(len(rows), -1)
    assert len(np.unique(flat, axis=0)) == len(rows)


def test_held_out_classes_are_unseen_in_training(data):
    trained = data.fetch(np.arange(500)).fields["label"]
    held_out = data.held_out()
    labels, counts = np.unique(held_out.fields["label"], return_counts=True)
    assert trained.min() >= 0
    assert trained.max() < TRAIN_CLASSES == data.num_classes
    np.testing.assert_array_equal(
        labels, TRAIN_CLASSES + np.arange(HELD_OUT_CLASSES), strict=True
    )
    assert set(counts) == {20}
    assert len(data.class_names) == TRAIN_CLASSES + HELD_OUT_CLASSES


@pytest.mark.statistical
def test_every_class_is_drawn_about_equally_often(data):
    labels = data.fetch(np.arange(4_000)).fields["label"]
    counts = np.bincount(labels, minlength=TRAIN_CLASSES) / 2
    expected = 4_000 * 8 / TRAIN_CLASSES
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 400 + 6 * np.sqrt(800)  # 400 degrees of freedom
    skewed = counts.copy()
    skewed[:40] *= 1.5  # negative control
    assert float(((skewed - expected) ** 2 / expected).sum()) > 400 + 6 * np.sqrt(800)


def test_two_drawings_of_one_character_are_nearer_than_two_characters(data):
    """One-shot by raw pixels beats chance clearly and leaves room to learn."""
    rows = data.held_out().fields
    pixels = rows["image"].reshape(HELD_OUT_CLASSES, 20, -1).astype(np.float32)
    pixels /= np.linalg.norm(pixels, axis=-1, keepdims=True)
    shots, queries = pixels[:, 0], pixels[:, 1]
    right = []
    for start in range(0, HELD_OUT_CLASSES, 20):
        ways = slice(start, start + 20)
        guess = (queries[ways] @ shots[ways].T).argmax(axis=1)
        right.append(guess == np.arange(20))
    assert 0.12 < np.mean(right) < 0.45


def test_image_size_and_population_are_taken_and_nonsense_is_refused():
    small = load("synthetic", users=3, image_size=20)
    assert small.fetch(np.array([2])).fields["image"].shape == (16, 20, 20, 1)
    assert load("synthetic").num_users == 1_000_000
    with pytest.raises(UserError, match="users=0"):
        load("synthetic", users=0)
    with pytest.raises(UserError, match="alphabet of 401"):
        SyntheticCharacters(10, classes_per_user=402)
