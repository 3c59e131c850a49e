"""Writes `report.html`: one file, no scripts, nothing fetched from anywhere."""

from contextlib import suppress
from pathlib import Path

from markupsafe import Markup

from fedemb.errors import UserError
from simulations.report import tables, wording
from simulations.report.content import ReportContent
from simulations.report.pictures import Pictures, render_pictures


def write_report(folder: Path, content: ReportContent) -> Path:
    """Writes `folder/report.html`, whole or not at all; returns its path.

    The page needs no network, no script and no other file, and follows the reader's
    light or dark mode. Every name that a user or a data set chose is escaped.

    Raises:
        UserError: if the folder cannot be written.
    """
    path = folder / "report.html"
    temporary = path.with_suffix(".html.tmp")
    page = render(content)
    try:
        temporary.write_text(page, encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{path} cannot be written: {error.strerror}; make room or write access, "
            f"then run: fedemb report {folder}"
        ) from error
    return path


def render(content: ReportContent) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("simulations.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=wording.number, breakable=wording.breakable, svg=Markup
    )
    pictures = render_pictures(content)
    return environment.get_template("report.html").render(
        content=content,
        dataset={"description": "", "licence": ""} | dict(content.dataset),
        privacy=dict.fromkeys(("target_epsilon", "adjacency")) | dict(content.privacy),
        reference=bool(content.metrics.get("non_private")),
        title=wording.title(content),
        ribbon=wording.ribbon(content),
        delta=wording.power_of_ten(content.privacy.get("delta")),
        badge=wording.SOURCES[content.source][0],
        summary=wording.summary(content),
        banners=wording.banners(content),
        metrics=tables.metric_rows(content),
        price=wording.privacy_price(content),
        epsilon=wording.epsilon_text(content.privacy.get("epsilon")),
        epsilons=[
            (name, wording.epsilon_text(content.privacy[key]))
            for name, key in (("PLD", "epsilon_pld"), ("RDP", "epsilon_rdp"))
            if content.privacy.get(key) is not None
        ],
        disclosures=tables.disclosures(content),
        stages=tables.stage_rows(content),
        performance=tables.facts(content.performance),
        environment=tables.facts(content.environment),
        diagnostics=tables.facts(content.diagnostics),
        headline=tables.headline(content),
        gauge_position=wording.gauge_position,
        pictures=pictures,
        noun=content.gallery.noun if content.gallery else "example",
        found={when: _found(pictures, when) for when in ("before", "after")},
    )


def _found(pictures: Pictures, when: str) -> str:
    """`31 of 40`: right neighbours among those shown."""
    shown = [p for row in pictures.neighbours for p in getattr(row, when)]
    return f"{sum(p.correct for p in shown)} of {len(shown)}"
