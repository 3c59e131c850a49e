"""Inline SVG in the colours of the page.

Pictures are drawn with placeholder colours that become CSS variables of the page, so
that one picture reads in light and dark mode and on paper. Text in pictures is our own:
nothing that a user or a data set named is drawn.
"""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from markupsafe import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#010101", "#020202", "#030303"
PRIVATE, NOISE, OPEN = "#040404", "#050505", "#060606"
CLASSES = tuple(f"#0a0a0{index}" for index in range(8))

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PRIVATE: "private",
    NOISE: "noise",
    OPEN: "open",
    **{colour: f"class-{index}" for index, colour in enumerate(CLASSES)},
}
_LIGHT = {
    "ink": "#1b2230",
    "muted": "#5b6472",
    "rule": "#dcdcd6",
    "private": "#0b6b8f",
    "noise": "#c2591b",
    "open": "#7a5aa6",
    "class-0": "#0b6b8f",
    "class-1": "#d1601f",
    "class-2": "#2e8b57",
    "class-3": "#b0306a",
    "class-4": "#6a51a3",
    "class-5": "#9a7b00",
    "class-6": "#3f6fd8",
    "class-7": "#7a4a2b",
}


def draw_svg(
    name: str,
    said: str,
    draw: Callable[["Axes"], None],
    size: tuple[float, float] = (3.4, 2.3),
) -> str:
    """An inline SVG of one set of axes; see `draw_panels`."""
    return draw_panels(name, said, lambda figure: draw(figure.add_subplot()), size)


def draw_panels(
    name: str,
    said: str,
    draw: Callable[["Figure"], None],
    size: tuple[float, float],
) -> str:
    """An inline SVG of a size in inches that takes its colours from the page.

    `name` makes its ids its own; `said` is what a screen reader says.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": RULE,
        "grid.linewidth": 0.5,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "axes.axisbelow": True,
        "text.parse_math": False,
    }
    buffer = io.StringIO()
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(buffer.getvalue(), name, said)


def standing_alone(svg: str) -> str:
    """A picture with light colours inside, for a file of its own."""
    colours = "".join(f"--{name}:{value};" for name, value in _LIGHT.items())
    style = f"background:#fff;font-family:sans-serif;{colours}"
    names = 'xmlns="http://www.w3.org/2000/svg"'
    if "xmlns:xlink" not in svg:
        names += ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg ", f'<svg {names} style="{style}" ', 1)


def _adopt(svg: str, name: str, said: str) -> str:
    """A file's SVG with ids of its own and the colours of the page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg role="img" aria-label="{escape(said)}" {box[0] if box else ""}>'
    body = head + body[body.index(">") + 1 :]
    own = re.sub(r"[^A-Za-z0-9-]", "-", name)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{own}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", body)
