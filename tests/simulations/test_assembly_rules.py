"""What a run takes for granted when it is not told: rules of public numbers alone."""

from dataclasses import replace

import pytest
import tomli_w

from fedemb.errors import UserError
from fedemb.stages import Stage
from simulations.announcing import skipped_stages
from simulations.assembly import (
    assemble,
    configuration_from_toml,
    device,
    layered,
    make_promise,
)
from simulations.layers import recipe_names
from simulations.outcome import stages_of
from simulations.promise import completed


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


def test_data_settings_of_a_recipe_are_for_data_sets_that_understand_them():
    assert layered("clips-plain", "g_vilm", None).data.frames == 4
    assert layered("clips-motion", "g_vilm", None).data.frames is None
    assert layered("openclipart", "g_vilm", None).data.frames is None
    asked = layered("openclipart", "g_vilm", None, {"data": {"frames": 4}})
    assert asked.data.frames == 4  # and is refused when the data set is opened


def test_options_of_a_recipe_are_for_systems_that_use_them():
    for z in (0.0, 1.0):
        noise = {"privacy": {"noise_multiplier": z}}
        for named in (None, "own-data"):
            found = layered("npz:mine.npz", "videoglue", named, noise)
            assert found.model.views is None
        assert layered("npz:mine.npz", "lenet", None, noise).model.views is not None


@pytest.mark.parametrize("option", [{"views": 2}, {"augment": "affine-colour"}])
def test_options_that_a_person_wrote_for_a_system_without_use_are_refused(
    tmp_path, option
):
    (name,) = option
    with pytest.raises(UserError, match=f"{name}=.* does not apply: videoglue"):
        layered(None, "videoglue", None, {"model": option})
    mine = tmp_path / "mine.toml"
    for place in ("model", "without_noise.model"):
        mine.write_text(tomli_w.dumps({"privacy": {"noise_multiplier": 0.0}}))
        mine.write_text(f"{mine.read_text()}\n[{place}]\n{tomli_w.dumps(option)}")
        with pytest.raises(UserError, match=f"{name}=.* does not apply: videoglue"):
            layered("npz:mine.npz", "videoglue", str(mine))


def test_runs_whose_recipe_set_what_is_not_used_can_be_opened():
    found = layered(None, "videoglue:tiny", None, {"data": {"users": 300}})
    before = replace(found, model=replace(found.model, views=2))
    assert [stage.task.views for stage in assemble(before).stages] == [1]


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


@pytest.mark.parametrize("name", ["meta", "foo", "xpu:7"])
def test_a_device_that_cannot_be_used_is_named(name):
    configuration = layered("synthetic", None, None, {"run": {"device": name}})
    with pytest.raises(UserError, match=f"run.device='{name}' is not a device .* cpu"):
        device(configuration)


def two_stages(scale, **server):
    """Two stages of two rounds; the second has a server rate of its own."""
    run = {"run": {"rounds": 4}, "server": server}
    small = {"data": {"users": 400}, "model": {"name": "small_cnn:tiny"}}
    assembly = assemble(layered("synthetic", None, None, small, run))
    (stage,) = assembly.stages
    first = replace(stage, share_of_rounds=0.5)
    second = replace(first, name="second", learning_rate_scale=scale)
    return replace(assembly, stages=(first, second))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stage_scales_the_servers_learning_rate(optimizer):
    whole = two_stages(0.1, optimizer=optimizer, learning_rate=0.5, schedule="linear")
    first, second = whole.optimizer(0), whole.optimizer(1)
    assert first.learning_rate == 0.5
    assert second == replace(first, learning_rate=0.05)
    assert second.fall_over == 2


def test_the_average_of_iterates_follows_the_scaled_rate():
    averaged = two_stages(0.1, learning_rate=0.5, average_decay=0.9).optimizer(1)
    assert averaged.decay == 0.9
    assert averaged.optimizer.learning_rate == 0.05


def test_the_report_tells_the_rate_of_every_stage():
    told = stages_of(two_stages(0.1, learning_rate=0.5))
    assert [one["learning_rate"] for one in told] == [0.5, 0.05]
    assert [one["rounds"] for one in told] == [2, 2]


def test_a_run_too_short_for_a_stage_says_so_and_how_long_is_enough():
    whole = two_stages(1.0)
    assert skipped_stages(whole) == ""
    first, second = whole.stages
    uneven = replace(
        whole,
        stages=(
            replace(first, share_of_rounds=0.9),
            replace(second, share_of_rounds=0.1),
        ),
    )
    assert uneven.rounds() == [4, 0]
    told = skipped_stages(uneven)
    assert "trained in second (10 % of the rounds)" in told
    enough = int(told.split("--rounds ")[1].split()[0])
    assert all(uneven.split_rounds(enough))
    assert not all(uneven.split_rounds(enough - 1))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_scale_must_be_positive_and_finite(scale):
    with pytest.raises(UserError, match="learning_rate_scale"):
        Stage("first", two_stages(1.0).stages[0].task, learning_rate_scale=scale)


def test_a_recipes_users_a_round_are_taken_where_there_are_as_many():
    """And what a person asks for is taken, or refused, as it is."""
    tiny = {"model": {"name": "mobilenet_v2:tiny"}, "data": {"users": 4_000}}

    def cohort(users, *more):
        some = {"data": {"users": users}}
        found = layered("observations", "mobilenet_v2", None, tiny, some, *more)
        return completed(found, users).privacy.users_per_round

    assert cohort(4_000) == 2_048
    assert cohort(60) == 15
    assert cohort(60, {"privacy": {"users_per_round": 20.0}}) == 20
    with pytest.raises(UserError, match="70"):
        make_promise(
            layered(
                "observations", None, None, tiny, {"privacy": {"users_per_round": 70.0}}
            ),
            60,
        )


def test_a_recipe_of_ones_own_is_taken_at_its_word(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[privacy]\nusers_per_round = 70\n")
    found = layered("observations", None, str(path))
    assert found.privacy.users_per_round == 70
    assert layered("observations", None, "g_vilm").privacy.users_per_round is None


def test_everybody_takes_part_whatever_a_recipe_prefers():
    everybody = {"privacy": {"sampler": "full-participation"}}
    found = layered("synthetic", "g_vilm", None, everybody)
    assert completed(found, 300).privacy.users_per_round == 300
