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


PLAIN = (
    *("--population", "6800", "--users-per-round", "256", "--rounds", "200"),
    *("--epsilon", "2"),
)


@pytest.mark.parametrize(
    ("options", "noise"),
    [
        (("--mechanism", "tree"), "tree"),
        (("--mechanism", "tree", "--restart-every", "26"), "tree"),
        (("--mechanism", "banded"), "banded"),
        (("--mechanism", "banded", "--sampler", "cyclic", "--bands", "4"), "banded"),
        (("--sampler", "truncated-poisson"), "gaussian"),
        (("--sampler", "balls-in-bins"), "gaussian"),
        (("--sampler", "random-allocation", "--rounds-per-period", "100"), "gaussian"),
        (("--sampler", "shuffled"), "gaussian"),
    ],
)
def test_every_sampler_and_noise_can_be_calibrated(
    fedemb: CommandLine, options: tuple[str, ...], noise: str
) -> None:
    found = fedemb.json("calibrate", *PLAIN, *options)
    assert 1.98 <= found["epsilon"] <= 2.0
    assert found["noise"] == noise


@pytest.mark.parametrize("what", ["rounds", "users-per-round", "population"])
def test_calibration_of_everything_else(fedemb: CommandLine, what: str) -> None:
    found = fedemb.json("calibrate", *PLAIN, "--for", what, "--noise-multiplier", "1.5")
    assert 1.9 <= found["epsilon"] <= 2.0
    code, _, err = fedemb("calibrate", *PLAIN, "--for", what)
    assert code == 2
    assert "--noise-multiplier None must be given" in err


def test_every_other_answer(fedemb: CommandLine) -> None:
    own = (*REFERENCE, "--noise-multiplier", "2.48", "--details", "--best-of", "5")
    found = fedemb.json("epsilon", *own)
    assert 0.95 * found["epsilon"] < found["epsilon_lower_bound"] <= found["epsilon"]
    assert found["zcdp_rho"] is None
    assert found["epsilon"] < found["epsilon_best_of"] < 5 * found["epsilon"]
    curve = [row["epsilon"] for row in found["epsilon_at_delta"]]
    assert curve == sorted(curve)
    rates = [row["false_negative_rate"] for row in found["trade_off"]]
    assert rates == sorted(rates, reverse=True)
    tree = fedemb.json("epsilon", *own[:-2], "--mechanism", "tree")
    assert tree["zcdp_rho"] == pytest.approx(tree["gaussian_mu"] ** 2 / 2)


def test_refused_pairs_say_why(fedemb: CommandLine) -> None:
    for options, reason in (
        (
            ("--mechanism", "tree", "--sampler", "fixed-size"),
            "how often a user",
        ),
        (("--mechanism", "banded", "--bands", "99"), "bands=99"),
        (("--sampler", "balls-in-bins", *REFERENCE[-2:]), "users_per_virtual_client=1"),
        (("--mechanism", "fractal"), "must be gaussian, tree or banded"),
        (("--sampler", "dice"), "must be one of"),
    ):
        code, _, err = fedemb("calibrate", *PLAIN, *options)
        assert code == 2, options
        assert reason in err
        assert "Traceback" not in err
