"""Amplification: styled copies of real users, said to be so."""

import numpy as np
import pytest

from fedemb.data import Source
from fedemb.errors import UserError
from simulations.datasets import load
from simulations.datasets.amplify import stroke, warp


@pytest.fixture(scope="module")
def pair():
    base = load("openclipart", image_size=32)
    return base, load("openclipart", image_size=32, amplify=100_000)


def test_the_population_grows_and_says_so(pair):
    base, data = pair
    assert data.num_users == 100_000
    assert data.provenance.source is Source.AMPLIFIED
    assert "AMPLIFIED" in data.provenance.notices[-1]
    assert data.provenance.checksum != base.provenance.checksum
    assert data.num_classes == base.num_classes
    assert data.user_id(base.num_users + 1).startswith(base.user_id(1))


def test_first_copies_are_the_users_themselves_and_later_ones_are_not(pair):
    base, data = pair
    users = np.array([5, 9])
    own = base.fetch(users).fields
    first = data.fetch(users).fields
    later = data.fetch(users + 3 * base.num_users).fields
    np.testing.assert_array_equal(first["image"], own["image"])
    np.testing.assert_array_equal(later["label"], own["label"])
    assert not np.array_equal(later["image"], own["image"])


def test_a_copy_does_not_depend_on_who_else_is_asked_for(pair):
    _, data = pair
    together = data.fetch(np.array([99_999, 1_234, 40]))
    alone = data.fetch(np.array([1_234])).fields["image"]
    np.testing.assert_array_equal(together.group(1)["image"], alone)


def test_one_style_for_all_of_a_users_images():
    image = np.zeros((2, 9, 9, 1), np.uint8)
    image[:, 3:6, 3:6] = 200
    turned = np.array([[[0.0, -1.0], [1.0, 0.0]]] * 2)
    np.testing.assert_array_equal(warp(image, turned, np.zeros((2, 2))), image)
    moved = warp(image, np.eye(2)[None].repeat(2, 0), np.array([[1 / 9, 0]] * 2))
    np.testing.assert_array_equal(moved[:, :, 1:], image[:, :, :-1])


def test_strokes_thicken_thin_and_stay():
    image = np.zeros((3, 9, 9, 1), np.uint8)
    image[:, 3:6, 3:6] = 200
    thick, same, thin = stroke(image, np.array([1.0, 0.0, -1.0]))
    assert (thick > 0).sum() == 25
    np.testing.assert_array_equal(same, image[1])
    assert (thin > 0).sum() == 1


def test_fewer_users_than_there_are_is_refused():
    with pytest.raises(UserError, match="amplify=10 is below"):
        load("openclipart", image_size=32, amplify=10)
