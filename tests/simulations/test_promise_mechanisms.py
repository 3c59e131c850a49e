"""From configuration to plan and claim: defaults, extrapolation, refusals."""

import tomllib

import pytest

from accounting import Adjacency, Noise, Sampler, epsilon
from accounting.correlated import sensitivity
from fedemb.errors import UserError
from simulations.layers import resolve
from simulations.promise import completed, make_promise, whole_periods

USERS = 3000


def configuration(rounds=60, **privacy):
    values = {"users_per_round": 60.0, "noise_multiplier": 2.0} | privacy
    return resolve({"privacy": values, "run": {"rounds": rounds}})


CHOICES = [
    {},
    {"mechanism": "tree"},
    {"mechanism": "tree", "restart_every": 25},
    {"mechanism": "banded"},
    {"mechanism": "banded", "sampler": "cyclic", "bands": 5},
    {"sampler": "truncated-poisson"},
    {"sampler": "truncated-poisson", "truncated_users_per_round": 70},
    {"sampler": "shuffled"},
    {"sampler": "balls-in-bins"},
    {"sampler": "random-allocation", "rounds_per_period": 100},
]


@pytest.mark.parametrize("privacy", CHOICES, ids=str)
def test_an_extrapolated_claim_is_the_same_mechanism_at_scale(privacy):
    """Cohort and noise grow by the same factor; everything relative stays."""
    small = make_promise(configuration(**privacy), USERS)
    large = make_promise(configuration(**privacy, population=20 * USERS), USERS)
    assert not small.extrapolated
    assert large.extrapolated
    ran, claimed = large.plan.mechanism, large.claimed
    assert ran == small.plan.mechanism == small.claimed
    assert claimed.population == 20 * USERS
    assert claimed.users_per_round == pytest.approx(20 * ran.users_per_round)
    assert claimed.noise_multiplier == pytest.approx(20 * ran.noise_multiplier)
    assert claimed.period == ran.period
    assert sensitivity(claimed) == pytest.approx(sensitivity(ran))
    costs = [epsilon(m, rounds=60, delta=1e-6).epsilon for m in (claimed, ran)]
    assert costs[0] < costs[1]


@pytest.mark.parametrize("privacy", CHOICES, ids=str)
def test_the_completed_configuration_promises_the_same(privacy):
    own = configuration(**privacy)
    again = completed(own, USERS)
    assert again.privacy.sampler is not None
    assert completed(again, USERS) == again
    assert make_promise(again, USERS) == make_promise(own, USERS)
    written = resolve(tomllib.loads(again.to_toml()))
    assert make_promise(written, USERS).claimed == make_promise(own, USERS).claimed


def test_the_usual_sampler_follows_the_noise():
    assert completed(configuration(), USERS).privacy.sampler is (
        Sampler.POISSON_VIRTUAL_CLIENTS
    )
    tree = completed(configuration(mechanism="tree"), USERS).privacy
    assert tree.sampler is Sampler.CYCLIC
    banded = completed(configuration(mechanism="banded"), USERS).privacy
    assert (banded.sampler, banded.bands) == (Sampler.POISSON_VIRTUAL_CLIENTS, 8)
    few = completed(configuration(mechanism="banded", users_per_round=900.0), USERS)
    assert few.privacy.bands == 3  # as many groups as have enough clients
    everybody = resolve(
        {"privacy": {"sampler": "full-participation", "noise_multiplier": 1.0}}
    )
    assert completed(everybody, USERS).privacy.users_per_round == USERS


def test_stages_hold_whole_periods():
    plan = make_promise(configuration(mechanism="tree"), USERS).plan
    assert plan.mechanism.noise is Noise.TREE
    whole_periods(plan, [60])
    with pytest.raises(UserError, match="stage 1 has 30 rounds"):
        whole_periods(plan, [30, 30])
    restarted = configuration(mechanism="tree", restart_every=15)
    whole_periods(make_promise(restarted, USERS).plan, [30, 30])


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"restart_every": 5}, "restart_every=5"),
        ({"bands": 5}, "bands=5"),
        ({"mechanism": "tree", "bands": 5}, "bands=5"),
        ({"rounds_per_period": 5}, "rounds_per_period=5"),
        ({"truncated_users_per_round": 5}, "truncated_users_per_round=5"),
        ({"mechanism": "fractal"}, "must be gaussian, tree or banded"),
        ({"mechanism": "tree", "restart_every": 0}, "at least 1"),
        ({"mechanism": "tree", "sampler": "balls-in-bins"}, "how often a user"),
        ({"mechanism": "banded", "bands": 51}, "at most 1"),
        ({"mechanism": "banded", "sampler": "cyclic", "bands": 51}, "separation of 50"),
        ({"mechanism": "tree", "adaptive_clipping": True}, "adaptive clipping"),
    ],
)
def test_settings_that_do_nothing_or_prove_nothing_are_refused(privacy, message):
    with pytest.raises(UserError, match=message):
        make_promise(configuration(rounds=120, **privacy), USERS)


def test_truncation_is_proved_for_empty_seats():
    own = make_promise(configuration(sampler="truncated-poisson"), USERS).claimed
    assert own.adjacencies == {Adjacency.ADD_OR_REMOVE_ONE, Adjacency.ZERO_OUT}


def test_one_user_alone_is_refused_in_words():
    with pytest.raises(UserError, match="population=1: nobody is hidden"):
        make_promise(configuration(users_per_round=1.0), 1)
