"""The VideoGLUE score: accuracy of four adaptations, weighted by what each costs.

Yuan et al. (2024), arXiv:2307.03166, equation 3; the first version, with one cost, is
that of Zhao et al. (2024), VideoPrism, arXiv:2402.13217. Plain numbers in and out.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from statistics import fmean

from fedemb.errors import UserError


class Group(StrEnum):
    """What kinds of understanding the data sets ask for."""

    APPEARANCE = "VC-A"
    MOTION = "VC-M"
    MULTI_LABEL = "VC-ML"
    TEMPORAL = "TAL"
    SPATIO_TEMPORAL = "STAL"


class Adaptation(StrEnum):
    """How an encoder is adapted to a task."""

    FROZEN = "frozen"
    MLAP = "mlap"
    ADAPTER = "adapter"
    END_TO_END = "end_to_end"


DATASETS: Mapping[str, Group] = {
    "kinetics400": Group.APPEARANCE,
    "moments_in_time": Group.APPEARANCE,
    "something_something_v2": Group.MOTION,
    "diving48": Group.MOTION,
    "charades": Group.MULTI_LABEL,
    "activitynet": Group.TEMPORAL,
    "ava": Group.SPATIO_TEMPORAL,
    "ava_kinetics": Group.SPATIO_TEMPORAL,
}
"""The eight data sets, in the order of the published tables."""


def stratified_average(
    results: Mapping[str, float], groups: Mapping[str, Group] = DATASETS
) -> float:
    """Mean over groups of the mean over each group's data sets.

    A group without a result is left out, not counted as zero: temporal localisation
    has none where encoders are tuned. A result that is not defined (NaN) is none.

    Raises:
        UserError: no result at all, or one of an unknown data set.

    Example:
        >>> stratified_average({"kinetics400": 80.0, "moments_in_time": 40.0,
        ...                     "charades": 50.0})
        55.0
    """
    unknown = [name for name in results if name not in groups]
    results = {name: v for name, v in results.items() if not math.isnan(v)}
    if unknown or not results:
        raise UserError(
            f"results of {', '.join(unknown) or 'no data set'} cannot be averaged "
            "(what has no truth to find has no result); give results of "
            f"{', '.join(groups)}."
        )
    found: dict[Group, list[float]] = {}
    for name, value in results.items():
        found.setdefault(groups[name], []).append(value)
    return fmean(fmean(values) for values in found.values())


def weights(costs: Mapping[Adaptation, float]) -> dict[Adaptation, float]:
    """The weight of each adaptation: 1 / log10 of its cost, normalised.

    Args:
        costs: of each adaptation, in any one unit.

    Raises:
        UserError: a cost of 1 or less, whose logarithm gives no weight.

    Example:
        >>> gigaflops = {Adaptation.FROZEN: 3.72, Adaptation.MLAP: 14.9,
        ...              Adaptation.ADAPTER: 6.44, Adaptation.END_TO_END: 367.0}
        >>> [round(w, 4) for w in weights(gigaflops).values()]
        [0.4142, 0.2014, 0.2922, 0.0922]
    """
    for name, cost in costs.items():
        if not 1 < cost < math.inf:
            raise UserError(
                f"cost={cost} of {name} must be more than 1: its logarithm is the "
                "weight. Choose a smaller unit for all costs."
            )
    raw = {name: 1 / math.log10(cost) for name, cost in costs.items()}
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}


def score(
    averages: Mapping[Adaptation, float], *costs: Mapping[Adaptation, float]
) -> float:
    """The score of one encoder: the mean over kinds of cost of the weighted averages.

    The first version has one kind of cost, trainable floating-point operations in
    GFLOPs. The third has two: trainable parameters (in units of 10^5, inferred from the
    published scores) and inference GFLOPs.

    Args:
        averages: stratified average of each adaptation.
        costs: for each kind, the cost of each adaptation.

    Raises:
        UserError: no cost, or costs of other adaptations than the averages.

    Example:
        >>> averages = {Adaptation.FROZEN: 30.0, Adaptation.END_TO_END: 50.0}
        >>> score(averages, {Adaptation.FROZEN: 10.0, Adaptation.END_TO_END: 100.0})
        36.666666666666664
    """
    if not costs or any(set(kind) != set(averages) for kind in costs):
        raise UserError(
            "every kind of cost must name the adaptations of the averages: "
            f"{', '.join(averages)}."
        )
    return fmean(
        sum(weight * averages[name] for name, weight in weights(kind).items())
        for kind in costs
    )
