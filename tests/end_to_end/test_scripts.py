"""Scripts of `benchmarks/` answer mistakes by the rule, before anything is computed."""

import importlib
import shutil
import sys

import pytest

from benchmarks.simulated import report_of

MISTAKES = [
    ("compare_vld_captions", "--samples 0", "0 must be a whole number, 1 at least"),
    ("compare_vld_captions", "--batch 0", "0 must be a whole number, 1 at least"),
    ("compare_vld_captions", "--clips 100001", "whole number, 1 to 100000"),
    ("compare_vld_captions", "--student -1", "-1 must be a whole number, 0 at least"),
    ("compare_vld_captions", "--rate 0", "0 must be a positive number"),
    ("compare_vld_captions", "--seed x", "x must be a whole number, 0 at least"),
    ("pretrain_vld", "--pictures 3", "3 must be a whole number, 4 at least"),
    ("pretrain_vld", "--steps 10", "10 must be a whole number, 11 at least"),
    ("align_univrd", "--batch 2", "2 must be a whole number, 3 at least"),
    ("train_imagen3_public", "--out f --users 0", "0 must be a whole number, 8 at"),
    ("train_videoprism_decoders", "--out f --users 0", "whole number, 16 at least"),
    ("ablations", "cv_mim --rounds 0", "0 must be a whole number, 1 at least"),
    ("ablations", "nothing", "nothing has no switches here; there are "),
    ("learning", "lenet --users 0", "0 must be a whole number, 1 at least"),
    ("learning", "lenet --epsilon nan", "nan must be a positive number"),
    ("learning", "lenet:tiny nothing", "'nothing'"),
    ("learning", "lenet:nothing", "has no configuration 'nothing'"),
    ("__main__", "W1 --repeat 0", "0 must be a whole number, 1 at least"),
    ("__main__", "W1 W0", "unknown: W0; choose from W1, "),
]


@pytest.mark.parametrize(("script", "line", "said"), MISTAKES)
def test_a_mistake_is_answered_by_the_rule(script, line, said, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{script}")
    monkeypatch.setattr(sys, "argv", [script, *line.split()])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_script_ends_as_the_run_that_it_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(SystemExit) as stopped:
        report_of("lenet:tiny", [])
    assert stopped.value.code == 1
