"""Recorded skeletons from their files to a trained and judged encoder."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.end_to_end.conftest import Said
from tests.simulations.datasets.skeleton_files import write_ntu, write_penn

Command = Callable[..., Said]

FEW = [
    *("--model", "cv_mim:tiny", "--rounds", 1, "--users-per-round", 2, "--seed", 1),
    *("--noise-multiplier", 0, "--engine", "serial", "--frames", 4, "--json"),
]


def test_an_encoder_learns_from_ntu_and_is_judged_on_penn_action(
    here: Command, tmp_path: Path
) -> None:
    ntu = f"ntu:{write_ntu(tmp_path / 'ntu', performers=3, actions=4, frames=8)}"
    out = tmp_path / "run"
    code, said, err = here("simulate", "--dataset", ntu, *FEW, "--out", out)
    assert code == 0, err
    report = json.loads(said)
    assert report["rounds_completed"] == 1
    assert (report["dataset"]["source"], report["dataset"]["num_users"]) == ("real", 3)
    assert "2 of 4 actions" in " ".join(report["dataset"]["notices"])
    final = report["metrics"]["final"]
    assert {"single_shot_accuracy", "single_shot_first_to_others"} <= set(final)
    assert "cross_view_recall_at_1" in final

    penn = f"penn-action:{write_penn(tmp_path / 'penn')}"
    code, said, err = here("evaluate", out, "--dataset", penn, "--json")
    assert code == 0, err
    found = json.loads(said)["metrics"]
    assert found["single_shot_accuracy"] is not None
    assert "cross_view_recall_at_1" not in found


def test_one_camera_is_refused_before_anything_is_spent(
    here: Command, tmp_path: Path
) -> None:
    penn = f"penn-action:{write_penn(tmp_path / 'penn')}"
    out = tmp_path / "run"
    code, _, err = here("simulate", "--dataset", penn, *FEW, "--out", out)
    assert code == 2
    assert "two cameras" in err
    assert "Traceback" not in err
    assert not out.exists()


def test_a_damaged_skeleton_is_named_with_its_line(
    here: Command, tmp_path: Path
) -> None:
    folder = write_ntu(tmp_path / "ntu", performers=1, frames=16)
    damaged = folder / "S001C002P001R001A002.skeleton"
    damaged.write_text(damaged.read_text()[:-40])
    code, _, err = here("simulate", "--dataset", f"ntu:{folder}", *FEW)
    assert code == 2
    assert "S001C002P001R001A002.skeleton (line 449: " in err
    assert "--skip-bad" in err


def test_the_cards_say_what_is_read(here: Command) -> None:
    code, said, _ = here("datasets", "describe", "ntu:somewhere")
    assert code == 0
    assert "SsssCcccPpppRrrrAaaa.skeleton" in said
    assert "frames, skip_bad" in said
