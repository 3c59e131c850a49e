"""`fedemb epsilon` and `fedemb calibrate`, as the contract has them."""

import pytest

from tests.end_to_end.conftest import CommandLine

KEYS = {
    *("epsilon", "epsilon_rdp", "epsilon_pld", "delta", "accountant", "sampler"),
    *("sampling_probability", "rounds", "noise_multiplier", "sampling_unit"),
    *("users_per_virtual_client", "dominating_pair", "adjacency"),
}
REFERENCE = (
    *("--population", "6800", "--users-per-round", "256", "--rounds", "200"),
    *("--users-per-virtual-client", "8"),
)


def test_epsilon_of_the_reference_run(fedemb: CommandLine) -> None:
    found = fedemb.json("epsilon", *REFERENCE, "--noise-multiplier", "0.62")
    assert set(found) >= KEYS
    assert found["epsilon"] == pytest.approx(11.7, abs=0.05)
    assert found["delta"] == pytest.approx(6800**-1.1)
    assert found["sampling_unit"] == "virtual_client"
    assert found["dominating_pair"] == "replace_one"


def test_sampling_users_costs_more_than_sampling_virtual_clients(
    fedemb: CommandLine,
) -> None:
    found = fedemb.json(
        *("epsilon", *REFERENCE, "--noise-multiplier", "0.62"),
        *("--sampler", "poisson-users"),
    )
    assert found["epsilon"] == pytest.approx(64.2, abs=0.2)
    assert found["sampling_unit"] == "user"


def test_calibration_never_exceeds_its_target(fedemb: CommandLine) -> None:
    found = fedemb.json("calibrate", *REFERENCE, "--epsilon", "2")
    assert 1.98 <= found["epsilon"] <= found["target_epsilon"] == 2.0


def test_no_noise_is_no_privacy(fedemb: CommandLine) -> None:
    found = fedemb.json("epsilon", *REFERENCE, "--noise-multiplier", "0")
    assert found["epsilon"] is None
