"""What was judged, side by side: a table for programs and one for people."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_zoo.videoglue.score import Adaptation
from model_zoo.videoglue.table import Table
from simulations.judging.contestants import Contestant

COSTS = ("parameters", "aggregated", "trainable_flops", "inference_flops")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A contestant and what it scored, in units that all share."""

    contestant: Contestant
    table: Table

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "encoder": self.contestant.name,
            "weights": self.contestant.weights,
            "epsilon": self.contestant.epsilon,
            "public": list(self.contestant.public),
        } | self.table.to_dict()


def as_csv(judgements: Sequence[Judgement]) -> str:
    """A row for every encoder and adaptation.

    Columns: encoder, weights, epsilon (empty without a promise), adaptation, every
    problem and their stratified average in percent (empty where an encoder is not
    tuned, or nothing is there to be found), mean costs of the classification problems,
    and both scores of the encoder.
    """
    problems = list(judgements[0].table.groups)
    scores = ("videoglue_score_v1", "videoglue_score_v3")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["encoder", "weights", "epsilon", "adaptation", *problems, "average"]
        + [*COSTS, *scores]
    )
    for judged in judgements:
        one, table = judged.contestant, judged.table
        costs = {kind: table.costs(kind) for kind in COSTS}
        averages = table.averages()
        for adaptation, row in table.results.items():
            cells = [row[name].defined if name in row else None for name in problems]
            writer.writerow(
                [one.name, one.weights, "" if one.epsilon is None else one.epsilon]
                + [adaptation.value, *cells, averages[adaptation]]
                + [costs[kind][adaptation] for kind in COSTS]
                + [table.first_score(), table.third_score()]
            )
    return buffer.getvalue()


def as_markdown(
    judgements: Sequence[Judgement],
    source: str,
    left_out: Mapping[str, str],
    picture: str,
) -> str:
    """A page with a summary, a table per adaptation, and what to know about them."""
    table = judgements[0].table
    lines = ["# VideoGLUE", "", f"Problems: {source}.", "", f"![scores]({picture})", ""]
    adaptations = list(table.results)
    heads = ["encoder", "weights", "score v1", "score v3"]
    rows = []
    for judged in judgements:
        averages = judged.table.averages()
        rows.append(
            [
                *_named(judged),
                f"{judged.table.first_score():.2f}",
                f"{judged.table.third_score():.2f}",
                *(f"{averages[name]:.1f}" for name in adaptations),
            ]
        )
    lines += _table([*heads, *(said_of(name) for name in adaptations)], rows)
    lines += [
        "",
        "Averages of each adaptation, in percent, and the score that weighs them by "
        f"cost, in units of {table.flops_unit:.0e} operations and "
        f"{table.parameters_unit:.0e} parameters; scores of other units, and of other "
        "problems, are not comparable with these.",
    ]
    for name in adaptations:
        lines += ["", f"## {said_of(name)}", ""]
        asked = [p for p in table.groups if p in table.results[name]]
        rows = [
            [
                judged.contestant.name,
                *(_percent(judged.table.results[name][p].defined) for p in asked),
                f"{judged.table.averages()[name]:.1f}",
                f"{judged.table.costs('parameters')[name]:,.0f}",
                f"{judged.table.costs('aggregated')[name]:,.0f}",
            ]
            for judged in judgements
        ]
        last = ["average", "trained parameters", "of the encoder"]
        lines += _table(["encoder", *asked, *last], rows)
    public = {text: None for j in judgements for text in j.contestant.public}
    notes = [f"`{name}` is left out: {reason}" for name, reason in left_out.items()]
    notes += [f"Public start: {text}." for text in public]
    if sum(judged.contestant.epsilon is not None for judged in judgements) > 1:
        notes.append(
            "Runs on the same users spend together: whoever publishes all of them has "
            "spent the sum, which their ledgers tell."
        )
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _percent(score: float | None) -> str:
    return "not defined" if score is None else f"{score:.1f}"


def said_of(adaptation: Adaptation) -> str:
    """Its name in a sentence."""
    return adaptation.value.replace("_", " ").replace("mlap", "multi-layer pooling")


def _named(judged: Judgement) -> list[str]:
    return [judged.contestant.name, judged.contestant.weights]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    texts = 2 if heads[1] == "weights" else 1
    rule = ["---"] * texts + ["---:"] * (len(heads) - texts)
    return [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in (heads, rule, *rows)
    ]
