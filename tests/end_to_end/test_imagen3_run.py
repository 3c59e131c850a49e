"""Imagen 3's stand-in through the command line: a run, and the use of its denoiser."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulations.trained import TrainedRun
from tests.end_to_end.conftest import CommandLine, Said

pytestmark = pytest.mark.slow
Command = Callable[..., Said]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = CommandLine(tmp_path_factory.mktemp("pictures"))
    command.json(
        *("simulate", "--model", "imagen3", "--users", 300, "--users-per-round", 4),
        *("--rounds", 1, "--engine", "serial", "--seed", 1, "--out", "run"),
    )
    return command.folder / "run"


def test_the_report_has_the_systems_own_metrics_beside_recall(run: Path) -> None:
    final = json.loads((run / "report.json").read_text())["metrics"]["final"]
    assert {"explained", "fd_eye", "alignment", "recall_at_1", "roc_auc"} <= set(final)


def test_pictures_and_rows_are_embedded_and_searched(run: Path, here: Command) -> None:
    held_out = TrainedRun.open(run).assembly.dataset.held_out().fields
    rows, picture = run.parent / "rows.npz", run.parent / "first.png"
    np.savez(rows, image=held_out["image"][:2], caption=held_out["caption"][:2])
    Image.fromarray(held_out["image"][0]).save(picture)
    out = run.parent / "codes.npz"
    code, _, err = here("embed", run, rows, picture, "--out", out)
    assert code == 0, err
    with np.load(out) as content:
        first, second, again = content["embeddings"]
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert abs(first - second).max() > 1e-3
    code, said, err = here("search", run, picture, "--top", 2, "--json")
    assert code == 0, err
    assert json.loads(said)["neighbours"][0]["row"] == 0


def test_the_exported_model_takes_pictures(run: Path, here: Command) -> None:
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    reference = pytest.importorskip("onnx.reference")
    out = run.parent / "model.onnx"
    code, _, err = here("export", run, "--format", "onnx", "--out", out)
    assert code == 0, err
    model = onnx.load(out)
    assert [given.name for given in model.graph.input] == ["image"]
    trained = TrainedRun.open(run)
    held_out = trained.assembly.dataset.held_out()
    some = held_out.only(np.arange(3))
    image = some.fields["image"].astype(np.float32).transpose(0, 3, 1, 2) / 128 - 1
    (found,) = reference.ReferenceEvaluator(model).run(None, {"image": image})
    np.testing.assert_allclose(found, trained.embed(some).numpy(), atol=1e-4)
