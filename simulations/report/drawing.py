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


def draw_svg(
    name: str,
    said: str,
    draw: Callable[["Axes"], None],
    size: tuple[float, float] = (3.4, 2.3),
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
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(buffer.getvalue(), name, said)


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
