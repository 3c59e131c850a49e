"""Every sampler and noise, from the command line to the statement; and resumed."""

import json
import sqlite3

import pytest

from tests.end_to_end.conftest import CommandLine
from tests.end_to_end.test_resume import _wait_for_reservations
from tests.end_to_end.test_simulate import _tensors

TINY = (
    *("simulate", "--dataset", "synthetic", "--users", "300", "--users-per-round"),
    *("20", "--model", "small_cnn:tiny", "--engine", "shared", "--epsilon", "4"),
    *("--set", "run.evaluate_every=0"),
)


@pytest.mark.parametrize(
    ("options", "sampler", "noise"),
    [
        (("--mechanism", "tree"), "cyclic", "tree"),
        (("--mechanism", "banded"), "poisson-virtual-clients", "banded"),
        pytest.param(
            ("--sampler", "truncated-poisson"),
            "truncated-poisson",
            "gaussian",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--mechanism", "banded", "--sampler", "cyclic"),
            "cyclic",
            "banded",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--sampler", "shuffled"), "shuffled", "gaussian", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--sampler", "balls-in-bins"),
            "balls-in-bins",
            "gaussian",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--sampler", "random-allocation", "--set", "privacy.rounds_per_period=30"),
            "random-allocation",
            "gaussian",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_is_what_its_statement_and_ledger_say(
    fedemb: CommandLine, options: tuple[str, ...], sampler: str, noise: str
) -> None:
    report = fedemb.json(*TINY, "--rounds", "6", *options, "--out", "run")
    privacy = report["privacy"]
    assert report["rounds_completed"] == 6
    assert (privacy["sampler"], privacy["noise"]) == (sampler, noise)
    assert 0 < privacy["epsilon_spent"] <= 4.0
    statement = json.loads((fedemb.folder / "run/privacy_statement.json").read_text())
    assert statement["mechanism"]["sampler"] == sampler
    assert statement["mechanism"].get("noise", "gaussian") == noise
    text = (fedemb.folder / "run/privacy_statement.txt").read_text()
    assert "noise of different rounds" in text
    assert ("sensitivity" in text) == (noise != "gaussian")
    spends = fedemb.json("ledger", "show", "run/ledger.sqlite")["entries"]
    assert all(spend["committed"] for spend in spends)


@pytest.mark.parametrize(
    "mechanism", [pytest.param("tree", marks=pytest.mark.slow), "banded"]
)
def test_a_killed_run_repeats_its_correlated_noise(
    fedemb: CommandLine, mechanism: str
) -> None:
    own = (*TINY, "--rounds", "9", "--seed", "4", "--mechanism", mechanism)
    one_engine = ("--set", "run.runner=inline")
    assert fedemb(*own, *one_engine, "--out", "whole")[0] == 0
    process = fedemb.start(*own, *one_engine, "--out", "killed")
    _wait_for_reservations(fedemb.folder / "killed/ledger.sqlite", 1, process)
    process.kill()
    process.communicate()
    code, _, err = fedemb("resume", "killed")
    assert code == 0, err
    whole, killed = (
        _tensors(fedemb.folder / name / "backbone.safetensors")
        for name in ("whole", "killed")
    )
    # Another chunk may have been measured to be faster: then equal up to rounding.
    for name, value in whole.items():
        assert abs(value - killed[name]).max() < 1e-3, name
    ledger = sqlite3.connect(fedemb.folder / "killed/ledger.sqlite")
    reserved = ledger.execute("SELECT sum(count) FROM tally").fetchone()[0]
    ledger.close()
    assert reserved == {"tree": 1, "banded": 2}[mechanism]


def test_pairs_without_a_proof_are_refused_before_training(fedemb: CommandLine) -> None:
    for options, reason in (
        (("--mechanism", "tree", "--adaptive-clipping"), "adaptive clipping"),
        (("--mechanism", "tree", "--sampler", "fixed-size"), "how often a user"),
        (("--set", "privacy.bands=3"), "banded noise only"),
    ):
        code, _, err = fedemb(*TINY, "--rounds", "6", *options, "--out", "run")
        assert code == 2, options
        assert reason in err
        assert not (fedemb.folder / "run/ledger.sqlite").exists()
