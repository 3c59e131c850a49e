"""The forecast says what the noise really does, and what would help."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedemb.noise_forecast import THRESHOLD, noise_forecast

SMALL = {"trained_parameters": 10_000, "clip_norm": 1.0, "noise_multiplier": 0.6}


def test_the_noise_norm_is_that_of_drawn_noise():
    z, c, m, d = 0.7, 0.3, 50, 20_000
    forecast = noise_forecast(
        trained_parameters=d,
        clip_norm=c,
        noise_multiplier=z,
        expected_virtual_clients=m,
    )
    drawn = np.random.default_rng(0).normal(scale=z * c, size=d) / m
    assert forecast.noise_norm == pytest.approx(np.linalg.norm(drawn), rel=0.02)
    assert forecast.relative_noise == pytest.approx(forecast.noise_norm / c)


@pytest.mark.parametrize(("clients", "warns"), [(199, True), (201, False)])
def test_it_warns_above_the_threshold_and_names_every_knob(clients, warns):
    forecast = noise_forecast(**SMALL, expected_virtual_clients=clients)
    assert forecast.warns is warns
    knobs = (
        "--users-per-round",
        "--rounds",
        "--trainable",
        "--users-per-virtual-client",
        "population",
        "--epsilon",
    )
    assert all(knob in forecast.advice for knob in knobs) is warns
    assert "10,000 trained parameters" in forecast.sentence
    assert forecast.advice.startswith(forecast.sentence)


@given(
    st.integers(1, 10**8),
    st.floats(1e-3, 1e3),
    st.floats(1e-2, 1e2),
    st.floats(1, 1e6),
)
def test_the_cohort_factor_brings_the_ratio_to_the_threshold(d, c, z, m):
    forecast = noise_forecast(
        trained_parameters=d,
        clip_norm=c,
        noise_multiplier=z,
        expected_virtual_clients=m,
    )
    then = noise_forecast(
        trained_parameters=d,
        clip_norm=c,
        noise_multiplier=z,
        expected_virtual_clients=m * forecast.cohort_factor,
    )
    assert then.relative_noise <= THRESHOLD * (1 + 1e-9)
    if forecast.warns:
        assert then.relative_noise == pytest.approx(THRESHOLD)
    else:
        assert forecast.cohort_factor == 1


def test_a_recalibrated_cohort_counts_the_noise_it_needs():
    calls = []

    def calibrate(clients):
        calls.append(clients)
        return 0.6 * math.sqrt(clients / 50)

    forecast = noise_forecast(**SMALL, expected_virtual_clients=50, calibrate=calibrate)
    # z grows like sqrt(m), so the ratio falls like 1 / sqrt(m): (1.2 / 0.3)^2
    assert forecast.recalibrated
    assert 16 <= forecast.cohort_factor <= 16 * 1.02
    assert len(calls) < 40
    assert "at least" not in forecast.advice


def test_it_says_when_no_cohort_of_the_population_is_enough():
    options = {"expected_virtual_clients": 50, "most_virtual_clients": 190}
    fixed = noise_forecast(**SMALL, **options)
    assert fixed.cohort_factor is None
    assert "no cohort of this population" in fixed.advice
    growing = noise_forecast(**SMALL, **options, calibrate=lambda m: 0.6)
    assert growing.cohort_factor is None
    never = noise_forecast(**SMALL, expected_virtual_clients=50, calibrate=lambda m: m)
    assert never.cohort_factor is None


def test_without_noise_it_says_that_nothing_is_private():
    forecast = noise_forecast(
        trained_parameters=5,
        clip_norm=1.0,
        noise_multiplier=0.0,
        expected_virtual_clients=1,
    )
    assert not forecast.warns
    assert "nothing about this run is private" in forecast.advice
    assert "learn" not in forecast.advice


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trained_parameters", 0),
        ("clip_norm", 0.0),
        ("clip_norm", math.inf),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("expected_virtual_clients", 0.0),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name, value):
    numbers = {**SMALL, "expected_virtual_clients": 50, name: value}
    with pytest.raises(ValueError, match=f"{name}={value}"):
        noise_forecast(**numbers)
