"""`fedemb evaluate RUN --protocol videoglue`: video encoders, judged."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedemb.checkpoint import write_atomically
from model_zoo.videoglue.adapt import Recipe
from model_zoo.videoglue.problems import Problem
from model_zoo.videoglue.table import in_common_units, judge_all
from simulations.datasets.videoglue.published import published_suite
from simulations.datasets.videoglue.questions import WINDOWS
from simulations.datasets.videoglue.suite import generated_suite
from simulations.judging.contestants import clip_shape, gather
from simulations.judging.pictures import as_picture
from simulations.judging.tables import Judgement, as_csv, as_markdown
from simulations.trained import TrainedRun


def judge_run(
    path: Path,
    *,
    against: Sequence[str] = (),
    clips: int = 512,
    steps: int = 200,
    root: Path | None = None,
    told: Callable[[str, str, str, float], None] = lambda *_: None,
) -> dict[str, Any]:
    """Judge the encoder of a run, and others beside it, on the same public clips.

    Writes `videoglue.json`, `.csv`, `.md` and `.svg` into the run folder; results of an
    earlier judgement are kept under a number. Adaptation uses public clips alone, so
    privacy statements stay as they are. Everything is opened before anything is judged.

    Args:
        path: folder of a complete run.
        against: other runs and encoders of the zoo, as `contestants.gather` reads them.
        clips: to adapt on, and as many to score on, per problem.
        steps: of every adaptation.
        root: holds published data sets of VideoGLUE; None generates problems instead.
        told: hears encoder, adaptation, problem and score as they come.

    Raises:
        UserError: if a backbone is no video encoder, or one of `against` cannot stand
            beside the run.
        NotAvailable: none of the published data sets is below `root`, or one of
            `against` is neither run nor system.
    """
    run = TrainedRun.open(path)
    found, left_out = gather(path, run, against)
    recipe = replace(Recipe(), steps=steps)
    suite, source = _problems(root, clip_shape(run), clips)
    if root is not None:  # recorded actions may fill their video
        recipe = replace(recipe, longest=WINDOWS)
    tables = [
        judge_all(
            one.encoder, suite, recipe, told=lambda *row, n=one.name: told(n, *row)
        )
        for one in found
    ]
    judged = [
        Judgement(contestant=one, table=table)
        for one, table in zip(found, in_common_units(tables), strict=True)
    ]
    content = {
        "protocol": "videoglue",
        **source,
        "model": run.assembly.configuration.model.name,
        "clips": clips,
        "recipe": vars(recipe),
    } | judged[0].table.to_dict()
    if against:
        content["comparison"] = [one.to_dict() for one in judged]
        content["left_out"] = left_out
    picture = "videoglue.svg"
    page = as_markdown(judged, source["source"], left_out, picture)
    for name, text in (
        ("videoglue.json", json.dumps(content, indent=2) + "\n"),
        ("videoglue.csv", as_csv(judged)),
        ("videoglue.md", page),
        (picture, as_picture(judged)),
    ):
        _write(path / name, text.encode())
    return content


def _problems(
    root: Path | None, shape: tuple[int, int, int], clips: int
) -> tuple[tuple[Problem, ...], dict[str, Any]]:
    """What is asked, and what outputs say about where it comes from."""
    if root is None:
        said = (
            "synthetic: procedural clips, one problem of each kind, not the published "
            "data sets"
        )
        return generated_suite(shape, train=clips, test=clips), {"source": said}
    published = published_suite(root, shape, train=clips, test=clips)
    said = f"real: {len(published.found)} of the 8 published data sets"
    return published.problems, {
        "source": said,
        "datasets": published.found,
        "absent": published.absent,
    }


def _write(path: Path, content: bytes) -> None:
    if path.exists():
        number = 1
        while (kept := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        path.rename(kept)
    write_atomically(path, content)
