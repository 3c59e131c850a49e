"""A round: noise as accounted, the public divisor, adaptive clipping, repetition."""

import math

import numpy as np
import pytest
import torch
from core_toys import KEY, free, plan, rows, runner, start, theta
from scipy import stats

from accounting import BudgetExhausted
from fedemb.clipping import AdaptiveClipping, ClippedSum, Diagnostics, Lattice
from fedemb.randomness import RootKey
from fedemb.round import privatize, run_round
from fedemb.server import ServerSGD
from fedemb.train import train

STEP = ServerSGD(learning_rate=1.0, momentum=0.0)


class Zeros:
    """A runner whose clients all stand still; `votes` of them are within the clip."""

    def __init__(self, votes=0, clients=0):
        self.votes, self.clients = votes, clients

    def train(self, backbone, cohort, lattice, round_index):
        total = torch.zeros(len(backbone), dtype=torch.int64)
        return ClippedSum(total, self.votes, self.clients, Diagnostics())


class Ones:
    """Adds one lattice vector of norm about C / 2 for every client of the cohort."""

    def train(self, backbone, cohort, lattice, round_index):
        total = torch.zeros(len(backbone), dtype=torch.int64)
        total[0] = len(cohort) * 2**19
        return ClippedSum(total, len(cohort), len(cohort), Diagnostics())


def released(own, dimension=4000, t=0, key=KEY, runner=None):
    """The privatised mean of a round, read off the server's step."""
    state = start(torch.zeros(dimension), own.clip_norm, STEP)
    state = type(state)(t, state.backbone, state.moments, state.clip_norm)
    after, report = run_round(state, own, runner or Zeros(), STEP, key, free())
    return after.backbone.double().numpy(), report


def variance_p_value(noise, sigma):
    """Two-sided chi-square test of the variance of independent Gaussians."""
    low = stats.chi2.cdf(float((noise / sigma) @ (noise / sigma)), len(noise))
    return 2 * min(low, 1 - low)


@pytest.mark.statistical
@pytest.mark.parametrize(("z", "clip", "u"), [(1.0, 0.5, 1), (0.4, 3.0, 4)])
def test_the_noise_on_the_mean_has_std_zc_over_m(z, clip, u):
    own = plan(noise_multiplier=z, clip_norm=clip, u=u, cohort=20)
    noise, report = released(own)
    sigma = z * clip / (20 / u)
    assert variance_p_value(noise, sigma) > 1e-3
    assert stats.kstest(noise / sigma, "norm").pvalue > 1e-3
    for wrong in (0.9, 1.1):
        assert variance_p_value(noise, wrong * sigma) < 1e-6
        assert stats.kstest(noise / (wrong * sigma), "norm").pvalue < 0.05
    assert report.expected_noise_norm == pytest.approx(sigma * math.sqrt(len(noise)))
    assert report.update_norm == pytest.approx(np.linalg.norm(noise), rel=1e-5)


@pytest.mark.statistical
def test_two_rounds_and_two_keys_share_no_noise():
    own = plan()
    first, _ = released(own, t=0)
    for t, key in ((1, KEY), (0, RootKey.from_seed(12))):
        other, _ = released(own, t=t, key=key)
        assert not np.isclose(first, other).mean() > 0.01
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / math.sqrt(len(first))
    again, _ = released(own, t=0)
    assert np.array_equal(first, again)


def test_the_divisor_is_the_expected_number_and_never_the_realised_one():
    own = plan(noise_multiplier=0.0, clip_norm=1.0)
    drawn = [len(own.sampler.draw(KEY, t)) for t in range(4)]
    means = [released(own, 3, t, runner=Ones())[0][0] for t in range(4)]
    assert len(set(drawn)) > 1
    assert means == pytest.approx([0.5 * n / 20 for n in drawn])


def test_the_release_is_the_exact_sum_plus_noise_on_the_lattice():
    """privatize(sum) - privatize(0) is the sum itself, to the last integer."""
    lattice = Lattice(0.7, 100)
    total = torch.arange(-50, 50) * 12345
    with_sum = privatize(total, 1.3, lattice, KEY, 2) / lattice.spacing
    noise = privatize(torch.zeros(100, dtype=torch.int64), 1.3, lattice, KEY, 2)
    noise = noise / lattice.spacing
    assert torch.equal(with_sum.round() - noise.round(), total.double())
    assert torch.allclose(noise, noise.round(), rtol=0, atol=1e-6)


def test_without_noise_the_sum_is_released_as_it_is():
    lattice = Lattice(1.0, 2)
    total = torch.tensor([2**20, -1])
    assert privatize(total, 0.0, lattice, KEY, 0).tolist() == [1.0, -(2.0**-20)]


def test_the_round_pays_before_any_data_is_read():
    class Broke:
        def reserve(self, round_index):
            raise BudgetExhausted("nothing left")

    class Untouchable:
        def train(self, *_):
            pytest.fail("data was read without being paid for")

    with pytest.raises(BudgetExhausted):
        run_round(start(torch.zeros(3)), plan(), Untouchable(), STEP, KEY, Broke())


def test_the_round_commits_only_after_its_state_is_saved():
    events = []

    class Paying:
        def reserve(self, t):
            events.append(("reserved", t))
            return lambda: events.append(("committed", t))

    def save(state, commit):
        events.append(("saved", state.round_index))
        commit()

    run_round(start(torch.zeros(3)), plan(), Zeros(), STEP, KEY, Paying(), save)
    assert events == [("reserved", 0), ("saved", 1), ("committed", 0)]


def test_adaptive_clipping_follows_the_noisy_votes_of_the_round():
    adaptive = AdaptiveClipping(quantile=0.5, count_stddev=1.0)
    own = plan(adaptive_clipping=adaptive, noise_multiplier=1.0)
    state = start(torch.zeros(3), 0.5, STEP)
    found = []
    for votes in (20, -20):  # all of the expected 20 within the clip, or none
        after, _ = run_round(state, own, Zeros(votes, 20), STEP, KEY, free())
        found.append(math.log(after.clip_norm / 0.5))
    assert found == pytest.approx([-0.1, 0.1], abs=0.05)
    assert max(map(abs, found)) <= 0.2


@pytest.mark.statistical
def test_the_noise_on_the_votes_has_the_stated_deviation():
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=1.0, count_stddev=2.0)
    own = plan(adaptive_clipping=adaptive, noise_multiplier=1.0)
    noise = []
    for t in range(400):
        state = start(torch.zeros(1), 0.5, STEP)
        state = type(state)(t, state.backbone, state.moments, 0.5)
        after, _ = run_round(state, own, Zeros(), STEP, KEY, free())
        noise.append(-math.log(after.clip_norm / 0.5) * 20)
    noise = np.array(noise)
    assert variance_p_value(noise, 2.0) > 1e-3
    assert variance_p_value(noise, 1.5) < 1e-6


def test_adaptive_clipping_adds_more_noise_to_the_sum_to_pay_for_the_count():
    adaptive = AdaptiveClipping(count_stddev=1.0)
    own = plan(adaptive_clipping=adaptive, noise_multiplier=1.5)
    noise, _ = released(own)
    sigma = (1.5**-2 - 2.0**-2) ** -0.5 * own.clip_norm / 20
    assert variance_p_value(noise, sigma) > 1e-3
    assert variance_p_value(noise, 1.5 * own.clip_norm / 20) < 1e-6


def run_to(state, own, rounds_of, key=KEY, states=None):
    keep = states if states is not None else []
    return train(
        state,
        rounds_of,
        own,
        ServerSGD(learning_rate=0.5, momentum=0.9),
        key,
        free(),
        after_round=lambda s, _: keep.append(s),
    )


@pytest.mark.parametrize("adaptive", [None, AdaptiveClipping(count_stddev=2.0)])
@pytest.mark.parametrize("u", [1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(adaptive, u):
    own = runner(rows([3, 5, 2, 4] * 5, 1), head="linear", engine="vectorized")
    own_plan = plan(20, 8, u, rounds=4, adaptive_clipping=adaptive)
    first, states = start(theta(own)), []
    whole = run_to(first, own, own_plan, states=states)
    for middle in states[:-1]:
        fresh = runner(rows([3, 5, 2, 4] * 5, 1), head="linear", engine="vectorized")
        resumed = run_to(middle, fresh, own_plan)
        assert resumed.round_index == whole.round_index == 4
        assert torch.equal(resumed.backbone, whole.backbone)
        assert torch.equal(resumed.moments[0], whole.moments[0])
        assert resumed.clip_norm == whole.clip_norm
    other = run_to(first, own, own_plan, key=RootKey.from_seed(99))
    assert not torch.equal(other.backbone, whole.backbone)


def test_nothing_of_the_head_is_in_the_servers_state():
    own = runner(rows([3, 5, 2, 4] * 5, 1), head="linear")
    state = run_to(start(theta(own)), own, plan(20, 8, rounds=2))
    shapes = {tuple(state.backbone.shape), *(tuple(m.shape) for m in state.moments)}
    assert shapes == {(own.layout.size,)}
