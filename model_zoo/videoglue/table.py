"""One encoder on all problems, in all adaptations, with both versions of the score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedemb.errors import UserError
from model_zoo.video.encoder import VideoEncoder
from model_zoo.videoglue.adapt import Judged, Recipe, judge
from model_zoo.videoglue.problems import Problem
from model_zoo.videoglue.score import Adaptation, Group, score, stratified_average

_TUNED = (Adaptation.ADAPTER, Adaptation.END_TO_END)


@dataclass(frozen=True)
class Table:
    """What an encoder scored.

    Attributes:
        results: by adaptation, then by problem.
        groups: the kind of each problem.
        flops_unit: unit of floating-point operations in the score.
        parameters_unit: unit of parameters in the score.
    """

    results: dict[Adaptation, dict[str, Judged]]
    groups: dict[str, Group]
    flops_unit: float = 1e9
    parameters_unit: float = 1e5

    def averages(self) -> dict[Adaptation, float]:
        """Stratified average of each adaptation, in percent."""
        return {
            adaptation: stratified_average(
                {name: judged.score for name, judged in row.items()}, self.groups
            )
            for adaptation, row in self.results.items()
        }

    def first_score(self) -> float:
        """The first version's score, by trainable floating-point operations."""
        return score(
            self.averages(), self._units_of("trainable_flops", self.flops_unit)
        )

    def third_score(self) -> float:
        """The third version's, by trained parameters and inference operations."""
        return score(
            self.averages(),
            self._units_of("parameters", self.parameters_unit),
            self._units_of("inference_flops", self.flops_unit),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "videoglue_score_v1": self.first_score(),
            "videoglue_score_v3": self.third_score(),
            "averages": {a.value: value for a, value in self.averages().items()},
            "groups": {name: group.value for name, group in self.groups.items()},
            "units": {"flops": self.flops_unit, "parameters": self.parameters_unit},
            "results": {
                adaptation.value: {
                    name: {"score": judged.defined} | vars(judged.costs)
                    for name, judged in row.items()
                }
                for adaptation, row in self.results.items()
            },
        }

    def costs(self, kind: str) -> dict[Adaptation, float]:
        """Mean over the classification problems, which every adaptation has.

        Args:
            kind: a field of `Costs`.
        """
        found = {}
        for adaptation, row in self.results.items():
            values = [
                getattr(judged.costs, kind)
                for name, judged in row.items()
                if self.groups[name]
                in (Group.APPEARANCE, Group.MOTION, Group.MULTI_LABEL)
            ]
            found[adaptation] = sum(values) / max(len(values), 1)
        return found

    def _units_of(self, kind: str, unit: float) -> dict[Adaptation, float]:
        return {name: cost / unit for name, cost in self.costs(kind).items()}


def in_common_units(tables: Sequence[Table]) -> list[Table]:
    """The same tables, scored in the largest units that suit all of them.

    Scores of different units are not comparable; these are.
    """
    return [
        replace(
            table,
            flops_unit=min(other.flops_unit for other in tables),
            parameters_unit=min(other.parameters_unit for other in tables),
        )
        for table in tables
    ]


def judge_all(
    encoder: VideoEncoder,
    problems: Sequence[Problem],
    recipe: Recipe,
    adaptations: Sequence[Adaptation] = tuple(Adaptation),
    told: Callable[[str, str, float], None] = lambda *_: None,
) -> Table:
    """Judge an encoder; units are the largest powers of ten below its cheapest costs.

    The published units (GFLOPs and 10^5 parameters) serve encoders of the published
    size; a score of smaller ones is comparable only among those of the same units.

    Args:
        encoder: to judge; stays as it is.
        problems: what it is asked; one of classification, at least.
        recipe: how it is adapted.
        adaptations: in which ways.
        told: hears adaptation, problem and score as they come.

    Raises:
        UserError: no classification problem, whose costs the score needs.
    """
    classification = (Group.APPEARANCE, Group.MOTION, Group.MULTI_LABEL)
    if not any(problem.group in classification for problem in problems):
        raise UserError(
            "the VideoGLUE score needs a classification problem: its costs are counted "
            "there."
        )
    results: dict[Adaptation, dict[str, Judged]] = {}
    for adaptation in adaptations:
        row = results.setdefault(adaptation, {})
        for problem in problems:
            if adaptation in _TUNED and problem.group is Group.TEMPORAL:
                continue
            row[problem.name] = judge(encoder, problem, adaptation, recipe)
            told(adaptation.value, problem.name, row[problem.name].score)
    groups = {problem.name: problem.group for problem in problems}
    table = Table(results, groups)
    costs = [judged.costs for row in results.values() for judged in row.values()]
    return Table(
        results,
        groups,
        _unit(table.flops_unit, min(cost.trainable_flops for cost in costs)),
        _unit(table.parameters_unit, min(cost.parameters for cost in costs)),
    )


def _unit(published: float, smallest: float) -> float:
    """The published unit, or the largest smaller power of ten that costs exceed."""
    unit = published
    while unit >= smallest and unit > 1:
        unit /= 10
    return unit
