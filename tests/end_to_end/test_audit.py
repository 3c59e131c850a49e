"""`fedemb audit`, as a person would run it."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SMALL, CommandLine

QUICK = ("--runs", "300", "--canaries", "64", "--seed", "1")
KEYS = {
    *("verdict", "claimed_epsilon", "epsilon_lower_bound", "confidence", "delta"),
    *("lower_bounds", "estimates", "premises", "rounds", "rounds_of_plan", "runs"),
    *("canaries", "seeded", "sampler", "users_per_virtual_client", "engine"),
}


def test_the_pipeline_passes_its_own_plan(fedemb: CommandLine) -> None:
    found = fedemb.json("audit", *QUICK)
    assert set(found) >= KEYS
    assert found["verdict"] == "pass"
    assert 0 < found["epsilon_lower_bound"] <= found["claimed_epsilon"]
    methods = {bound["method"] for bound in found["lower_bounds"]}
    assert methods == {"clopper-pearson", "trade-off", "noise-scale", "one-run"}
    missing = sum(1 - bound["confidence"] for bound in found["lower_bounds"])
    assert missing == pytest.approx(1 - found["confidence"])


def test_a_run_is_audited_against_its_statement(fedemb: CommandLine) -> None:
    made = fedemb(
        *("simulate", *SMALL, "--rounds", "2", "--epsilon", "8", "--out", "run"),
        *("--users-per-virtual-client", "2", "--adaptive-clipping"),
    )
    assert made[0] == 0, made[2]
    found = fedemb.json("audit", "run", *QUICK)
    stated = json.loads((fedemb.folder / "run" / "privacy_statement.json").read_text())
    for key in ("rounds", "delta", "sampling_probability", "noise_multiplier"):
        assert found[key] == stated[key]
    assert found["claimed_epsilon"] == stated["epsilon"]

    stated["epsilon"] = 1.0  # less than the run cost
    (fedemb.folder / "run" / "privacy_statement.json").write_text(json.dumps(stated))
    code, out, err = fedemb("audit", "run", *QUICK)
    assert code == 1, err
    assert "verdict      FAIL" in out


def test_a_recipe_is_audited_over_its_first_rounds(fedemb: CommandLine) -> None:
    found = fedemb.json(
        *("audit", "--dataset", "synthetic", "--set", "data.users=5000"),
        *("--set", "run.rounds=50", "--audit-rounds", "3", *QUICK),
    )
    assert (found["rounds"], found["rounds_of_plan"]) == (3, 50)
    assert found["population"] == 5000


@pytest.mark.slow
def test_canaries_can_be_trained_by_an_engine(fedemb: CommandLine) -> None:
    found = fedemb.json(
        *("audit", "--engine", "shared", "--sampler", "full-participation"),
        *("--population", "32", "--rounds", "1", "--runs", "100", "--seed", "1"),
    )
    assert found["engine"] == "shared"
    assert found["premises"][0]["observed"] == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--runs", "5"), "runs=5"),
        (("--noise-multiplier", "0"), "nothing to audit"),
        (("nowhere", "--rounds", "3"), "--rounds"),
        (("nowhere",), "not a run folder"),
    ],
)
def test_mistakes_are_one_line(
    fedemb: CommandLine, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = fedemb("audit", *arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_broken_statement_is_one_line(fedemb: CommandLine) -> None:
    folder: Path = fedemb.folder / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / "privacy_statement.json").write_text('{"mechanism": {}}')
    code, _, err = fedemb("audit", "run")
    assert code == 2
    assert "no configuration and privacy statement" in err
    assert "Traceback" not in err
