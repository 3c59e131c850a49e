"""The measures of VideoGLUE on examples that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.videoglue.metrics import (
    ACTIVITYNET_OVERLAPS,
    Found,
    detection_precision,
    mean_class_precision,
    overlaps_of,
    temporal_precision,
    top_one,
)


def found(rows):
    """(where, place, class, score) rows."""
    where, places, classes, scores = zip(*rows, strict=True)
    return Found(
        np.array(where), np.array(places, float), np.array(classes), np.array(scores)
    )


TRUTH = found([(0, (0, 0, 10, 10), 1, 1.0), (1, (0, 0, 10, 10), 1, 1.0)])


def test_two_boxes_have_the_analytic_value():
    detections = found(
        [
            (0, (0, 0, 10, 10), 1, 0.9),
            (0, (20, 20, 30, 30), 1, 0.8),
            (1, (0, 0, 10, 10), 1, 0.7),
        ]
    )
    # precision 1 up to recall 1/2, then 2/3
    assert detection_precision(detections, TRUTH, 0.5) == pytest.approx(0.5 + 1 / 3)


def test_an_overlap_of_49_percent_misses_and_of_51_hits():
    for width, wanted in ((4.9, 0.0), (5.1, 1.0)):
        detections = found([(0, (0, 0, 10, width), 1, 0.9)])
        truth = found([(0, (0, 0, 10, 10), 1, 1.0)])
        assert detection_precision(detections, truth, 0.5) == wanted


def test_a_class_that_is_not_scored_changes_nothing():
    detections = found([(0, (0, 0, 10, 10), 1, 0.9), (0, (0, 0, 1, 1), 2, 0.9)])
    truth = found([(0, (0, 0, 10, 10), 1, 1.0), (0, (5, 5, 6, 6), 2, 1.0)])
    assert detection_precision(detections, truth, 0.5) == 0.5
    assert detection_precision(detections, truth, 0.5, classes=[1, 3]) == 1.0


def test_detections_equal_to_the_truth_are_perfect_and_duplicates_are_false():
    truth = found([(0, (1, 4), 0, 1.0), (0, (6, 9), 0, 1.0), (1, (0, 3), 1, 1.0)])
    assert temporal_precision(truth, truth) == 1.0
    twice = found([(0, (1, 4), 0, 0.9), (0, (1, 4), 0, 0.8), (0, (6, 9), 0, 0.7)])
    one_class = found([(0, (1, 4), 0, 1.0), (0, (6, 9), 0, 1.0)])
    assert detection_precision(twice, one_class, 0.5) == pytest.approx(0.5 + 1 / 3)


def test_a_detection_may_match_a_truth_that_another_left():
    truth = found([(0, (0, 10), 0, 1.0), (0, (2, 12), 0, 1.0)])
    both_like_the_first = found([(0, (0, 10), 0, 0.9), (0, (0.5, 10.5), 0, 0.8)])
    assert detection_precision(both_like_the_first, truth, 0.5) == 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_stricter_overlap_never_scores_higher(seed):
    draw = np.random.default_rng(seed)
    starts = draw.uniform(0, 10, 8)
    places = np.stack([starts, starts + draw.uniform(1, 4, 8)], 1)
    where, classes = draw.integers(0, 2, 8), draw.integers(0, 2, 8)
    truth = Found(where, places, classes, np.ones(8))
    noisy = Found(where, places + draw.normal(0, 0.3, (8, 2)), classes, draw.random(8))
    values = [detection_precision(noisy, truth, t) for t in ACTIVITYNET_OVERLAPS]
    assert all(a >= b - 1e-12 for a, b in zip(values, values[1:], strict=False))


def test_a_score_that_is_no_number_is_never_right():
    detections = found([(0, (0, 0, 10, 10), 1, np.nan), (1, (0, 0, 10, 10), 1, 0.2)])
    assert detection_precision(detections, TRUTH, 0.5) == 0.5
    alone = found([(0, (0, 0, 10, 10), 1, np.nan)])
    assert detection_precision(alone, TRUTH, 0.5) == 0.0
    broken = np.full((2, 3), np.nan)
    assert top_one(broken, np.array([0, 0])) == 0.0
    truth = np.array([[1], [0], [0]], bool)
    last = np.array([[np.nan], [-3.0], [-2.0]])
    assert mean_class_precision(last, truth) == pytest.approx(1 / 3)
    assert mean_class_precision(np.full((3, 1), np.nan), truth) == pytest.approx(1 / 3)


def test_no_detections_find_nothing():
    none = Found(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert detection_precision(none, TRUTH, 0.5) == 0.0


def test_where_nothing_is_to_be_found_precision_is_not_defined():
    guesses = found([(0, (0, 0, 10, 10), 1, 0.9)])
    nothing = Found(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert np.isnan(detection_precision(guesses, nothing, 0.5))
    assert np.isnan(detection_precision(guesses, TRUTH, 0.5, classes=[7]))
    assert np.isnan(temporal_precision(guesses, nothing))
    assert np.isnan(mean_class_precision(np.ones((2, 3)), np.zeros((2, 3), bool)))
    assert np.isnan(top_one(np.zeros((0, 3)), np.zeros(0, int)))


def test_classes_without_a_positive_are_ignored():
    truth = np.array([[1, 0, 0], [0, 0, 1]], bool)
    scores = np.array([[0.9, 0.9, 0.1], [0.1, 0.9, 0.8]])
    assert mean_class_precision(scores, truth) == 1.0
    assert top_one(scores, np.array([0, 2])) == 0.5


def test_nothing_overlaps_an_empty_box():
    empty = np.array([1.0, 1.0])
    assert overlaps_of(empty, np.array([[1.0, 1.0], [0.0, 2.0]])).tolist() == [0, 0]
