"""CV-MIM through the command line: a run, its report, and the use of its encoder."""

import json
from pathlib import Path

import numpy as np
import pytest

from simulations.datasets.poses import Motions
from tests.end_to_end.conftest import CommandLine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    command = CommandLine(tmp_path_factory.mktemp("poses"))
    command.json(
        *(
            "simulate",
            "--model",
            "cv_mim",
            "--users",
            "2000",
            "--users-per-round",
            "32",
        ),
        *("--rounds", "2", "--engine", "shared", "--seed", "1", "--out", "run"),
    )
    return command


def test_a_run_reports_the_system_s_own_metrics_beside_recall(
    command: CommandLine,
) -> None:
    report = json.loads((command.folder / "run" / "report.json").read_text())
    assert report["privacy"]["epsilon_spent"] <= 2.0
    for when in ("initial", "final"):
        assert {
            *("single_shot_accuracy", "cross_view_recall_at_1", "azimuth_from_pose"),
            *("recall_at_1", "recall_at_far_1e-3", "roc_auc"),
        } <= set(report["metrics"][when])


def test_the_report_shows_poses_as_pictures(command: CommandLine) -> None:
    page = (command.folder / "run" / "report.html").read_text()
    assert page.count("data:image/") > 20


def test_motions_in_npz_files_are_embedded_and_searched(command: CommandLine) -> None:
    rows = Motions(10).fetch(np.array([3])).fields
    np.savez(command.folder / "seen.npz", keypoints=rows["keypoints"][:2])
    found = command.json("search", "run", "seen.npz")
    assert found
    code, _, err = command("embed", "run", "seen.npz", "--out", "codes.npz")
    assert code == 0, err


def test_the_encoder_is_exported(command: CommandLine) -> None:
    code, _, err = command(
        *("export", "run", "--format", "safetensors", "--out", "encoder.safetensors")
    )
    assert code == 0, err
    assert Path(command.folder / "encoder.safetensors").stat().st_size > 80_000
