"""Runs whose users keep their heads: resumed, in processes, refused, tidied up."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import SMALL, CommandLine, Said
from tests.end_to_end.test_resume import _wait_for_reservations
from tests.end_to_end.test_simulate import _tensors

HEADS = [
    "local.head_init=persistent",
    "local.steps=4",
    "local.head_steps=3",
    "model.head=linear",
    "run.evaluate_every=0",
]
RUN = (
    *("simulate", *SMALL, "--rounds", "6", "--seed", "3", "--engine", "serial"),
    *("--users-per-virtual-client", "1"),
    *(word for value in HEADS for word in ("--set", value)),
)


def _same(fedemb: CommandLine, one: str, two: str) -> bool:
    first, second = (
        _tensors(fedemb.folder / name / "backbone.safetensors") for name in (one, two)
    )
    return all(np.array_equal(values, second[name]) for name, values in first.items())


def test_heads_persist_over_a_kill_and_in_processes_and_are_gone_at_the_end(
    fedemb: CommandLine,
) -> None:
    code, _, err = fedemb(*RUN, "--out", "whole")
    assert code == 0, err
    process = fedemb.start(*RUN, "--out", "killed")
    _wait_for_reservations(fedemb.folder / "killed" / "ledger.sqlite", 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (fedemb.folder / "killed" / "checkpoints" / "heads-0.sqlite").exists()
    assert fedemb("resume", "killed")[0] == 0
    both = ("--runner", "processes", "--workers", "2", "--out", "both")
    assert fedemb(*RUN, *both)[0] == 0
    assert _same(fedemb, "whole", "killed")
    assert _same(fedemb, "whole", "both")
    for name in ("whole", "killed", "both"):
        left = (fedemb.folder / name / "checkpoints").iterdir()
        assert not [path for path in left if path.name.startswith("heads")]
    statement = (fedemb.folder / "whole" / "privacy_statement.txt").read_text()
    assert "the heads of single users" in " ".join(statement.split())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--users-per-virtual-client", "4"), "--users-per-virtual-client 1"),
        (("--sampler", "fixed-size"), "--sampler poisson-virtual-clients"),
        (("--sampler", "cyclic"), "--sampler poisson-virtual-clients"),
        (("--mechanism", "tree", "--sampler", "full-participation"), "gaussian"),
        (("--runner", "flower"), "--runner inline or processes"),
        (("--set", "local.head_steps=0"), "local.head_steps=4"),
    ],
)
def test_what_is_not_proved_is_refused(
    here: Callable[..., Said], tmp_path: Path, changed: tuple[str, ...], named: str
) -> None:
    code, _, err = here(*RUN, *changed, "--out", tmp_path / "no")
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last
    assert not (tmp_path / "no").exists()
