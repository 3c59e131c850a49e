"""The tables of a report: numbers as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulations.report.content import ReportContent
from simulations.report.metric_names import metric
from simulations.report.wording import (
    epsilon_text,
    metric_text,
    number,
)


@dataclass(frozen=True)
class MetricRow:
    """One metric of the run, as text; `gauge` values are None unless it is a share."""

    label: str
    meaning: str
    initial: str
    final: str
    non_private: str
    change: str
    better: bool
    share_initial: float | None
    share_final: float | None
    share_non_private: float | None


@dataclass(frozen=True)
class Disclosure:
    """A group of shown numbers and what protects the users behind them."""

    kind: str
    protection: str
    shown: list[str]


def metric_rows(content: ReportContent) -> list[MetricRow]:
    """The metrics of the run, initial to final, beside the non-private ones."""
    return [_metric_row(content, name) for name in content.metric_names]


def _metric_row(content: ReportContent, name: str) -> MetricRow:
    initial, final, open_value = (
        content.metrics.get(which, {}).get(name)
        for which in ("initial", "final", "non_private")
    )
    known = metric(name)
    share = known.share
    gain = None if initial is None or final is None else final - initial
    if gain is None:
        change = ""
    elif share:
        change = f"{100 * gain:+.1f} points"
    else:
        change = f"{gain:+.3g}"
    return MetricRow(
        label=known.label,
        meaning=known.meaning,
        initial=_shown(content, "initial", name),
        final=_shown(content, "final", name),
        non_private=_shown(content, "non_private", name),
        change=change,
        better=gain is not None
        and ((share and gain > 0) or (known.lower and gain < 0)),
        share_initial=initial if share else None,
        share_final=final if share else None,
        share_non_private=open_value if share else None,
    )


def _shown(content: ReportContent, which: str, name: str) -> str:
    """A metric as text; empty if it was not measured."""
    values = content.metrics.get(which, {})
    return metric_text(name, values[name]) if name in values else ""


def headline(content: ReportContent) -> list[tuple[str, str]]:
    """The privacy settings in short, for those that are known."""
    known = dict(content.privacy) | {"num_users": content.dataset.get("num_users")}
    names = {
        "num_users": "users",
        "population": "population of the claim",
        "users_per_round": "users a round",
        "users_per_virtual_client": "users per virtual client",
        "sampler": "sampling",
        "noise_multiplier": "noise multiplier",
    }
    if known.get("population") == known["num_users"]:
        del names["population"]
    if isinstance(known.get("sampler"), str):
        known["sampler"] = known["sampler"].replace("-", " ")
    rows = [(names[k], number(known[k])) for k in names if known.get(k) is not None]
    if known.get("epsilon_spent") is not None:
        rows.append(("epsilon in the ledger", epsilon_text(known["epsilon_spent"])))
    if content.noise is not None:
        trained = number(content.noise.trained_parameters)
        rows.append(("trained parameters", trained))
    return rows


def stage_rows(content: ReportContent) -> list[tuple[str, str]]:
    """(name, what it did) of each stage, where there are several.

    Metrics that a stage does not train, as those of a frozen half, stay as they are
    while it lasts; whoever reads the curves must know when that was.
    """
    rows, end = [], 0
    for stage in content.stages if len(content.stages) > 1 else ():
        first = end + 1
        end = min(end + int(stage["rounds"]), content.rounds_completed)
        when = f"round {first}" if first == end else f"rounds {first} to {end}"
        what = stage["trainable"].replace(",", ", ")
        rate = number(stage["learning_rate"])
        done = f"{when}: trained {what} at a server rate of {rate}"
        rows.append((stage["name"], done if first <= end else "no round"))
    return rows


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) for a table; nested values are left to `report.json`."""
    return [
        (name.replace("_", " "), number(value))
        for name, value in values.items()
        if value is not None and not isinstance(value, Mapping | list | tuple)
    ]


def disclosures(content: ReportContent) -> list[Disclosure]:
    """Which shown numbers are private releases, and which are not."""
    private = ["epsilon, delta and every setting of the privacy statement"]
    metrics = ", ".join(row.label for row in metric_rows(content))
    held_out = [f"{metrics}: before, during and after training"] if metrics else []
    exposed = [name.replace("_", " ") for name in content.diagnostics]
    if content.series("update_norm")[0]:
        private.append("norm of the averaged update, taken after the noise was added")
    if content.gallery is not None:
        held_out.append("nearest neighbours and maps, with the held-out examples shown")
    if content.metrics.get("non_private"):
        exposed.insert(0, "every value of the run without privacy")
    if content.performance:
        exposed.append("time, throughput and memory, which depend on who was drawn")
    epsilon = f"epsilon {epsilon_text(content.privacy.get('epsilon'))}"
    released = "Released by the private mechanism" if content.private else "Released"
    guarantee = f"covered by {epsilon}" if content.private else "not private: no noise"
    groups = [
        Disclosure(released, guarantee, private),
        Disclosure(
            "Computed on public held-out data",
            f"users trained on: {guarantee}; the held-out examples themselves are "
            "treated as public and are not protected",
            held_out,
        ),
        Disclosure(
            "Non-private diagnostics", "not protected; for the operator", exposed
        ),
    ]
    return [group for group in groups if group.shown]
