"""Systems in a file of one's own: run folders that move, files that change."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedemb.errors import NotAvailable, UserError
from simulations.assembly import assemble, configuration_of, layered
from simulations.listener import Silent
from simulations.run import resume, simulate
from simulations.scratch import placeless, write_configuration
from simulations.trained import TrainedRun

SYSTEM = """
from dataclasses import replace
from model_zoo.registry import get

SYSTEM = replace(get("small_cnn:tiny"), name="mine")
"""


class Stopped(Exception):
    """The machine goes down."""


class StopsAfter(Silent):
    """Goes down after so many rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def round(self, *_, **__) -> None:
        self.rounds -= 1
        if self.rounds == 0:
            raise Stopped


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a system in a file, and runs beside it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.py").write_text(SYSTEM)
    monkeypatch.chdir(home)
    return home


def asked():
    few = {
        "data": {"users": 400},
        "privacy": {"users_per_round": 20},
        "run": {"rounds": 4, "seed": 3, "engine": "serial", "evaluate_every": 0},
    }
    return layered("synthetic", "mine.py:SYSTEM", None, few)


def written(folder):
    folder.mkdir(parents=True)
    write_configuration(asked(), folder)
    return folder


def test_a_run_folder_holds_no_place_of_this_machine_and_a_copy(home):
    run = written(home / "runs" / "a")
    text = (run / "config.toml").read_text()
    assert 'name = "../../mine.py:SYSTEM"' in text
    assert str(home) not in text
    assert (run / "mine.py").read_text() == SYSTEM
    assert configuration_of(run) == asked()


def test_it_opens_wherever_it_is_moved_with_the_file_or_alone(home, tmp_path):
    before = asked()
    written(home / "runs" / "a")
    shutil.move(home, tmp_path / "moved")
    found = configuration_of(tmp_path / "moved" / "runs" / "a")
    assert found.model.name == f"{tmp_path / 'moved' / 'mine.py'}:SYSTEM"
    shutil.move(tmp_path / "moved" / "runs" / "a", tmp_path / "alone")
    shutil.rmtree(tmp_path / "moved")
    alone = configuration_of(tmp_path / "alone")
    assert alone.model.name == f"{tmp_path / 'alone' / 'mine.py'}:SYSTEM"
    assert assemble(alone).system.name == "mine"
    assert placeless(alone) == placeless(found) == placeless(before)
    assert placeless(alone).model.name == "mine.py:SYSTEM"


def test_another_content_is_refused_naming_both_digests(home):
    run = written(home / "runs" / "a")
    digest = asked().model.file_digest
    (home / "mine.py").write_text(SYSTEM + "# changed\n")
    other = asked().model.file_digest
    with pytest.raises(UserError, match=f"{other[:12]}.*{digest[:12]}"):
        assemble(configuration_of(run))
    shutil.copy(run / "mine.py", home / "mine.py")
    assert assemble(configuration_of(run)).system.name == "mine"


def test_a_file_that_is_gone_with_its_copy_is_named(home):
    run = written(home / "runs" / "a")
    (home / "mine.py").unlink()
    (run / "mine.py").unlink()
    with pytest.raises(NotAvailable, match=r"no file .*mine\.py"):
        assemble(configuration_of(run))


def test_a_run_that_moved_resumes_to_the_backbone_it_would_have_had(home, tmp_path):
    simulate(asked(), home / "whole", Silent())
    with pytest.raises(Stopped):
        simulate(asked(), home / "stopped", StopsAfter(2))
    moved = Path(shutil.move(home / "stopped", tmp_path / "elsewhere"))
    whole = load_file(home / "whole" / "backbone.safetensors")
    shutil.rmtree(home)
    tmp_path.joinpath("home").mkdir()
    resume(moved, Silent())
    found = load_file(moved / "backbone.safetensors")
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    assert TrainedRun.open(moved).assembly.system.name == "mine"
