"""What a report says in words and numbers."""

import math
import re
from dataclasses import dataclass
from typing import Any

from fedemb.data import Source
from simulations.report.content import ReportContent
from simulations.report.metric_names import metric

SOURCES = {
    Source.REAL: ("real data", ""),
    Source.SAMPLE: ("sample of real data", ""),
    Source.STAND_IN: (
        "stand-in data",
        "These are not the images of {name}. They were generated to have its published "
        "shape, because the official files were not found. No number here says "
        "anything about the real data set.",
    ),
    Source.AMPLIFIED: (
        "amplified data",
        "The users of {name} were multiplied by artificial styles. The population is "
        "not one of real people.",
    ),
    Source.SYNTHETIC: ("synthetic data", ""),
}


@dataclass(frozen=True)
class Banner:
    """A sentence that must be seen; `kind` is `alarm` or `note`."""

    kind: str
    title: str
    text: str


def number(value: Any) -> str:
    """A number for people: 0.0317, 12,345, 4.36e-05; other values as they are.

    Example:
        >>> [number(v) for v in (12345, 0.031712, 4.3612e-05, True, None, math.inf)]
        ['12,345', '0.03171', '4.36e-05', 'yes', 'none', 'infinite']
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if math.isinf(value):
        return "infinite"
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.4g}"


def breakable(name: str) -> str:
    """A name that may break after a slash or an underscore (zero-width spaces)."""
    return re.sub(r"(?<=[/_])(?=.)", "\u200b", name)


def epsilon_text(value: float | None) -> str:
    """Epsilon rounded up to three digits, so that what is read is still a bound.

    Example:
        >>> epsilon_text(1.98701), epsilon_text(0.0612345), epsilon_text(None)
        ('1.99', '0.0613', 'infinite')
    """
    if value is None or math.isinf(value):
        return "infinite"
    if value <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(round(value / step, 9)) * step:.3g}"


def power_of_ten(value: float | None) -> str:
    """A small probability as people write it.

    Example:
        >>> power_of_ten(4.3216e-05), power_of_ten(1e-6), power_of_ten(0.02)
        ('4.32 · 10⁻⁵', '10⁻⁶', '0.02')
    """
    if value is None or not 0 < value <= 1e-3:
        return number(value)
    digits, exponent = f"{value:.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = f"{float(digits):g}"
    return f"10{raised}" if factor == "1" else f"{factor} · 10{raised}"


def title(content: ReportContent) -> str:
    """What the run was trained on; never a stand-in under a real name."""
    name = str(content.dataset.get("name", "unnamed data"))
    name = re.sub(r"(?<=:).*[/\\\\](?=.)", "", name)  # a file's name, not its path
    return f"Stand-in for {name}" if content.source is Source.STAND_IN else name


def ribbon(content: ReportContent) -> str:
    """What stays in sight while the page is scrolled; empty if nothing must."""
    if content.source is Source.STAND_IN:
        return f"Stand-in data, not {content.dataset.get('name', 'the data set')}"
    return ""


def metric_text(name: str, value: float | None) -> str:
    """A metric's value: a percentage if it is a share; None is not defined."""
    if value is None:
        return "not defined"
    return f"{100 * value:.1f} %" if metric(name).share else number(value)


def banners(content: ReportContent) -> list[Banner]:
    """Everything that must be seen before any number."""
    found = []
    kind, warning = SOURCES[content.source]
    if warning:
        name = content.dataset.get("name", "the data set")
        found.append(Banner("alarm", kind, warning.format(name=name)))
    if not content.private:
        text = "It was trained without noise. Nothing it released is private."
        found.append(Banner("alarm", "no differential privacy", text))
    if content.privacy.get("extrapolated"):
        text = (
            "Epsilon is that of a run over a larger population, which did not happen; "
            "see the statement."
        )
        found.append(Banner("alarm", "extrapolated", text))
    rounds = content.privacy.get("rounds")
    if isinstance(rounds, int) and content.rounds_completed < rounds:
        text = f"{content.rounds_completed:,} of {rounds:,} rounds were completed."
        found.append(Banner("note", "Unfinished", text))
    if content.noise is not None and content.noise.warns:
        text = (
            f"The noise is {content.noise.relative_noise:.2g} times the clip norm; "
            "expect little learning."
        )
        found.append(Banner("note", "Much noise", text))
    return found + [Banner("note", "Notice", text) for text in content.notices]


def privacy_price(content: ReportContent) -> str:
    """What privacy cost in the headline metric (or the first share), if it is known."""
    final = content.metrics.get("final", {})
    reference = content.metrics.get("non_private", {})
    names = [n for n in (content.headline, *final) if metric(n).share]
    pairs = [(name, final.get(name), reference.get(name)) for name in names]
    known = [(name, a, b) for name, a, b in pairs if a is not None and b]
    if not known or not content.private:
        return ""
    name, reached, possible = known[0]
    loss = 1 - reached / possible
    verdict = (
        f"{100 * loss:.1f} % lower"
        if loss > 0
        else f"{-100 * loss:.1f} % higher, not lower,"
    )
    return (
        f"{metric(name).label} is {verdict} than that of the same training without "
        f"privacy ({metric_text(name, reached)} against {metric_text(name, possible)})."
    )


def summary(content: ReportContent) -> str:
    """The run in one sentence."""
    users, classes = (content.dataset.get(k) for k in ("num_users", "num_classes"))
    parts = [f"{content.model} trained"]
    if users is not None:
        parts.append(f"on {number(users)} users")
    if classes is not None:
        name = title(content)
        where = f"a s{name[1:]}" if content.source is Source.STAND_IN else name
        parts.append(f"and {number(classes)} classes of {where}")
    parts.append(f"for {content.rounds_completed:,} rounds")
    if content.private:
        parts.append(f"with {content.unit}-level differential privacy")
    else:
        parts.append("without privacy")
    return " ".join(parts) + "."


def gauge_position(relative_noise: float) -> float:
    """Where a noise ratio stands on the gauge from 0.01 to 3, in percent."""
    low, high = math.log(0.01), math.log(3)
    place = (math.log(max(relative_noise, 1e-9)) - low) / (high - low)
    return 100 * min(max(place, 0.0), 1.0)
