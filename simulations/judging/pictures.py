"""The picture of what was judged: bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from model_zoo.videoglue.score import Adaptation
from model_zoo.videoglue.table import Table
from simulations.judging.tables import Judgement, said_of
from simulations.report.drawing import (
    CLASSES,
    INK,
    draw_panels,
    draw_svg,
    standing_alone,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 34  # characters of a name


def as_picture(judgements: Sequence[Judgement]) -> str:
    """Bars, as SVG: of one encoder by adaptation, of several by encoder."""
    if len(judgements) == 1:
        return _picture_of_one(judgements[0].table)
    best = max(judgements, key=lambda judged: judged.table.first_score())
    said = (
        f"VideoGLUE: {len(judgements)} encoders; {best.contestant.name} scores most, "
        f"{best.table.first_score():.1f} in the first version"
    )
    height = 4.9 + 0.34 * len(judgements)

    def draw(figure: "Figure") -> None:
        adaptations = list(judgements[0].table.results)
        rows = figure.add_gridspec(2, 1, height_ratios=[height - 4.2, 4.2])
        above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
        _draw_scores(above.add_subplot(), judgements)
        panels = below.subplots(2, 2, sharey=True)
        for axes, name in zip(panels.flat, adaptations, strict=True):
            _draw_adaptation(axes, judgements, name)
        for axes in panels[:, 0]:
            axes.set_ylabel("score, %")

    return standing_alone(draw_panels("videoglue", said, draw, (9.0, height)))


def _draw_scores(axes: "Axes", judgements: Sequence[Judgement]) -> None:
    """A bar per encoder, which names its colour, and a tick for the other score."""
    first = [judged.table.first_score() for judged in judgements]
    third = [judged.table.third_score() for judged in judgements]
    places = list(range(len(judgements)))
    for i, value in enumerate(first):
        axes.barh(i, value, 0.7, **_look(i))
        axes.annotate(
            f"{value:.1f}",
            (max(value, third[i]), i),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.plot(third, places, "|", color=INK, markersize=13, markeredgewidth=1.5)
    names = [
        _short(judged.contestant.name) + f"\n{judged.contestant.weights}"
        for judged in judgements
    ]
    axes.set_yticks(places, names, fontsize=9)
    axes.set_ylim(len(judgements) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(*first, *third, 1.0))
    axes.grid(visible=False)
    axes.set_title(
        "VideoGLUE score: bar, first version; line, third", loc="left", fontsize=10
    )


def _draw_adaptation(
    axes: "Axes", judgements: Sequence[Judgement], adaptation: Adaptation
) -> None:
    """A group of bars per problem, a bar per encoder."""
    table = judgements[0].table
    problems = list(table.groups)
    share = 0.84 / len(judgements)
    middle = (len(judgements) - 1) / 2
    for i, judged in enumerate(judgements):
        row = judged.table.results[adaptation]
        asked = [name for name in problems if name in row]
        places = [problems.index(name) + (i - middle) * share for name in asked]
        axes.bar(places, [row[n].score for n in asked], 0.9 * share, **_look(i))
    axes.set_xticks(
        range(len(problems)),
        [name.replace("_", "\n") for name in problems],
        fontsize=9 if len(problems) < 6 else 6,
    )
    axes.set_xlim(-0.5, len(problems) - 0.5)
    shown = table.results[adaptation]
    for at, name in enumerate(problems):
        if name not in shown:
            axes.text(at, 1, "not\nasked", ha="center", fontsize=8)
        elif shown[name].defined is None:
            axes.text(at, 1, "not\ndefined", ha="center", fontsize=8)
    axes.set_title(said_of(adaptation), loc="left", fontsize=10)


def _picture_of_one(table: Table) -> str:
    """One group per problem, one bar per adaptation."""
    names = list(table.groups)
    share = 0.8 / len(table.results)

    def draw(axes: "Axes") -> None:
        for i, (adaptation, row) in enumerate(table.results.items()):
            places = [
                j + (i - 1.5) * share for j, name in enumerate(names) if name in row
            ]
            values = [row[name].score for name in names if name in row]
            axes.bar(
                places, values, share * 0.9, color=CLASSES[i], label=said_of(adaptation)
            )
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("score, %")
        axes.legend(frameon=False, ncols=2)

    said = f"VideoGLUE: {table.first_score():.1f} in its first version"
    return standing_alone(draw_svg("videoglue", said, draw, size=(7.0, 3.2)))


def _look(index: int) -> dict[str, Any]:
    """A colour; where colours come round again, with a hatching."""
    hatch = ("", "///", "...", "xxx")[index // len(CLASSES) % 4]
    return {
        "color": CLASSES[index % len(CLASSES)],
        "hatch": hatch,
        "edgecolor": "white",
    }


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
