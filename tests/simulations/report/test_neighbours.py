"""Neighbours and maps show what the embeddings say, and no result is picked."""

import dataclasses

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from simulations.report import Gallery
from simulations.report.neighbours import (
    nearest_neighbours,
    principal_plane,
    shown_classes,
)


def gallery(n=80, classes=12, seed=0):
    draw = np.random.default_rng(seed)
    return Gallery(
        labels=draw.integers(classes, size=n),
        before=draw.normal(size=(n, 5)),
        after=draw.normal(size=(n, 7)) * draw.uniform(1, 9, (n, 1)),
    )


def test_neighbours_are_the_most_similar_other_rows():
    held_out = gallery()
    for found in nearest_neighbours(held_out, 8, 5):
        for embeddings, rows in (
            (held_out.before, found.before),
            (held_out.after, found.after),
        ):
            similarity = cosine_similarity(embeddings)[found.query]
            similarity[found.query] = -2
            assert rows.tolist() == np.argsort(-similarity)[:5].tolist()


def test_queries_depend_on_labels_alone():
    held_out = gallery()
    other = dataclasses.replace(gallery(seed=1), labels=held_out.labels)
    queries = [found.query for found in nearest_neighbours(held_out, 8, 5)]
    assert queries == [found.query for found in nearest_neighbours(other, 8, 5)]
    assert len({int(held_out.labels[row]) for row in queries}) == 8


def test_classes_with_a_single_row_are_no_queries():
    labels = np.array([0, 1, 1, 2, 3, 3])
    held_out = Gallery(labels=labels, before=np.eye(6), after=np.eye(6))
    assert shown_classes(held_out, 8) == [1, 3]
    assert [len(f.after) for f in nearest_neighbours(held_out, 8, 50)] == [5, 5]


def test_equal_embeddings_come_in_the_order_of_the_data():
    held_out = Gallery(
        labels=np.zeros(9, int),
        before=np.zeros((9, 3)),
        after=np.tile(np.random.default_rng(0).normal(size=(1, 31)), (9, 1)),
    )
    (found,) = nearest_neighbours(held_out, 8, 4)
    assert found.before.tolist() == found.after.tolist() == [1, 2, 3, 4]


def test_the_map_is_that_of_principal_component_analysis():
    embeddings = gallery().after
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = PCA(2).fit_transform(unit)
    plane = principal_plane(embeddings)
    np.testing.assert_allclose(np.abs(plane), np.abs(expected), atol=1e-10)
    np.testing.assert_allclose(principal_plane(3 * embeddings), plane)


def test_one_dimensional_and_collapsed_embeddings_have_a_map():
    assert principal_plane(np.ones((4, 1))).shape == (4, 2)
    assert np.isfinite(principal_plane(np.zeros((4, 3)))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": np.zeros((3, 2))}, r"before \(3, 2\) must be \[4, D\]"),
        ({"after": np.full((4, 2), np.nan)}, "not finite"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "must be uint8"),
        ({"images": np.zeros((4, 8, 8, 3))}, "float64 must be uint8"),
        ({"images": np.zeros((4, 8, 8, 2), np.uint8)}, "must be uint8"),
    ],
)
def test_galleries_that_do_not_fit_together_are_refused(changes, message):
    values = {"labels": np.arange(4), "before": np.eye(4), "after": np.eye(4)}
    with pytest.raises(ValueError, match=message):
        Gallery(**(values | changes))


def test_classes_without_a_name_show_their_label():
    held_out = dataclasses.replace(gallery(), class_names=["first", ""])
    assert [held_out.name(label) for label in (0, 1, 5)] == [
        "first",
        "class 1",
        "class 5",
    ]
