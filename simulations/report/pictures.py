"""Pictures of a report: curves and maps as inline SVG, thumbnails as data URIs.

A page with all pictures stays below about 1.5 MB: 88 thumbnails of at most 96 pixels
and two maps of at most 1,200 points.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simulations.report.content import Gallery, ReportContent
from simulations.report.drawing import (
    CLASSES,
    MUTED,
    NOISE,
    OPEN,
    PRIVATE,
    RULE,
    draw_svg,
)
from simulations.report.metric_names import metric
from simulations.report.neighbours import (
    nearest_neighbours,
    principal_plane,
    shown_classes,
)
from simulations.report.wording import power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUERIES = len(CLASSES)
NEIGHBOURS = 5
_MAP_POINTS = 1200
_THUMBNAIL = 96


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the neighbour table.

    Attributes:
        source: data URI.
        name: its class.
        correct: whether it is of the query's class.
    """

    source: str
    name: str
    correct: bool


@dataclass(frozen=True)
class NeighbourRow:
    """A query and its neighbours before and after training."""

    query: Thumbnail
    before: list[Thumbnail]
    after: list[Thumbnail]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a page.

    Attributes:
        curves: label of a metric -> SVG of its learning curve.
        norms: SVG of the update and noise norms, or empty.
        budget: SVG of epsilon spent over rounds, or empty.
        tradeoff: SVG of epsilon against delta, or empty.
        maps: (before, after) as SVG, or empty.
        map_classes: names of the coloured classes, in the order of their colours.
        neighbours: rows of the neighbour table; empty without images.
    """

    curves: Mapping[str, str]
    norms: str
    budget: str
    tradeoff: str
    maps: tuple[str, ...]
    map_classes: Sequence[str]
    neighbours: Sequence[NeighbourRow]


def render_pictures(content: ReportContent) -> Pictures:
    """Draws everything the content has numbers for."""
    gallery = content.gallery
    classes = shown_classes(gallery, QUERIES) if gallery else []
    return Pictures(
        curves={
            metric(name).label: _curve(content, name)
            for name in content.metric_names
            if len(content.series(name)[0]) > 1
        },
        norms=_norms(content),
        budget=_budget(content),
        tradeoff=_tradeoff(content),
        maps=_maps(gallery, classes) if gallery and len(gallery.labels) > 2 else (),
        map_classes=[gallery.name(label) for label in classes] if gallery else [],
        neighbours=_neighbour_rows(gallery) if gallery else [],
    )


def _curve(content: ReportContent, name: str) -> str:
    known = metric(name)
    rounds, values = content.series(name)
    open_value = content.metrics.get("non_private", {}).get(name)

    def draw(axes: "Axes") -> None:
        axes.plot(rounds, values, color=PRIVATE, linewidth=1.8)
        axes.plot(rounds[-1:], values[-1:], "o", color=PRIVATE, markersize=4)
        axes.axhline(values[0], color=MUTED, linewidth=0.9, dashes=(2, 3))
        if open_value is not None:
            axes.axhline(open_value, color=OPEN, linewidth=1.2, dashes=(6, 3))
        _by_round(axes)
        if known.share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")

    said = f"{known.label}: {values[0]:.3g} at first, {values[-1]:.3g} at the end"
    return draw_svg(f"curve-{name}", said, draw)


def _by_round(axes: "Axes") -> None:
    """Rounds along the bottom, whole ones."""
    axes.set_xlabel("round")
    axes.locator_params("x", integer=True)


def _norms(content: ReportContent) -> str:
    rounds, updates = content.series("update_norm")
    noise_rounds, noise = content.series("expected_noise_norm")
    clip_rounds, clips = content.series("clip_norm")
    if len(rounds) < 2:
        return ""

    def draw(axes: "Axes") -> None:
        axes.plot(clip_rounds, clips, color=MUTED, linewidth=1.2, dashes=(2, 3))
        axes.plot(noise_rounds, noise, color=NOISE, linewidth=1.8, dashes=(6, 3))
        axes.plot(rounds, updates, color=PRIVATE, linewidth=1.8)
        _by_round(axes)
        axes.set_ylim(bottom=0)

    said = "norm of the averaged update, of its noise, and clip norm"
    return draw_svg("norms", said, draw, size=(6.4, 2.6))


def _budget(content: ReportContent) -> str:
    rounds, spent = content.series("epsilon")
    if len(rounds) < 2:
        return ""
    target = content.privacy.get("target_epsilon")
    said = f"epsilon spent over rounds, {spent[-1]:.3g} at the end"

    def draw(axes: "Axes") -> None:
        axes.plot(rounds, spent, color=PRIVATE, linewidth=1.8)
        if target is not None:
            axes.axhline(target, color=MUTED, linewidth=0.9, dashes=(2, 3))
        _by_round(axes)
        axes.set_ylabel("epsilon spent")
        axes.set_ylim(bottom=0)

    return draw_svg("budget", said, draw, size=(5.0, 2.6))


def _tradeoff(content: ReportContent) -> str:
    points = sorted(p for p in content.epsilon_at_delta if np.isfinite(p[1]))
    if len(points) < 2:
        return ""
    deltas, epsilons = zip(*points, strict=True)
    said = "epsilon of the same run at other values of delta"
    delta, epsilon = (content.privacy.get(key) for key in ("delta", "epsilon"))

    def draw(axes: "Axes") -> None:
        axes.semilogx(deltas, epsilons, color=PRIVATE, linewidth=1.8)
        if delta is not None and epsilon is not None:
            axes.plot([delta], [epsilon], "o", color=PRIVATE, markersize=5)
        axes.xaxis.set_major_formatter(lambda value, _: power_of_ten(value))
        axes.set_xlabel("delta")
        axes.set_ylabel("epsilon")
        axes.set_ylim(bottom=0)

    return draw_svg("tradeoff", said, draw, size=(5.0, 2.6))


def _maps(gallery: Gallery, classes: list[int]) -> tuple[str, ...]:
    n = len(gallery.labels)
    coloured = np.flatnonzero(np.isin(gallery.labels, classes))
    other = np.flatnonzero(~np.isin(gallery.labels, classes))
    coloured = _thin(coloured, _MAP_POINTS // 2)
    other = _thin(other, _MAP_POINTS - len(coloured))

    def draw(plane: NDArray[Any]) -> Callable[["Axes"], None]:
        def points(axes: "Axes") -> None:
            axes.plot(*plane[other].T, "o", color=RULE, markersize=2.2, mew=0)
            for label, colour in zip(classes, CLASSES, strict=False):
                own = coloured[gallery.labels[coloured] == label]
                axes.plot(*plane[own].T, "o", color=colour, markersize=3.6, mew=0)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_aspect("equal", adjustable="datalim")

        return points

    return tuple(
        draw_svg(
            f"map-{when}",
            f"{n:,} held-out embeddings {when} training on their two principal axes",
            draw(principal_plane(embeddings)),
            size=(3.4, 3.2),
        )
        for when, embeddings in (("before", gallery.before), ("after", gallery.after))
    )


def _thin(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    kept: NDArray[np.int64] = np.linspace(0, len(rows) - 1, most).round().astype(int)
    return rows[kept]


def _neighbour_rows(gallery: Gallery) -> list[NeighbourRow]:
    images, labels = gallery.images, gallery.labels
    if images is None:
        return []

    def picture(row: int, query: int) -> Thumbnail:
        label = int(labels[row])
        same = label == int(labels[query])
        return Thumbnail(_data_uri(images[row]), gallery.name(label), same)

    return [
        NeighbourRow(
            picture(found.query, found.query),
            [picture(int(row), found.query) for row in found.before],
            [picture(int(row), found.query) for row in found.after],
        )
        for found in nearest_neighbours(gallery, QUERIES, NEIGHBOURS)
    ]


def _data_uri(image: NDArray[np.uint8]) -> str:
    """A small lossy picture, or a lossless one where that is small anyway."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    if max(picture.size) <= 32:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(buffer, "WEBP", quality=82, method=4)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
