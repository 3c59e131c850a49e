"""Kill -9 at any moment; `fedemb resume` continues and nothing is lost or doubled."""

import json
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SMALL, CommandLine
from tests.end_to_end.test_simulate import _tensors

RUN = ("simulate", *SMALL, "--rounds", "8", "--set", "run.evaluate_every=0")


@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_killed_run_resumes_to_the_same_backbone(
    fedemb: CommandLine, after: int
) -> None:
    folder = fedemb.folder
    assert fedemb(*RUN, "--seed", "3", "--out", "whole")[0] == 0
    process = fedemb.start(*RUN, "--seed", "3", "--out", "killed")
    _wait_for_reservations(folder / "killed" / "ledger.sqlite", after + 1, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, err = fedemb("resume", "killed")
    assert code == 0, err
    whole, killed = (
        _tensors(folder / name / "backbone.safetensors") for name in ("whole", "killed")
    )
    engines = [
        json.loads((folder / n / "report.json").read_text())["performance"]["chunk"]
        for n in ("whole", "killed")
    ]
    for name, value in whole.items():
        if engines[0] == engines[1]:
            assert (value == killed[name]).all(), name
        else:  # another chunk was measured to be faster: equal up to rounding
            assert abs(value - killed[name]).max() < 1e-3, name
    entries = fedemb.json("ledger", "show", "killed/ledger.sqlite")["entries"]
    assert [e["round"] for e in entries] == list(range(8))
    assert all(e["committed"] for e in entries)


def test_an_unseeded_run_repeats_its_interrupted_round_for_free(
    fedemb: CommandLine,
) -> None:
    process = fedemb.start(*RUN, "--epsilon", "2", "--out", "run")
    _wait_for_reservations(fedemb.folder / "run" / "ledger.sqlite", 3, process)
    process.kill()
    process.communicate()
    report = fedemb.json("resume", "run")
    assert report["rounds_completed"] == 8
    assert report["privacy"]["epsilon_spent"] <= 2.0


def test_an_interrupted_run_says_how_to_go_on(fedemb: CommandLine) -> None:
    process = fedemb.start(*RUN, "--epsilon", "2", "--out", "run")
    _wait_for_reservations(fedemb.folder / "run" / "ledger.sqlite", 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert err.strip().splitlines()[-1] == (
        "error: interrupted; nothing is lost. Continue with: fedemb resume run"
    )
    assert fedemb.json("resume", "run")["rounds_completed"] == 8


def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_space(
    fedemb: CommandLine,
) -> None:
    disk = fedemb.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no small disk can be made here")
    try:
        code, _, err = fedemb(*RUN, "--epsilon", "2", "--out", "disk/run")
        assert code == 2, err
        assert "Traceback" not in err
        assert err.strip().splitlines()[-1] == (
            "error: the disk of disk/run is full; free some space, then continue with: "
            "fedemb resume disk/run"
        )
        subprocess.run([*mount[:4], "remount,size=8m", str(disk)], check=True)
        report = fedemb.json("resume", "disk/run")
        assert report["rounds_completed"] == 8
        assert report["privacy"]["epsilon_spent"] <= 2.0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _wait_for_reservations(path: Path, count: int, process: object) -> None:
    """Busy-wait on the ledger itself; ends with the process at the latest."""
    while process.poll() is None:  # type: ignore[attr-defined]
        if not path.exists():
            continue
        try:
            ledger = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            found = ledger.execute("SELECT sum(count) FROM tally").fetchone()[0]
            ledger.close()
        except sqlite3.Error:
            continue
        if (found or 0) >= count:
            return
