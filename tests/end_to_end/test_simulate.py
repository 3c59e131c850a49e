"""One run from calibration to report, and what it leaves behind."""

import csv
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from fedemb.data import Examples
from tests.end_to_end.conftest import SMALL, CommandLine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    command = CommandLine(folder)
    report = command.json(
        *("simulate", *SMALL, "--epsilon", "2", "--rounds", "4", "--out", "run"),
        *("--seed", "1", "--set", "run.evaluate_every=2", "--compare-non-private"),
    )
    assert report == json.loads((folder / "run" / "report.json").read_text())
    return folder / "run"


def test_a_run_folder_holds_all_that_the_contract_names(run: Path) -> None:
    names = {
        *("config.toml", "privacy_statement.json", "privacy_statement.txt"),
        *("report.json", "report.html", "metrics.csv", "ledger.sqlite"),
        *("backbone.safetensors", "checkpoints", "environment.json"),
    }
    assert names <= {path.name for path in run.iterdir()}


def test_the_report_has_the_keys_that_others_rely_on(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["dataset"]["source"] == "synthetic"
    assert report["dataset"]["num_users"] == 3000
    assert report["rounds_completed"] == 4
    for when in ("initial", "final", "non_private"):
        assert {
            *("recall_at_far_1e-3", "recall_at_far_1e-1", "recall_at_1", "roc_auc")
        } <= set(report["metrics"][when])
    privacy = report["privacy"]
    assert privacy["target_epsilon"] == 2.0
    assert 1.98 <= privacy["epsilon_spent"] <= 2.0
    assert privacy["sampling_probability"] == pytest.approx(60 / 3000)
    assert {"seconds", "seconds_per_round", "examples_per_second"} <= set(
        report["performance"]
    )
    assert {"peak_memory_bytes", "engine", "runner", "workers"} <= set(
        report["performance"]
    )


def test_metrics_have_a_row_per_evaluation(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as file:
        rounds = [float(row["round"]) for row in csv.DictReader(file)]
    assert rounds == [0, 2, 4]


def test_the_ledger_shows_every_round_once_and_committed(run: Path) -> None:
    command = CommandLine(run.parent)
    ledger = command.json("ledger", "show", run / "ledger.sqlite")
    assert [e["round"] for e in ledger["entries"]] == [0, 1, 2, 3]
    assert all(e["committed"] for e in ledger["entries"])
    assert command("ledger", "verify", run / "ledger.sqlite")[0] == 0


def test_the_backbone_carries_its_statement(run: Path) -> None:
    with safe_open(run / "backbone.safetensors", framework="pt") as file:
        statement = json.loads(file.metadata()["privacy_statement"])
        names = list(file.keys())
    assert statement["epsilon"] <= 2.0
    assert statement["seeded"] is True
    assert not any("head" in name for name in names)


def test_a_complete_run_forgets_its_secret_key(run: Path) -> None:
    assert not (run / "checkpoints" / "key").exists()
    code, _, err = CommandLine(run.parent)("resume", run)
    assert code == 2
    assert "complete" in err


def test_the_trained_backbone_can_be_evaluated_and_exported(run: Path) -> None:
    command = CommandLine(run.parent)
    again = command.json("evaluate", run)["metrics"]
    report = json.loads((run / "report.json").read_text())
    assert again == pytest.approx(report["metrics"]["final"], abs=1e-6)
    assert command("export", run, "--out", "b.safetensors")[0] == 0
    assert command("export", run, "--out", "b.safetensors")[0] == 2


def test_the_same_seed_gives_the_same_backbone_on_every_runner(run: Path) -> None:
    command = CommandLine(run.parent)
    code, _, err = command(
        *("simulate", *SMALL, "--epsilon", "2", "--rounds", "4", "--out", "other"),
        *("--seed", "1", "--runner", "processes", "--workers", "2"),
        *("--set", "run.evaluate_every=0"),
    )
    assert code == 0, err
    names = ("run", "other")
    first, second = (_tensors(run.parent / n / "backbone.safetensors") for n in names)
    for name, value in first.items():
        assert abs(value - second[name]).max() < 1e-4, name


def test_a_ledger_budget_stops_the_next_run_before_it_trains(run: Path) -> None:
    command = CommandLine(run.parent)
    shared = ("--ledger", "shared.sqlite", "--set", "run.budget=2.0")
    small = ("simulate", *SMALL, "--epsilon", "2", "--rounds", "2", *shared)
    assert command(*small, "--out", "first")[0] == 0
    code, _, err = command(*small, "--out", "second")
    assert code == 3
    assert err.strip().splitlines()[-1].startswith("error: ")
    rows = sqlite3.connect(run.parent / "shared.sqlite").execute(
        "SELECT count(*) FROM tally"
    )
    assert rows.fetchone() == (1,)


def _tensors(path: Path) -> dict:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_an_exported_model_embeds_as_the_run_does(run: Path, tmp_path: Path) -> None:
    command = CommandLine(run.parent)
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    reference = pytest.importorskip("onnx.reference")
    from simulations.trained import TrainedRun

    out = tmp_path / "model.onnx"
    assert command("export", run, "--format", "onnx", "--out", out)[0] == 0
    model = onnx.load(out)
    assert "privacy_statement" in {p.key for p in model.metadata_props}
    trained = TrainedRun.open(run)
    held_out = trained.assembly.dataset.held_out()
    some = Examples(held_out.take(np.arange(3)), np.array([0, 3]))
    batch = trained.assembly.stages[-1].task.prepare(some, np.zeros(1, np.uint64))
    inputs = {"image": batch["image"].numpy()}
    found = reference.ReferenceEvaluator(model).run(None, inputs)[0]
    np.testing.assert_allclose(found, trained.embed(some).numpy(), atol=1e-4)
