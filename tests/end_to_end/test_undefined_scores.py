"""Scores that mean nothing are not reported as numbers, and the run says why."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import Said
from tests.simulations.datasets.published_files import coloured

KEYS = ("recall_at_far_1e-3", "recall_at_far_1e-1", "recall_at_1", "roc_auc")


def arrays(path: Path, held_out: list[str]) -> str:
    labels = ["a", "b", "a", "b"] * 4 + held_out
    np.savez(
        path,
        images=np.stack([coloured(i % 2, i) for i in range(len(labels))]),
        labels=np.array(labels),
        users=np.array([f"u{i // 4}" for i in range(len(labels))]),
        split=np.array(["train"] * 16 + ["test"] * len(held_out)),
    )
    return f"npz:{path}"


@pytest.mark.parametrize(
    "held_out",
    [["c", "d", "e", "f"], ["c", "c", "c"]],
    ids=["one example of each class", "one class"],
)
def test_undefined_scores_are_null_with_a_notice(
    here: Callable[..., Said], tmp_path: Path, held_out: list[str]
) -> None:
    name, out = arrays(tmp_path / "a.npz", held_out), tmp_path / "run"
    code, said, err = here(
        *("simulate", "--dataset", name, "--rounds", 2, "--users-per-round", 4),
        *("--noise-multiplier", 0, "--engine", "serial", "--out", out, "--json"),
    )
    assert code == 0, err
    report = json.loads(said)
    for when in ("initial", "final"):
        assert [report["metrics"][when][key] for key in KEYS] == [None] * 4
    assert "NOTICE not defined on these held-out examples" in err
    assert "recall_at_1 not defined" in err
    assert "not defined" in report["dataset"]["notices"][-1]
    page = (out / "report.html").read_text()
    assert "not defined on these held-out examples" in page
    with (out / "metrics.csv").open(newline="") as file:
        assert all(math.isnan(float(row["roc_auc"])) for row in csv.DictReader(file))
    code, said, _ = here("evaluate", out, "--json")
    assert code == 0
    assert json.loads(said)["metrics"]["recall_at_1"] is None
    assert "not defined" in here("evaluate", out)[1]
    code, said, _ = here("report", out)
    assert code == 0
    assert "recall_at_1          not defined  not defined" in said


def test_defined_scores_bring_no_notice(
    here: Callable[..., Said], tmp_path: Path
) -> None:
    name = arrays(tmp_path / "a.npz", ["c", "c", "d"])
    code, said, err = here(
        *("simulate", "--dataset", name, "--rounds", 1, "--users-per-round", 4),
        *("--noise-multiplier", 0, "--engine", "serial", "--out", tmp_path / "run"),
        "--json",
    )
    assert code == 0
    assert "not defined" not in err
    assert all(isinstance(json.loads(said)["metrics"]["final"][k], float) for k in KEYS)
