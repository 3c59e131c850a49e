"""What a run takes for granted when it is not told: rules of public numbers alone."""

import pytest

from fedemb.errors import UserError
from simulations.assembly import (
    assemble,
    configuration_from_toml,
    layered,
    make_promise,
)


def rules(users, **privacy):
    configuration = layered("npz:mine.npz", None, None, {"privacy": privacy})
    return make_promise(configuration, users).plan


def test_with_noise_every_user_is_a_virtual_client_of_its_own():
    plan = rules(9000, epsilon=8.0)
    assert plan.sampler.users_per_virtual_client == 1
    assert plan.sampler.users_per_round == 2048


@pytest.mark.parametrize(
    ("users", "together"), [(9000, 32), (600, 32), (100, 6), (20, 1), (3, 1)]
)
def test_without_noise_users_meet_in_virtual_clients(users, together):
    plan = rules(users, noise_multiplier=0.0)
    assert plan.sampler.users_per_virtual_client == together
    assert plan.expected_clients >= min(4, users // 4) or together == 1


def test_what_is_asked_for_wins_over_the_rule():
    plan = rules(600, noise_multiplier=0.0, users_per_virtual_client=5)
    assert plan.sampler.users_per_virtual_client == 5


def test_the_rule_gives_a_step_the_rows_of_all_its_users_and_is_applied_once():
    small = {"data": {"users": 400}, "model": {"name": "small_cnn:tiny"}}
    without = {"privacy": {"noise_multiplier": 0.0, "users_per_virtual_client": None}}
    asked = layered("synthetic", None, None, small, without)
    found = assemble(asked).configuration
    u = found.privacy.users_per_virtual_client
    assert u == 25
    assert found.local.batch_size == asked.local.batch_size * u
    again = assemble(configuration_from_toml(found.to_toml())).configuration
    assert again == found


def test_no_user_per_virtual_client_is_refused():
    with pytest.raises(UserError, match="users_per_virtual_client=0"):
        rules(600, users_per_virtual_client=0)
