"""Captions of files, signed by the weights that wrote them, and words as queries."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.datasets.clips import PlainClips
from simulations.trained import TrainedRun
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
    _texts_are_queries_too(here, clips)


def _texts_are_queries_too(here: Callable[..., Said], clips: Path) -> None:
    """Texts and clips are embedded in one space, and either finds held-out clips."""
    words = ("--text", "a red circle rises", "--text", "a blue square turns")
    with np.load(clips) as content:
        np.savez("short.npz", clip=content["clip"][:, ::2])
    code, said, err = here("embed", "run", "short.npz", *words, "--json")
    assert code == 0, err
    rows = json.loads(said)["embeddings"]
    assert [row.get("text", "a file") for row in rows] == ["a file"] * 3 + [
        *words[1::2]
    ]
    values = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
    assert abs(values[3] - values[4]).max() > 1e-4
    code, said, err = here("search", "run", *words[:2], "--top", 3, "--json")
    assert code == 0, err
    hits = json.loads(said)["neighbours"]
    trained = TrainedRun.open(Path("run"))
    held_out = trained.assembly.dataset.held_out()
    scores = trained.embed(held_out).numpy() @ values[3]
    assert [hit["row"] for hit in hits] == np.argsort(-scores)[:3].tolist()
    told = held_out.fields["caption"][hits[0]["row"]]
    assert hits[0]["caption"] == told
    assert here("search", "run", *words[:2], "--top", 1)[1].endswith(f"{told}\n")


@pytest.mark.parametrize(
    "asked",
    [("search", "run"), ("search", "run", "a.png", "--text", "a"), ("embed", "run")],
)
def test_a_query_is_a_file_or_a_text(
    here: Callable[..., Said], asked: tuple[str, ...]
) -> None:
    code, _, err = here(*asked)
    assert code == 2
    assert "--text" in err.strip().splitlines()[-1]
