"""`fedemb caption`: files in, captions out, signed by the weights that wrote them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.datasets.clips import PlainClips
from tests.end_to_end.conftest import Said

RUN = (
    *("--users", 40, "--users-per-round", 4, "--rounds", 1, "--noise-multiplier", 0),
    *("--engine", "serial", "--set", "run.evaluate_every=0", "--out", "run"),
)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("clips.npz", clip=PlainClips(4).fetch(np.array([3])).fields["clip"][:3])
    return Path("clips.npz")


def test_captions_of_files_are_signed_by_the_weights_that_wrote_them(
    here: Callable[..., Said], clips: Path
) -> None:
    code, _, err = here("simulate", "--model", "video_language_distillation", *RUN)
    assert code == 0, err
    code, best, err = here("caption", "run", clips)
    assert code == 0, err
    assert [line.split(":")[0] for line in best.splitlines()] == [
        f"clips.npz[{row}]" for row in range(3)
    ]
    drawn = ("caption", "run", clips, "--samples", 2, "--seed", 5, "--out", "a.jsonl")
    assert here(*drawn)[:2] == (0, "captions of 3 clips in a.jsonl\n")
    line = json.loads(Path("a.jsonl").read_text().splitlines()[0])
    assert len(line["captions"]) == 2
    assert line["seed"] == 5
    told = json.loads(here("caption", "run", clips, "--json")[1])["captions"]
    assert told[0]["seed"] is None
    assert {row["model_hash"] for row in told} == {line["model_hash"]}
    assert f"{told[0]['video_id']}: {told[0]['captions'][0]}" == best.splitlines()[0]
    code, _, err = here("caption", "run", clips, "--out", "a.jsonl")
    assert (code, "a.jsonl already exists" in err) == (2, True)


def test_runs_that_write_nothing_say_who_does(
    here: Callable[..., Said], clips: Path
) -> None:
    code, _, err = here("simulate", "--model", "g_vilm", *RUN)
    assert code == 0, err
    code, _, err = here("caption", "run", clips)
    assert code == 2
    assert "DualEncoder writes no captions; give a run of video_language_dist" in err
