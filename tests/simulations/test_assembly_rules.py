"""What a run takes for granted when it is not told: rules of public numbers alone."""

import pytest

from fedemb.errors import UserError
from simulations.assembly import (
    assemble,
    configuration_from_toml,
    layered,
    make_promise,
)
from simulations.config import recipe_names


def rules(users, **privacy):
    configuration = layered("npz:mine.npz", None, None, {"privacy": privacy})
    return make_promise(configuration, users).plan


def test_with_noise_every_user_is_a_virtual_client_of_its_own():
    plan = rules(9000, epsilon=8.0)
    assert plan.sampler.users_per_virtual_client == 1
    assert plan.sampler.users_per_round == 2048


@pytest.mark.parametrize(
    ("users", "together"), [(9000, 32), (600, 32), (100, 8), (20, 1), (3, 1)]
)
def test_without_noise_users_meet_in_virtual_clients(users, together):
    plan = rules(users, noise_multiplier=0.0)
    assert plan.sampler.users_per_virtual_client == together
    assert plan.expected_clients >= min(3, users // 4)


def test_what_is_asked_for_wins_over_the_rule():
    plan = rules(600, noise_multiplier=0.0, users_per_virtual_client=5)
    assert plan.sampler.users_per_virtual_client == 5


def test_the_rule_gives_a_step_the_rows_of_all_its_users_and_is_applied_once():
    small = {"data": {"users": 400}, "model": {"name": "small_cnn:tiny"}}
    meeting = {"privacy": {"users_per_virtual_client": None, "users_meeting": 25}}
    asked = layered("synthetic", None, None, small, meeting)
    found = assemble(asked).configuration
    assert found.privacy.users_per_virtual_client == 25
    assert found.privacy.users_per_round == 75
    assert found.local.batch_size == asked.local.batch_size * 25
    again = assemble(configuration_from_toml(found.to_toml())).configuration
    assert again == found


def test_a_recipe_may_hold_what_differs_without_noise():
    noisy = layered("npz:mine.npz", None, None)
    silent = layered("npz:mine.npz", None, None, {"privacy": {"noise_multiplier": 0.0}})
    assert noisy.run.rounds < silent.run.rounds
    asked = {"privacy": {"noise_multiplier": 0.0}, "run": {"rounds": 7}}
    assert layered("npz:mine.npz", None, None, asked).run.rounds == 7
    known = layered("synthetic", None, None, {"privacy": {"noise_multiplier": 0.0}})
    assert known.privacy.users_per_virtual_client == 1


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_with_and_without_noise(name):
    for z in (0.0, 1.0):
        found = layered(None, None, name, {"privacy": {"noise_multiplier": z}})
        assert found.privacy.noise_multiplier == z


def test_no_user_per_virtual_client_is_refused():
    with pytest.raises(UserError, match="users_per_virtual_client=0"):
        rules(600, users_per_virtual_client=0)
