"""`fedemb pretrain`, and private runs that start from what it leaves."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedemb.errors import UserError
from simulations.assembly import assemble, layered
from simulations.listener import Silent
from simulations.public_start import public_start
from simulations.run import resume, simulate
from tests.end_to_end.conftest import Said

Here = Callable[..., Said]

HEAD, BACKBONE = "head.safetensors", "backbone.safetensors"

DATA = ("--dataset", "synthetic", "--users", "40", "--model", "small_cnn:tiny")
LINEAR = ("--set", "model.head=linear", "--set", "model.label_space=global")
PUBLIC = ("--steps", "6", "--batch-users", "4")


@pytest.fixture
def learned(here: Here, tmp_path: Path) -> Path:
    folder = tmp_path / "public"
    code, out, err = here("pretrain", *DATA, *LINEAR, *PUBLIC, "--out", folder)
    assert code == 0, err
    assert "public by your word" in out
    return folder


def perturb(folder: Path) -> None:
    """Another head, in another file of the same name."""
    path = folder / HEAD
    other = {name: 1.5 * value for name, value in load_file(path).items()}
    save_file(other, path, load_metadata(path))


def load_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def backbone(here: Here, learned: Path, out: Path, head_init: str) -> dict[str, Any]:
    """One round in which everybody takes part: its noise and cohort have no key."""
    code, _, err = here(
        *("simulate", *DATA, *LINEAR, "--rounds", "1", "--noise-multiplier", "0"),
        *("--sampler", "full-participation", "--seed", "1", "--engine", "serial"),
        *("--pretrained", learned, "--set", f"local.head_init={head_init}"),
        *("--out", out),
    )
    assert code == 0, err
    state: dict[str, Any] = load_file(out / "backbone.safetensors")
    return state


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_run_starts_every_head_from_the_pretrained_one(
    here: Here, learned: Path, tmp_path: Path
) -> None:
    first = backbone(here, learned, tmp_path / "first", "public")
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    stated = (tmp_path / "first" / "privacy_statement.txt").read_text()
    for said in (str(report["privacy"]["public_inputs"]), " ".join(stated.split())):
        assert f"initial weights from {learned}" in said
        assert f"heads from {learned}: every client's head in the stage" in said
    fresh = backbone(here, learned, tmp_path / "fresh", "fresh")
    perturb(learned)
    assert not same(first, backbone(here, learned, tmp_path / "second", "public"))
    assert same(fresh, backbone(here, learned, tmp_path / "again", "fresh"))


def test_the_folder_says_what_it_was_learned_from_and_opens_as_a_run(
    here: Here, learned: Path
) -> None:
    report = json.loads((learned / "report.json").read_text())
    assert report["private"] is False
    assert "public by your word" in report["dataset"]["notices"][0]
    assert (report["steps"], report["dataset"]["num_users"]) == (6, 40)
    (stage,) = report["stages"]
    assert set(stage["loss"]) == {"initial", "final"}
    assert list(stage["head"]) == ["weight"]
    assert report["metric"] in report["metrics"]["initial"]
    code, out, _ = here("evaluate", learned, "--json")
    assert code == 0
    final = report["metrics"]["final"]
    assert json.loads(out)["metrics"] == pytest.approx(final, abs=1e-6)
    code, out, _ = here("report", learned)
    assert (code, "not private" in out) == (0, True)
    about = load_metadata(learned / "head.safetensors")
    assert "public by your word" in about["privacy"]


def test_training_lowers_the_loss_and_repeats_bit_for_bit(
    here: Here, tmp_path: Path
) -> None:
    asked = ("--steps", "40", "--batch-users", "16", "--learning-rate", "0.01")
    states = []
    for name in ("one", "two"):
        code, out, err = here(
            *("pretrain", *DATA, *LINEAR, *asked, "--out", tmp_path / name, "--json")
        )
        assert code == 0, err
        loss = json.loads(out)["stages"][0]["loss"]
        assert loss["final"] < 0.8 * loss["initial"]
        files = (tmp_path / name / f for f in (BACKBONE, HEAD))
        states.append([load_file(path) for path in files])
    assert all(same(a, b) for a, b in zip(*states, strict=True))


def test_a_killed_run_goes_on_with_the_same_head_only(
    learned: Path, tmp_path: Path
) -> None:
    configuration = layered(
        "synthetic",
        "small_cnn:tiny",
        None,
        {
            "data": {"users": 40},
            "model": {
                **{"head": "linear", "label_space": "global"},
                "pretrained": str(learned),
            },
            "privacy": {"noise_multiplier": 1.0, "users_per_round": 10},
            "local": {"head_init": "public"},
            "run": {"rounds": 3, "seed": 2, "engine": "serial", "evaluate_every": 0},
        },
    )
    simulate(configuration, tmp_path / "whole", Silent())
    with pytest.raises(KeyboardInterrupt):
        simulate(configuration, tmp_path / "killed", Interrupting())
    kept = (learned / HEAD).read_bytes()
    perturb(learned)
    with pytest.raises(UserError, match="public heads of embedding have the digest"):
        resume(tmp_path / "killed", Silent())
    (learned / HEAD).write_bytes(kept)
    resume(tmp_path / "killed", Silent())
    states = (load_file(tmp_path / n / BACKBONE) for n in ("whole", "killed"))
    assert same(*states)


class Interrupting(Silent):
    """A person who presses Ctrl-C after the second round."""

    def round(self, stage: str, report: Any, seconds: float) -> None:
        if report.round_index == 1:
            raise KeyboardInterrupt


def test_heads_of_another_shape_are_refused_by_name(
    here: Here, learned: Path, tmp_path: Path
) -> None:
    code, _, err = here(
        *("simulate", *DATA, *LINEAR, "--pretrained", learned, "--out", tmp_path / "x"),
        *("--set", "local.head_init=public", "--set", "model.embedding_dim=8"),
    )
    assert code == 2
    report = json.loads((learned / "report.json").read_text())
    rows, width = report["stages"][0]["head"]["weight"]
    assert f"weight is ({rows}, {width}), but the head of" in err
    assert f"has ({rows}, 8)" in err
    assert "--set local.head_init=fresh" in err
    assert not (tmp_path / "x").exists()


def test_heads_of_other_classes_are_refused(
    here: Here, learned: Path, tmp_path: Path
) -> None:
    path = learned / HEAD
    save_file(load_file(path), path, {**load_metadata(path), "classes": "others"})
    code, _, err = here(
        *("simulate", *DATA, *LINEAR, "--pretrained", learned, "--out", tmp_path / "x"),
        *("--set", "local.head_init=public"),
    )
    assert code == 2
    assert "weight of stage 'embedding'" in err
    assert "has a row for each class, and its classes are others" in err


def test_a_broken_file_of_heads_is_named(
    here: Here, learned: Path, tmp_path: Path
) -> None:
    (learned / HEAD).write_bytes(b"no tensors")
    run = ("simulate", *DATA, *LINEAR, "--pretrained", learned, "--out", tmp_path / "x")
    code, _, err = here(*run, "--set", "local.head_init=public")
    assert code == 2
    assert f"the public heads {learned / HEAD} cannot be read" in err


def test_every_stage_has_a_head_of_its_own(here: Here, tmp_path: Path) -> None:
    folder = tmp_path / "public"
    code, out, err = here(
        *("pretrain", "--model", "videoprism", "--users", "8", "--steps", "10"),
        *("--batch-users", "1", "--out", folder, "--json"),
    )
    assert code == 0, err
    stages = json.loads(out)["stages"]
    assert [s["steps"] for s in stages] == [6, 1, 3]
    known = {"pretrained": str(folder)}
    given = {"data": {"users": 8}, "model": known, "local": {"head_init": "public"}}
    made = assemble(layered(None, "videoprism", None, given))
    start = public_start(made)
    written = load_file(folder / HEAD)
    for number, stage in enumerate(made.stages):
        head = start.head(number)
        assert head
        for name, value in head.items():
            assert torch.equal(value, written[f"{stage.name}/{name}"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", "0"), "steps=0 must be at least 1"),
        (("--batch-users", "41"), "batch_users=41 must be at most 40"),
        (("--learning-rate", "-1"), "learning_rate=-1.0 must be positive"),
    ],
)
def test_mistakes_are_named(
    here: Here, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, err = here("pretrain", *DATA, *options, "--out", tmp_path / "x")
    assert code == 2
    assert said in err


def test_data_that_are_not_generated_have_to_be_named(
    here: Here, tmp_path: Path
) -> None:
    out, own = tmp_path / "x", tmp_path / "drawings.py"
    own.write_text(
        "from dataclasses import replace\n"
        "from model_zoo import registry\n"
        "tiny = registry.get('mobilenet_small:tiny')\n"
        "SYSTEM = replace(tiny, default_dataset='openclipart')\n"
    )
    code, _, err = here("pretrain", "--model", f"{own}:SYSTEM", "--out", out)
    assert code == 2
    assert "say that they are public by naming them: --dataset openclipart" in err
    assert not out.exists()


def test_a_training_that_failed_leaves_a_folder_that_can_be_used(
    here: Here, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    asked = ("pretrain", *DATA, *LINEAR, *PUBLIC, "--out", folder)
    code, _, err = here(*asked, "--learning-rate", "1e30")
    assert code == 2
    assert re.search(r"the loss of step \d+ in stage 'embedding' is \w+; use a", err)
    assert here(*asked)[0] == 0


def test_no_folder_is_overwritten(here: Here, learned: Path) -> None:
    before = (learned / BACKBONE).read_bytes()
    code, _, err = here("pretrain", *DATA, *PUBLIC, "--out", learned)
    assert code == 2
    assert "already exists; nothing is overwritten" in err
    assert (learned / BACKBONE).read_bytes() == before
