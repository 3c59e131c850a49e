"""`fedemb plan`: what population, cohort and noise reach a target epsilon."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedemb.cli.accounts import AsJson, Delta, PerClient, PerRound, Population, Rounds

_POPULATIONS = (1, 10, 100, 1000)
_SCALES = (1, 2, 5, 10, 20, 50, 100)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("plan")(plan)


def plan(
    population: Population,
    users_per_round: PerRound,
    rounds: Rounds,
    noise_multiplier: Annotated[
        float, typer.Option(help="Noise that the model is known to tolerate.")
    ],
    epsilon: Annotated[float, typer.Option(help="Target.")] = 2.0,
    delta: Delta = None,
    users_per_virtual_client: PerClient = 1,
    picture: Annotated[
        Path | None, typer.Option(help="Draw epsilon over the scale: .svg or .png.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Which population, cohort and noise reach epsilon at the same noise on the mean.

    Example: fedemb plan --population 10000 --users-per-round 256 --rounds 200
    --noise-multiplier 0.6 --epsilon 2
    """
    from accounting import (
        SampledGaussian,
        Sampler,
        compare_users_per_virtual_client,
        extrapolate,
    )
    from accounting.planning import ASSUMPTION, advice_on_users_per_client
    from fedemb.errors import UserError

    if picture is not None and picture.exists():
        raise UserError(f"{picture} already exists; nothing is overwritten.")
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise UserError(f"picture={picture} must end in .svg or .png.")
    try:
        today = SampledGaussian(
            sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
            population=population,
            users_per_round=users_per_round,
            noise_multiplier=noise_multiplier,
            users_per_virtual_client=users_per_virtual_client,
        )
        rows = extrapolate(
            today,
            rounds=rounds,
            populations=[population * k for k in _POPULATIONS],
            scales=list(_SCALES),
            delta=delta,
            target_epsilon=epsilon,
        )
        choices = sorted({1, 2, 4, 8, users_per_virtual_client})
        grouped = compare_users_per_virtual_client(
            today, rounds=rounds, choices=[u for u in choices if u <= users_per_round]
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    content = {
        "target_epsilon": epsilon,
        "assumption": ASSUMPTION,
        "plans": [row.to_dict() for row in rows],
        "users_per_virtual_client": [row.to_dict() for row in grouped],
        "advice": advice_on_users_per_client(grouped),
    }
    if picture is not None:
        _draw(content["plans"], epsilon, picture)
    if json_:
        print(json.dumps(content, indent=2, allow_nan=False))
        return
    _table("same noise on the mean", content["plans"])
    _table("users per virtual client", content["users_per_virtual_client"])
    print(content["advice"])
    print(ASSUMPTION)


def _table(title: str, rows: Any) -> None:
    """Rows of one shape, aligned."""
    print(title)
    names = list(rows[0])
    cells = [names] + [[_shown(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  " + "  ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)))


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _draw(rows: Any, target: float, picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for size in dict.fromkeys(row["population"] for row in rows):
        own = [r for r in rows if r["population"] == size and r["epsilon"]]
        axes.plot(
            [r["users_per_round"] for r in own],
            [r["epsilon"] for r in own],
            marker="o",
            label=f"{size:,} users",
        )
    axes.axhline(target, linestyle=":", color="grey", label=f"target {target:g}")
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="users per round (noise grows with it)", ylabel="epsilon")
    axes.legend()
    figure.savefig(picture, bbox_inches="tight", dpi=150)
    pyplot.close(figure)
