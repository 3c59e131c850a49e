"""`fedemb evaluate RUN --protocol videoglue`: a trained video encoder, judged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fedemb.checkpoint import write_atomically
from fedemb.errors import UserError
from model_zoo.video.encoder import VideoEncoder
from model_zoo.videoglue.adapt import Recipe
from model_zoo.videoglue.problems import Problem
from model_zoo.videoglue.table import Table, judge_all
from simulations.datasets.videoglue.published import published_suite
from simulations.datasets.videoglue.questions import WINDOWS
from simulations.datasets.videoglue.suite import generated_suite
from simulations.report.drawing import CLASSES, draw_svg
from simulations.trained import TrainedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def judge_run(
    path: Path,
    *,
    clips: int = 512,
    steps: int = 200,
    root: Path | None = None,
    told: Callable[[str, str, float], None] = lambda *_: None,
) -> dict[str, Any]:
    """Judge the encoder of a run on public clips; returns what is written.

    Writes `videoglue.json` and `videoglue.svg` into the run folder; results of an
    earlier judgement are kept under a number. Adaptation uses public clips alone, so
    the run's privacy statement stays as it is.

    Args:
        path: folder of a complete run.
        clips: to adapt on, and as many to score on, per problem.
        steps: of every adaptation.
        root: holds published data sets of VideoGLUE; None generates problems instead.
        told: hears adaptation, problem and score as they come.

    Raises:
        UserError: if the run's backbone is no video encoder.
        NotAvailable: none of the published data sets is below `root`.
    """
    run = TrainedRun.open(path)
    encoder = encoder_of(run.backbone)
    shape = next(iter(run.assembly.dataset.held_out().fields.values())).shape[1:]
    frames, height, width = (int(n) for n in shape[:3])
    recipe = replace(Recipe(), steps=steps)
    suite, source = _problems(root, (frames, height, width), clips)
    if root is not None:  # recorded actions may fill their video
        recipe = replace(recipe, longest=WINDOWS)
    table = judge_all(encoder, suite, recipe, told=told)
    content = {
        "protocol": "videoglue",
        **source,
        "model": run.assembly.configuration.model.name,
        "clips": clips,
        "recipe": vars(recipe),
    } | table.to_dict()
    _write(path / "videoglue.json", (json.dumps(content, indent=2) + "\n").encode())
    _write(path / "videoglue.svg", _picture(table).encode())
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


def encoder_of(backbone: nn.Module) -> VideoEncoder:
    """The part of a backbone that turns clips into tokens: itself, or its `video`.

    Raises:
        UserError: if there is none.
    """
    for candidate in (backbone, getattr(backbone, "video", None)):
        if isinstance(candidate, VideoEncoder):
            return candidate
    raise UserError(
        f"{type(backbone).__name__} is no video encoder: --protocol videoglue judges "
        "backbones that turn clips into tokens, such as those of the video systems "
        "(fedemb models list)."
    )


def _write(path: Path, content: bytes) -> None:
    if path.exists():
        number = 1
        while (kept := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        path.rename(kept)
    write_atomically(path, content)


def _picture(table: Table) -> str:
    """Bars: one group per problem, one bar per adaptation."""
    names = list(table.groups)
    share = 0.8 / len(table.results)

    def draw(axes: "Axes") -> None:
        for i, (adaptation, row) in enumerate(table.results.items()):
            places = [
                j + (i - 1.5) * share for j, name in enumerate(names) if name in row
            ]
            values = [row[name].score for name in names if name in row]
            label = adaptation.value.replace("_", " ")
            axes.bar(places, values, share * 0.9, color=CLASSES[i], label=label)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("score, %")
        axes.legend(frameon=False, ncols=2)

    said = f"VideoGLUE: {table.first_score():.1f} in its first version"
    svg = draw_svg("videoglue", said, draw, size=(7.0, 3.2))
    return _standing_alone(svg)


def _standing_alone(svg: str) -> str:
    """The picture with its colours inside, for a file of its own."""
    colours = ["#1b6ca8", "#d1495b", "#66a182", "#edae49", *["#888888"] * 4]
    variables = "".join(f"--class-{i}:{c};" for i, c in enumerate(colours))
    style = f"--ink:#222;--muted:#555;--rule:#ddd;{variables}"
    start = svg.replace(
        "<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="{style}" ', 1
    )
    if "xmlns:xlink" not in start:
        start = start.replace(
            "<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1
        )
    return start
