"""The baselines behind the same command: what they promise, and that they run."""

import json

import pytest

from tests.end_to_end.conftest import CommandLine

TINY = (
    *("simulate", "--dataset", "synthetic", "--users", "300", "--rounds", "2"),
    *("--users-per-round", "40", "--model", "small_cnn:tiny", "--engine", "shared"),
    *("--set", "run.evaluate_every=0"),
)


def test_dp_fedavg_aggregates_the_head_and_releases_the_backbone_alone(
    fedemb: CommandLine,
) -> None:
    plain = fedemb.json(*TINY, "--epsilon", "50", "--out", "plain")
    report = fedemb.json(
        *(*TINY, "--epsilon", "50", "--baseline", "dp-fedavg", "--out", "run")
    )
    assert report["baseline"] == "dp-fedavg"
    assert report["privacy"]["unit"] == "user"
    assert report["privacy"]["epsilon"] == plain["privacy"]["epsilon"]
    statements = [
        json.loads((fedemb.folder / name / "privacy_statement.json").read_text())
        for name in ("plain", "run")
    ]
    trained = [s["trained_parameters"] for s in statements]
    classes, dim = report["dataset"]["num_classes"], 32
    assert trained[1] - trained[0] == classes * dim


def test_dp_sgd_says_that_it_protects_an_example(fedemb: CommandLine) -> None:
    report = fedemb.json(
        *(*TINY, "--epsilon", "8", "--baseline", "dp-sgd", "--out", "run")
    )
    assert report["baseline"] == "dp-sgd"
    assert report["privacy"]["unit"] == "example"
    assert report["privacy"]["epsilon_spent"] <= 8
    text = (fedemb.folder / "run" / "privacy_statement.txt").read_text()
    assert "example" in text
    code, _, err = fedemb("resume", "run")
    assert code == 2, err


@pytest.mark.parametrize("setting", ["model.head=class-means"])
def test_dp_fedavg_needs_a_head_to_aggregate(fedemb: CommandLine, setting: str) -> None:
    code, _, err = fedemb(*TINY, "--baseline", "dp-fedavg", "--set", setting)
    assert code == 2
    assert "model.head=linear" in err.strip().splitlines()[-1]


def test_dp_fedavg_is_refused_where_nothing_tells_classes_apart(
    fedemb: CommandLine,
) -> None:
    asked = ("--model", "g_vilm", "--baseline", "dp-fedavg", "--users", "300")
    code, _, err = fedemb("simulate", *asked)
    assert code == 2
    assert "--baseline dp-fedavg aggregates a linear head" in err
