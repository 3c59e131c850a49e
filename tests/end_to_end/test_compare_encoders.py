"""Several video encoders, judged in one command, in one table and one picture."""

import csv
import json
import re
from pathlib import Path
from xml.dom import minidom

import pytest

from fedemb.cli.main import app
from fedemb.errors import NotAvailable, UserError
from model_zoo.videoglue.score import Adaptation
from simulations.judging.contestants import gather, video_systems
from simulations.trained import TrainedRun

ENCODERS = {
    "const_cl:tiny",
    "g_vilm:tiny",
    "video_language_distillation:tiny",
    "videoglue:tiny",
    "videoprism:tiny",
}
QUICK = ("--protocol", "videoglue", "--clips", "16", "--steps", "1")


def command(*arguments):
    app([str(a) for a in arguments], standalone_mode=False)


def train(out, side, *more):
    command(
        *("simulate", "--model", "videoglue:tiny-adapter", "--dataset", "clips"),
        *("--users", 400, "--users-per-round", 8, "--rounds", 1, "--out", out),
        *("--image-size", side, "--engine", "serial", "--seed", 1, *more),
    )
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    private = train(folder / "private", 16, "--noise-multiplier", 1)
    return private, train(folder / "open", 16, "--noise-multiplier", 0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_stands_beside_another_and_an_encoder_of_the_zoo(runs, capsys):
    private, unprotected = runs
    statement = (private / "privacy_statement.json").read_bytes()
    others = ("--against", unprotected, "--against", "g_vilm")
    command("evaluate", private, *QUICK, *others, "--json")
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((private / "videoglue.json").read_text())
    assert content["model"] == "videoglue:tiny-adapter"
    own, second, third = content["comparison"]
    assert [own["encoder"], second["encoder"]] == ["private", "open"]
    assert third["encoder"] == "g_vilm:tiny"
    assert own["weights"].startswith("epsilon ")
    assert second["weights"] == "trained without privacy"
    assert third["weights"] == "untrained"
    assert own["epsilon"] > 0
    assert second["epsilon"] is None
    # scores are comparable: one suite, one unit
    assert own["units"] == second["units"] == third["units"]
    assert own["videoglue_score_v1"] == content["videoglue_score_v1"]

    rows = rows_of(private / "videoglue.csv")
    assert len(rows) == 3 * len(Adaptation)
    for number, row in enumerate(rows):
        judged = content["comparison"][number // len(Adaptation)]
        assert row["encoder"] == judged["encoder"]
        scored = judged["results"][row["adaptation"]]
        for problem in judged["groups"]:
            wanted = scored[problem]["score"] if problem in scored else ""
            assert row[problem] == str(wanted)
        assert float(row["average"]) == judged["averages"][row["adaptation"]]
        assert float(row["videoglue_score_v3"]) == judged["videoglue_score_v3"]

    page = (private / "videoglue.md").read_text()
    assert "not the published data sets" in page
    assert re.search(r"\| g_vilm:tiny \| untrained \| +\d+\.\d\d \|", page)
    picture = (private / "videoglue.svg").read_text()
    minidom.parseString(picture)
    for name in ("private", "open", "g_vilm:tiny", "end to end", "motion"):
        assert f">{name}<" in picture
    assert (private / "privacy_statement.json").read_bytes() == statement
    assert not (unprotected / "videoglue.json").exists()


def test_every_video_encoder_of_the_zoo_is_known_and_misfits_are_told(runs):
    assert set(video_systems()) == ENCODERS
    path = runs[0]
    found, left_out = gather(path, TrainedRun.open(path), ["const_cl:tiny", "zoo"])
    names = [one.name for one in found]
    assert names[:2] == ["private", "const_cl:tiny"]
    assert len(names) == len(set(names))
    # the public captioner that it starts from reads clips of 32 pixels
    misfit = "video_language_distillation:tiny"
    assert set(names[1:]) == ENCODERS - {misfit}
    assert "does not fit" in left_out[misfit]
    with pytest.raises(NotAvailable, match="does not fit"):
        gather(path, TrainedRun.open(path), [misfit])


@pytest.mark.parametrize(
    ("against", "error", "said"),
    [
        ("lenet", UserError, "lenet:tiny is no video encoder; choose from const_cl"),
        ("g_vilm:huge", NotAvailable, "no configuration 'huge'"),
        ("nothing", NotAvailable, "neither a run folder .* nor an encoder of the zoo"),
        ("{run}", UserError, "named twice"),
        ("{folder}", NotAvailable, "holds no config.toml"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_judged(
    runs, against, error, said, capsys
):
    path = runs[0]
    named = against.format(run=path, folder=path.parent)
    before = sorted(file.name for file in path.iterdir())
    with pytest.raises(error, match=said):
        command("evaluate", path, *QUICK, "--against", named)
    assert "%" not in capsys.readouterr().out
    assert sorted(file.name for file in path.iterdir()) == before


def test_against_needs_the_protocol(runs):
    with pytest.raises(UserError, match="against=zoo needs --protocol videoglue"):
        command("evaluate", runs[0], "--against", "zoo")


@pytest.mark.slow
def test_all_video_encoders_of_the_zoo_in_one_command(fedemb, runs):
    larger = train(fedemb.folder / "larger", 32, "--noise-multiplier", 1)
    code, out, err = fedemb("evaluate", larger, *QUICK, "--against", "zoo")
    assert code == 0, err
    assert all(f"{name} (" in out for name in ENCODERS)
    rows = rows_of(larger / "videoglue.csv")
    assert {row["encoder"] for row in rows} == ENCODERS | {"larger"}
    page = (larger / "videoglue.md").read_text()
    assert "Public start: an image-language model that comes with the zoo" in page
    code, out, err = fedemb("evaluate", larger, *QUICK, "--against", runs[0])
    assert code == 2
    assert "reads clips of 8 x 16 x 16" in err
    assert "Traceback" not in err
