"""Every virtual client contributes a lattice vector of norm at most C, exactly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedemb.clipping import (
    AdaptiveClipping,
    ClippedSum,
    Lattice,
    check_headroom,
    clip_to_lattice,
    row_norms,
)

UNIT = 2**20  # lattice units in C

any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)
any_rows = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
    elements=any_float,
)
clip_norms = st.sampled_from([1e-300, 1e-36, 2.0**-32, 1e-3, 1.0, 7.3, 1e30])


def contributions(rows, clip_norm):
    """The integer vector of every row, each clipped on its own."""
    lattice = Lattice(clip_norm, rows.shape[1])
    return [clip_to_lattice(row[None].clone(), lattice).total.tolist() for row in rows]


def squared_norm(vector):
    return sum(int(v) ** 2 for v in vector)  # exact: Python's integers


@given(any_rows, clip_norms)
def test_no_contribution_exceeds_the_clip_norm_in_exact_arithmetic(rows, clip_norm):
    for vector in contributions(torch.from_numpy(rows), clip_norm):
        assert squared_norm(vector) <= UNIT**2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dimension", [1, 3, 1000, 50_000])
def test_long_rows_on_and_around_the_boundary_stay_within(dtype, dimension):
    generator = torch.Generator().manual_seed(dimension)
    for factor in (0.999, 0.999999, 1.0, 1.000001, 1.5, 1e6):
        row = torch.randn(1, dimension, generator=generator, dtype=torch.float64)
        row *= factor / row.norm()
        vector = clip_to_lattice(row.to(dtype), Lattice(1.0, dimension)).total
        assert squared_norm(vector.tolist()) <= UNIT**2
        if factor > 1:
            assert squared_norm(vector.tolist()) > 0.98 * UNIT**2


@given(any_rows, clip_norms)
def test_the_sum_depends_on_neither_order_nor_grouping(rows, clip_norm):
    rows = torch.from_numpy(rows)
    lattice = Lattice(clip_norm, rows.shape[1])
    whole = clip_to_lattice(rows.clone(), lattice)
    backwards = clip_to_lattice(rows.flip(0).clone(), lattice)
    pieces = ClippedSum.zero(rows.shape[1])
    for row in rows:
        pieces = pieces + clip_to_lattice(row[None].clone(), lattice)
    assert whole.total.tolist() == backwards.total.tolist() == pieces.total.tolist()
    assert whole.unclipped == backwards.unclipped == pieces.unclipped
    assert whole.clients == pieces.clients == len(rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_that_is_not_finite_contributes_zero_and_leaves_others_alone(bad, dtype):
    rows = torch.tensor([[0.3, 0.4], [bad, 0.1], [0.0, 2.0]], dtype=dtype)
    result = clip_to_lattice(rows.clone(), Lattice(1.0, 2))
    alone = clip_to_lattice(rows[[0, 2]].clone(), Lattice(1.0, 2))
    assert result.total.tolist() == alone.total.tolist()
    assert result.diagnostics.non_finite == 1
    assert result.unclipped == alone.unclipped - 1
    assert contributions(rows, 1.0)[1] == [0, 0]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 1023, 1024, 5000]),
    st.integers(-32, 60),
    st.floats(0, 12),
)
def test_norms_are_as_close_as_the_margin_assumes(seed, width, exponent, spread):
    """From the least clip norm of float32 rows up, however unequal the coordinates."""
    draw = np.random.default_rng(seed)
    sizes = np.exp(draw.uniform(-spread, 0, (3, width)))
    rows = (draw.choice([-1, 1], (3, width)) * sizes).astype(np.float32)
    rows *= np.float32(2.0**exponent)
    exact = np.sqrt((rows.astype(np.float64) ** 2).sum(1))
    rows *= np.where(exact < 2.0**-32, 2.0**-32 / exact, 1)[:, None].astype(np.float32)
    exact = np.sqrt((rows.astype(np.float64) ** 2).sum(1))
    found = row_norms(torch.from_numpy(rows)).numpy()
    assert (np.abs(found / exact - 1) < 2.0**-14.9).all()


def test_a_norm_that_overflows_contributes_zero():
    rows = torch.full((1, 4), 1e200, dtype=torch.float64)
    result = clip_to_lattice(rows, Lattice(1.0, 4))
    assert result.total.tolist() == [0, 0, 0, 0]
    assert result.unclipped == -1


def test_the_largest_floats_are_scaled_to_the_clip_norm():
    rows = torch.full((1, 4), torch.finfo(torch.float32).max)
    vector = clip_to_lattice(rows, Lattice(1.0, 4)).total.tolist()
    assert 0.999 * UNIT**2 < squared_norm(vector) <= UNIT**2


def test_a_minute_clip_norm_keeps_zeros_at_zero():
    rows = torch.tensor([[0.0, 0.0], [1e-40, 0.0]])
    assert clip_to_lattice(rows, Lattice(1e-36, 2)).total.tolist()[1] == 0
    with pytest.raises(ValueError, match="clip_norm=1e-310"):
        Lattice(1e-310, 2)


def test_rows_within_the_clip_are_only_rounded():
    rows = torch.tensor([[0.25, -0.5], [0.0, 0.0]], dtype=torch.float64)
    lattice = Lattice(1.0, 2)
    result = clip_to_lattice(rows.clone(), lattice)
    assert lattice.decode(result.total).tolist() == [0.25, -0.5]
    assert (result.unclipped, result.diagnostics.clipped) == (2, 0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.inf, math.nan])
def test_nonsense_clip_norms_are_refused(clip_norm):
    with pytest.raises(ValueError, match="clip_norm"):
        Lattice(clip_norm, 3)


def test_a_dimension_that_rounding_would_swallow_is_refused():
    Lattice(1.0, 10**10)
    with pytest.raises(ValueError, match="too many for a lattice"):
        Lattice(1.0, 10**12)


def test_sums_that_could_overflow_are_refused():
    check_headroom(10**9, 100.0)
    with pytest.raises(ValueError, match="could overflow"):
        check_headroom(2**42, 1.0)


@given(st.integers(-(2**40), 2**40), st.floats(-1e9, 1e9))
def test_rounding_commutes_with_adding_a_lattice_sum(total, noise):
    """round(sum + N) = sum + round(N), so lattice noise is post-processing."""
    exact = round(float(np.rint(noise)))
    tie = abs(abs(noise) % 1 - 0.5) < 1e-3
    if not tie:
        assert int(np.rint(np.longdouble(total) + np.longdouble(noise))) == (
            total + exact
        )


@given(
    st.floats(1e-3, 1e3),
    st.floats(-1e4, 1e4),
    st.floats(0.0, 1.0),
    st.floats(0.01, 1.0),
)
def test_the_clip_norm_moves_by_at_most_its_learning_rate(clip, votes, quantile, rate):
    adaptive = AdaptiveClipping(quantile=quantile, learning_rate=rate)
    following = adaptive.next_clip_norm(clip, votes, 50.0)
    assert abs(math.log(following / clip)) <= rate * (1 + 1e-9)


def test_adaptive_clipping_converges_geometrically_to_the_quantile():
    norms = np.geomspace(0.01, 100, 101)  # the median is 1
    adaptive, clip = AdaptiveClipping(quantile=0.5, learning_rate=0.2), 50.0
    distances = []
    for _ in range(150):
        within = int((norms <= clip).sum())
        votes = (2 * within - len(norms)) / 2
        clip = adaptive.next_clip_norm(clip, votes, len(norms))
        distances.append(abs(math.log(clip)))
    slope = 0.2 / math.log(1e4)  # of the share within the clip, per unit of log C
    for step, distance in enumerate(distances, start=1):
        assert distance == pytest.approx(
            math.log(50) * (1 - slope) ** step, rel=0.05, abs=0.05
        )


@given(st.floats(0.05, 9.9), st.floats(5.0, 50.0))
def test_the_value_noise_leaves_the_accounted_noise_as_it_is(z, stddev):
    """A client's joint vector (delta / z_value C, vote / s_b) has norm <= 1 / z."""
    adaptive = AdaptiveClipping(count_stddev=stddev)
    z_value = adaptive.value_noise_multiplier(z, 100)
    assert z_value == pytest.approx((z**-2 - (2 * stddev) ** -2) ** -0.5)
    assert z_value >= z
    assert math.hypot(1 / z_value, 0.5 / stddev) == pytest.approx(1 / z)


@pytest.mark.parametrize("z", [10.0, 10.5, 1000.0])
def test_noise_of_twice_the_count_noise_or_more_is_refused(z):
    adaptive = AdaptiveClipping()  # s_b = 100 / 20
    with pytest.raises(ValueError, match="must be below twice the count's"):
        adaptive.value_noise_multiplier(z, 100)
    assert adaptive.value_noise_multiplier(0.0, 100) == 0
