"""Rows of the table of mechanisms: means, the range of the seeds, and a verdict."""

import math
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.switches import Move, Switch

Metrics = Mapping[str, float]

COLUMNS = (
    *("system", "switched off", "metric", "seeds", "as it is", "without"),
    *("difference", "the paper says", "as it says"),
)


def rows(switch: Switch, runs: Sequence[tuple[Metrics, Metrics]]) -> Iterator[str]:
    """A row for each metric of a switch; none without runs.

    Args:
        switch: what was switched off.
        runs: metrics as the system is and without the mechanism, a pair of every seed.
    """
    for metric in switch.metrics if runs else ():
        usual, without = zip(
            *((before[metric], after[metric]) for before, after in runs), strict=True
        )
        yield row(switch, metric, usual, without)


def row(
    switch: Switch, metric: str, usual: Sequence[float], without: Sequence[float]
) -> str:
    """A row of the table: means, and the mean and the range of the differences.

    What the paper says stands in the first row of a switch alone.

    Args:
        switch: what was switched off.
        metric: one of the switch's.
        usual: its value as the system is, of every seed.
        without: its value without the mechanism, of the same seeds.

    Example:
        >>> switch = Switch(
        ...     system="cv_mim",
        ...     change="sizes.view_weight=0",
        ...     off="no view",
        ...     metrics=("roc_auc",),
        ...     moves=("falls",),
        ... )
        >>> row(switch, "roc_auc", [0.8, 0.9], [0.7, 0.6])  # doctest: +ELLIPSIS
        '| `cv_mim` | no view (`sizes.view_weight=0`) | `roc_auc` | 2 | 0.850 | 0...'
    """
    gone = [after - before for before, after in zip(usual, without, strict=True)]
    places = 4 if max(abs(value) for value in (*usual, *without)) < 0.1 else 3
    cells = (
        f"`{switch.system}`",
        f"{switch.off} (`{switch.change}`{switch.together})",
        f"`{metric}`",
        str(len(gone)),
        f"{mean(usual):.{places}f}",
        f"{mean(without):.{places}f}",
        spread(gone, places),
        switch.says if metric == switch.metrics[0] else "",
        verdict(switch.move(metric), gone),
    )
    return "| " + " ".join(f"{cell} |" if cell else "|" for cell in cells)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread(differences: Sequence[float], places: int = 3) -> str:
    """The mean difference, and the least and the greatest of several.

    Args:
        differences: of every seed.
        places: after the point.

    Example:
        >>> spread([-0.1, 0.02])
        '-0.040 (-0.100 to +0.020)'
        >>> spread([0.5])
        '+0.500'
    """
    middle, least, most = (
        f"{value:+.{places}f}"
        for value in (mean(differences), min(differences), max(differences))
    )
    return middle if len(differences) == 1 else f"{middle} ({least} to {most})"


def verdict(expected: Move, differences: Sequence[float]) -> str:
    """Whether a metric moved without a mechanism as the paper says.

    `yes` and `no` need the same sign with every seed, and more than one seed. Where the
    paper says that nothing changes, signs that differ are what it says.

    Example:
        >>> verdict("falls", [-0.1, -0.2]), verdict("falls", [0.1, 0.2])
        ('yes', 'no')
        >>> verdict("falls", [-0.1, 0.2]), verdict("stays", [-0.1, 0.2])
        ('seeds differ', 'yes')
        >>> verdict("falls", [-0.1]), verdict("", [-0.1])
        ('yes, one seed', '')
    """
    if not expected:
        return ""
    if any(math.isnan(difference) for difference in differences):
        return "not defined"
    if expected == "stays":
        if len(differences) == 1:
            return "one seed cannot tell"
        return "yes" if min(differences) <= 0 <= max(differences) else "no"
    signed = [d if expected == "rises" else -d for d in differences]
    if min(signed) > 0:
        found = "yes"
    elif max(signed) <= 0:
        found = "no"
    else:
        return "seeds differ"
    return found if len(differences) > 1 else f"{found}, one seed"
