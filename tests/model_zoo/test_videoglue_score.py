"""The VideoGLUE score against the published tables."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.errors import UserError
from model_zoo.videoglue.score import (
    DATASETS,
    Adaptation,
    score,
    stratified_average,
    weights,
)

ORDER = (
    Adaptation.FROZEN,
    Adaptation.MLAP,
    Adaptation.ADAPTER,
    Adaptation.END_TO_END,
)


def named(values):
    return dict(zip(ORDER, values, strict=True))


FLOPS = (3.72, 14.9, 6.44, 367.0)
# Zhao et al. (2024), arXiv:2402.13217, tables 13 to 17: averages, costs, score.
FIRST = {
    "CLIP-B": ((32.8, 43.3, 49.3, 52.8), FLOPS, 41.5),
    "VATT-B": ((39.4, 46.3, 49.9, 52.7), (3.72, 14.9, 6.44, 371.0), 45.1),
    "CoCa-B": ((31.2, 36.3, 49.0, 55.2), FLOPS, 39.7),
    "FLAVA-B": ((31.7, 39.3, 44.1, 49.4), FLOPS, 38.5),
    "VideoMAE-B": ((32.6, 40.9, 45.9, 51.0), FLOPS, 39.9),
    "InternVideo-B": ((33.1, 42.2, 47.7, 52.5), FLOPS, 41.0),
    "UMT-B": ((38.0, 45.6, 52.4, 55.3), FLOPS, 45.3),
    "VideoPrism-B": ((45.6, 51.5, 57.8, 57.9), (3.72, 14.9, 8.71, 374.0), 51.3),
}
PARAMETERS = (1.3, 97.0, 37.0, 889.0)  # in units of 10^5
INFERENCE = (366.7, 377.9, 369.5, 366.7)  # GFLOPs
# Yuan et al. (2024), arXiv:2307.03166v3, tables 3 to 6 and figure 3.
THIRD = {
    "CLIP": ((32.8, 43.3, 49.3, 52.8), 39.8),
    "FLAVA": ((31.7, 39.3, 44.1, 49.4), 37.3),
    "CoCa": ((31.2, 36.3, 49.0, 55.2), 38.2),
    "DINOv2": ((35.0, 42.5, 47.0, 50.5), 40.17),
    "VATT": ((39.4, 46.3, 49.9, 52.7), 43.97),
    "VideoMAE": ((32.6, 40.9, 45.9, 51.0), 38.6),
    "InternVideo": ((33.1, 42.2, 47.7, 52.5), 39.5),
}
# Per data set, in the order of DATASETS; None where an encoder was not tuned for it.
ROWS = [
    ((82.6, 43.6, 66.8, 79.6, 55.0, None, 27.7, 31.0), 55.2),
    ((69.3, 26.3, 58.2, 55.6, 13.0, 33.3, 13.4, 15.7), 33.1),
    ((75.1, 35.6, 58.7, 60.1, 58.2, 35.0, 22.9, 24.1), 46.3),
    ((74.7, 34.1, 52.1, 68.4, 40.8, None, 17.9, 23.8), 44.1),
    ((75.2, 32.6, 41.0, 44.1, 11.2, 32.7, 21.1, 25.9), 32.8),
    ((72.3, 29.0, 40.0, 40.4, 25.8, 32.6, 24.6, 26.9), 35.0),
]
CHAINS = {
    "UMT-B": (
        [
            (77.1, 34.0, 47.7, 47.8, 30.1, 35.8, 20.7, 21.1),
            (77.5, 38.0, 51.2, 55.5, 55.8, 36.0, 24.6, 25.8),
            (81.5, 40.4, 61.8, 78.5, 50.0, None, 27.8, 29.4),
            (83.3, 38.7, 67.0, 79.2, 57.1, None, 28.8, 30.9),
        ],
        (38.02, 45.62, 52.43, 55.26),
        FLOPS,
        45.35,
    ),
    "VideoPrism-B": (
        [
            (82.8, 40.0, 61.8, 59.5, 38.7, 36.6, 29.9, 32.0),
            (83.7, 43.9, 64.6, 70.7, 56.6, 37.2, 31.5, 33.1),
            (84.5, 44.0, 66.3, 83.0, 57.8, None, 33.6, 35.7),
            (84.4, 43.9, 68.2, 82.3, 58.1, None, 33.3, 35.3),
        ],
        (45.66, 51.51, 57.84, 57.95),
        (3.72, 14.9, 8.71, 374.0),
        51.26,
    ),
}


def average(row):
    pairs = zip(DATASETS, row, strict=True)
    return stratified_average({k: v for k, v in pairs if v is not None})


@pytest.mark.parametrize("model", FIRST)
def test_the_first_version_reproduces_the_published_scores(model):
    averages, costs, published = FIRST[model]
    assert score(named(averages), named(costs)) == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize("model", THIRD)
def test_the_third_version_reproduces_the_published_scores(model):
    averages, published = THIRD[model]
    found = score(named(averages), named(PARAMETERS), named(INFERENCE))
    assert found == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize(("row", "printed"), ROWS)
def test_the_printed_averages_are_means_of_group_means(row, printed):
    assert average(row) == pytest.approx(printed, abs=0.06)


@pytest.mark.parametrize("model", CHAINS)
def test_the_whole_chain_from_data_sets_to_score(model):
    rows, averages, costs, wanted = CHAINS[model]
    found = [average(row) for row in rows]
    assert found == pytest.approx(averages, abs=0.01)
    assert score(named(found), named(costs)) == pytest.approx(wanted, abs=0.01)


def test_missing_temporal_localisation_drops_its_group():
    row = (80.0, 40.0, 60.0, 60.0, 50.0, None, 30.0, 30.0)
    assert average(row) == pytest.approx((60 + 60 + 50 + 30) / 4)


def test_what_has_no_truth_to_find_drops_its_group_too():
    with_truth = {"kinetics400": 80.0, "charades": 50.0}
    assert stratified_average(with_truth | {"ava": math.nan}) == 65.0
    with pytest.raises(UserError, match="has no truth to find"):
        stratified_average({"ava": math.nan})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1.01, 1e12), min_size=4, max_size=4))
def test_weights_sum_to_one_and_dearer_adaptations_weigh_less(costs):
    found = weights(named(costs))
    assert math.fsum(found.values()) == pytest.approx(1)
    ranked = sorted(ORDER, key=lambda name: named(costs)[name])
    values = [found[name] for name in ranked]
    assert values == sorted(values, reverse=True)


def test_the_same_gain_counts_less_on_a_dearer_adaptation():
    base = named((30.0, 40.0, 45.0, 50.0))
    gain = {
        name: score(base | {name: base[name] + 1}, named(FLOPS))
        for name in (Adaptation.FROZEN, Adaptation.END_TO_END)
    }
    assert gain[Adaptation.END_TO_END] < gain[Adaptation.FROZEN]


@pytest.mark.parametrize("cost", [1.0, 0.5, -3.0, math.inf, math.nan])
def test_a_cost_without_a_positive_logarithm_is_an_error(cost):
    with pytest.raises(UserError, match="more than 1"):
        weights(named((cost, 2.0, 3.0, 4.0)))


def test_nothing_to_average_or_unknown_data_is_an_error():
    with pytest.raises(UserError, match="no data set"):
        stratified_average({})
    with pytest.raises(UserError, match="ucf101"):
        stratified_average({"ucf101": 1.0})
