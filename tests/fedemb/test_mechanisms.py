"""Noise mechanisms: what is drawn has the covariance that is accounted, and repeats."""

import math

import numpy as np
import pytest
import torch
from core_toys import rows, runner, start, theta
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accounting import (
    Noise,
    PrivacyLedger,
    SampledGaussian,
    Sampler,
    UnsupportedMechanism,
    epsilon,
)
from accounting.banded import BandedStrategy
from accounting.correlated import sensitivity
from fedemb.budget import LedgerBudget, Unaccounted, settle
from fedemb.clipping import AdaptiveClipping, Lattice
from fedemb.errors import UserError
from fedemb.mechanisms import BandedNoise, GaussianNoise, TreeNoise, banded_noise
from fedemb.periods import Cyclic, GroupedPoisson, Shuffled
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.round import privatize
from fedemb.samplers import make_sampler
from fedemb.server import ServerSGD
from fedemb.train import train

KEY = RootKey.from_seed(21)
SCALE = 2.0**20
BANDS = BandedStrategy(bands=(0.8, 0.5, 0.3), rounds=12)
MECHANISMS = [
    GaussianNoise(),
    TreeNoise(restart_every=12),
    TreeNoise(restart_every=5),
    BandedNoise(strategy=BANDS),
    BandedNoise(strategy=BandedStrategy(bands=(1.0, 0.7), rounds=5)),
]


def draws(mechanism, rounds, count=20_000, key=KEY):
    noise = [mechanism.draw(key, t, count, SCALE) for t in range(rounds)]
    return np.array(noise) / SCALE


def matrix(mechanism, rounds):
    """Rounds by fresh draws: the noise of a round as a combination of draws."""
    if isinstance(mechanism, TreeNoise):
        nodes, lines = {}, []
        for t in range(rounds):
            tree, place = divmod(t, mechanism.restart_every)
            line = dict.fromkeys(prefix(tree, place + 1), 1.0)
            for node in prefix(tree, place):
                line[node] = line.get(node, 0.0) - 1.0
            for node in line:
                nodes.setdefault(node, len(nodes))
            lines.append(line)
        found = np.zeros((rounds, len(nodes)))
        for t, line in enumerate(lines):
            for node, weight in line.items():
                found[t, nodes[node]] = weight
        return found
    if isinstance(mechanism, BandedNoise):
        length = mechanism.strategy.rounds
        column = mechanism.strategy.column
        s = sum(column[i] * np.eye(length, k=-i) for i in range(length))
        blocks = -(-rounds // length)
        return np.kron(np.eye(blocks), np.linalg.inv(s))[:rounds]
    return np.eye(rounds)


def prefix(tree, rounds):
    """The complete nodes that tile the first `rounds` leaves, largest first."""
    start, nodes = 0, []
    for level in reversed(range(rounds.bit_length())):
        if rounds >> level & 1:
            nodes.append((tree, level, start >> level))
            start += 2**level
    return nodes


@pytest.mark.statistical
@pytest.mark.parametrize("mechanism", MECHANISMS, ids=repr)
def test_the_noise_of_the_rounds_has_the_covariance_of_the_mechanism(mechanism):
    rounds, count = 12, 20_000
    noise = draws(mechanism, rounds, count)
    wanted = matrix(mechanism, rounds) @ matrix(mechanism, rounds).T
    found = noise @ noise.T / count
    spread = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / count)
    assert np.abs((found - wanted) / spread).max() < 5
    for wrong in (0.9, 1.1):  # negative controls
        assert np.abs((found - wanted * wrong**2) / spread).max() > 5
    for t in range(rounds):
        assert mechanism.gain(t) == pytest.approx(math.sqrt(wanted[t, t]))
        own = noise[t] / mechanism.gain(t)
        assert stats.kstest(own, "norm").pvalue > 1e-4
        assert np.abs(matrix(mechanism, rounds)[t]).sum() <= mechanism.headroom + 1e-9


@pytest.mark.statistical
def test_independent_noise_fails_as_a_tree():
    """The negative control: a tree that forgets to take nodes away is caught."""
    rounds, count = 8, 20_000
    noise = draws(GaussianNoise(), rounds, count)
    wanted = matrix(TreeNoise(restart_every=8), rounds)
    wanted = wanted @ wanted.T
    assert np.abs(noise @ noise.T / count - wanted).max() > 0.5


@given(st.sampled_from(MECHANISMS), st.permutations(range(14)))
@settings(max_examples=20)
def test_a_rounds_noise_depends_on_key_and_round_alone(mechanism, order):
    wanted = {t: mechanism.draw(KEY, t, 7, SCALE).tolist() for t in range(14)}
    for t in order:  # whatever was drawn before, with another key in between
        mechanism.draw(RootKey.from_seed(1), t, 7, SCALE)
        assert mechanism.draw(KEY, t, 7, SCALE).tolist() == wanted[t]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=repr)
def test_correlated_noise_leaves_the_exact_sum_intact(mechanism):
    """release(sum) - release(0) is the sum to the last integer: post-processing."""
    lattice, total = Lattice(0.7, 50), torch.arange(-25, 25) * 12345
    for t in range(6):
        nothing = torch.zeros(50, dtype=torch.int64)
        one, two = (
            privatize(x, 1.3, lattice, KEY, t, mechanism) / lattice.spacing
            for x in (total, nothing)
        )
        assert torch.equal(one.round() - two.round(), total.double())


def cyclic_plan(noise, rounds=8, population=40, cohort=10, **more):
    sampler = Cyclic(population=population, users_per_round=cohort)
    values = {"clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-5}
    return PrivacyPlan(sampler=sampler, rounds=rounds, noise=noise, **values | more)


@pytest.mark.parametrize("restart", [8, 4, 3])
def test_a_resumed_run_repeats_correlated_noise_bit_for_bit(restart):
    sampled = Cyclic(population=40, users_per_round=10).mechanism(1.0)
    for make in (
        lambda: TreeNoise(restart_every=restart),
        lambda: banded_noise(sampled, rounds=restart, bands=3),
    ):
        states = []
        own = runner(rows([3, 5, 2, 4] * 10, 1), head="linear", engine="vectorized")
        first = start(theta(own))

        def go(state, keep, noise, own=own):
            return train(
                state,
                cyclic_plan(noise),
                own,
                ServerSGD(learning_rate=0.5),
                KEY,
                Unaccounted(),
                after_round=lambda s, _: keep.append(s),
            )

        whole = go(first, states, make())
        for middle in states[1:-1:2]:
            assert torch.equal(go(middle, [], make()).backbone, whole.backbone)


def test_a_period_is_paid_once_and_committed_by_its_last_round(tmp_path):
    own = cyclic_plan(TreeNoise(restart_every=4))
    spent = epsilon(own.mechanism, rounds=8, delta=1e-5).epsilon
    ledger = PrivacyLedger.create(
        tmp_path / "ledger",
        population_id="toy",
        population=40,
        budget_epsilon=spent,
        delta=1e-5,
    )

    def budget():
        return LedgerBudget(ledger, own.mechanism, "a", "", "print", planned=8)

    first = budget()
    commits = [first.reserve(t) for t in range(3)]
    assert len(ledger.entries()) == 1
    for commit in commits:
        commit()
    assert not ledger.entries()[0].committed
    again = budget()  # killed and resumed in the middle of the period
    settle(again, 3)
    again.reserve(3)()
    assert [e.committed for e in ledger.entries()] == [True]
    for t in range(4, 8):
        commit = again.reserve(t)
    settle(budget(), 8)  # durable, but the commit was cut off
    assert [e.committed for e in ledger.entries()] == [True, True]
    commit()
    assert ledger.spent().epsilon <= spent


def test_another_fingerprint_pays_the_period_again(tmp_path):
    own = cyclic_plan(TreeNoise(restart_every=8))
    ledger = PrivacyLedger.create(
        tmp_path / "ledger",
        population_id="toy",
        population=40,
        budget_epsilon=None,
        delta=1e-5,
    )
    LedgerBudget(ledger, own.mechanism, "a", "", "one", planned=8).reserve(0)
    LedgerBudget(ledger, own.mechanism, "a", "", "two", planned=8).reserve(3)
    assert len(ledger.entries()) == 2


def test_adaptive_clipping_refuses_correlated_noise():
    with pytest.raises(UserError, match="adaptive clipping cannot be combined"):
        cyclic_plan(
            TreeNoise(restart_every=8),
            adaptive_clipping=AdaptiveClipping(count_stddev=2.0),
        )


@pytest.mark.parametrize(
    ("name", "noise", "message"),
    [
        ("poisson-virtual-clients", TreeNoise(restart_every=8), "how often a user"),
        ("poisson-users", TreeNoise(restart_every=8), "how often a user"),
        ("fixed-size", BandedNoise(strategy=BANDS), "how often a user"),
        ("balls-in-bins", TreeNoise(restart_every=8), "how often a user"),
        ("poisson-virtual-clients", BandedNoise(strategy=BANDS), "left out"),
        ("full-participation", BandedNoise(strategy=BANDS), "separation=1"),
        ("shuffled", TreeNoise(restart_every=6), "multiple of the 4 rounds"),
    ],
)
def test_pairs_without_a_proof_are_refused_with_the_reason(name, noise, message):
    size = 40 if name == "full-participation" else 10
    sampler = make_sampler(Sampler(name), population=40, users_per_round=size)
    with pytest.raises(UserError, match=message):
        noise.accounted(sampler.mechanism(1.0))


def test_bands_and_groups_must_agree():
    grouped = GroupedPoisson(population=40, users_per_round=4, groups=2)
    with pytest.raises(UserError, match="bands=3"):
        BandedNoise(strategy=BANDS).accounted(grouped.mechanism(1.0))
    with pytest.raises(UserError, match="at most 1"):
        GroupedPoisson(population=40, users_per_round=30, groups=2).mechanism(1.0)


def participations(sampler, rounds):
    """Rounds by users: 1 where the user was drawn."""
    found = np.zeros((rounds, sampler.population))
    for t in range(rounds):
        found[t, sampler.draw(KEY, t).users] = 1.0
    return found


@pytest.mark.parametrize("u", [1, 3])
@pytest.mark.parametrize(
    ("kind", "noise"),
    [
        (Cyclic, TreeNoise(restart_every=13)),
        (Cyclic, BandedNoise(strategy=BandedStrategy(bands=(0.8, 0.6), rounds=13))),
        (Shuffled, TreeNoise(restart_every=12)),
    ],
)
def test_no_user_moves_the_strategy_by_more_than_its_sensitivity(kind, noise, u):
    """S x for one user's real rounds, with u = 1, against the accounted sensitivity."""
    sampler = kind(population=41, users_per_round=12, users_per_virtual_client=u)
    record = noise.accounted(sampler.mechanism(1.0))
    rounds = record.period
    moves = np.linalg.pinv(matrix(noise, rounds))
    shifts = np.linalg.norm(moves @ participations(sampler, rounds), axis=0)
    assert shifts.max() <= sensitivity(record) + 1e-9


def test_grouped_clients_return_only_after_all_groups():
    sampler = GroupedPoisson(
        population=60, users_per_round=6, users_per_virtual_client=2, groups=4
    )
    drawn = participations(sampler, 800)
    by_group = np.array([drawn[group::4].sum(axis=0) for group in range(4)])
    assert ((by_group > 0).sum(axis=0) == 1).all()
    assert by_group.sum() / 800 == pytest.approx(6, abs=0.4)
    record = sampler.mechanism(1.0)
    assert record.accounted_sampling_probability == pytest.approx(0.4)
    assert record.period == 4


def test_amplified_bands_cost_their_blocks_of_poisson_rounds():
    grouped = GroupedPoisson(population=10_000, users_per_round=100, groups=4)
    noise = banded_noise(grouped.mechanism(1.0), rounds=100, bands=4)
    record = noise.accounted(grouped.mechanism(2.0))
    poisson = SampledGaussian(
        sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        population=10_000,
        users_per_round=400,
        noise_multiplier=2.0,
    )
    assert record.noise is Noise.BANDED
    assert len(record.bands) == 4
    for delta in (1e-5, 1e-8):
        found = epsilon(record, rounds=100, delta=delta)
        wanted = epsilon(poisson, rounds=25, delta=delta)
        assert found.epsilon == pytest.approx(wanted.epsilon, rel=1e-6)
        assert found.epsilon_rdp == pytest.approx(wanted.epsilon_rdp, rel=1e-6)


def test_bands_beyond_the_separation_are_refused():
    sampled = Cyclic(population=40, users_per_round=10).mechanism(1.0)
    with pytest.raises(UserError, match="bands=5 must be at most the separation of 4"):
        banded_noise(sampled, rounds=20, bands=5)
    chosen = banded_noise(sampled, rounds=20, bands=None)
    assert len(chosen.strategy.bands) == 4
    with pytest.raises(UnsupportedMechanism):
        SampledGaussian(
            sampler=Sampler.CYCLIC,
            population=40,
            users_per_round=10,
            noise_multiplier=1.0,
            noise=Noise.BANDED,
            bands=(1.0,) * 5,
            rounds_per_period=20,
        )


def test_the_headroom_counts_every_draw_of_a_round():
    with pytest.raises(ValueError, match="overflow"):
        cyclic_plan(TreeNoise(restart_every=2**20), noise_multiplier=2.0**38)
    cyclic_plan(GaussianNoise(), noise_multiplier=2.0**38)


def test_running_sums_carry_less_noise_than_independent_rounds():
    """At equal privacy, over 64 rounds in which nobody returns."""
    rounds, free = 64, Cyclic(population=640, users_per_round=10)
    sampled = free.mechanism(1.0)
    totals = []
    for noise in (
        GaussianNoise(),
        TreeNoise(restart_every=rounds),
        banded_noise(sampled, rounds=rounds, bands=32),
    ):
        record = noise.accounted(sampled)
        sums = np.cumsum(matrix(noise, rounds), axis=0)
        rms = math.sqrt((sums**2).sum() / rounds)
        totals.append(rms / record.accounted_noise_multiplier)
    assert totals[2] < totals[1]
    assert totals[2] < 0.6 * totals[0]
