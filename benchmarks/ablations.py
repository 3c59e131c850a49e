"""What each mechanism brings: systems of the zoo without one of them, in one table.

    python -m benchmarks.ablations cv_mim g_vilm --seeds 0 1

Every system is trained by `fedemb simulate`, without noise, on its default generated
data: as it is and once for each of its switches (`benchmarks/switches.py`). Runs are
much shorter than the recipes, so that each takes about a minute of one core. Seeds make
other data and other starts; a difference whose sign changes with the seed is noise.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.simulated import report_of
from benchmarks.switches import OPTIONS, SHARED, SWITCHES, Switch

COLUMNS = (
    *("system", "switched off", "metric", "as it is", "without", "difference"),
    "the paper says",
)


def row(
    switch: Switch, metric: str, usual: Sequence[float], without: Sequence[float]
) -> str:
    """A row of the table: means, and the difference of every seed.

    What the paper says stands in the first row of a switch alone.

    Example:
        >>> switch = Switch(
        ...     system="cv_mim",
        ...     change="sizes.view_weight=0",
        ...     off="no view",
        ...     metrics=("roc_auc",),
        ... )
        >>> row(switch, "roc_auc", [0.8, 0.9], [0.7, 0.6])  # doctest: +ELLIPSIS
        '| `cv_mim` | no view (`sizes.view_weight=0`) | `roc_auc` | 0.850 | 0.650 | ...'
    """
    gone = [after - before for before, after in zip(usual, without, strict=True)]
    cells = (
        f"`{switch.system}`",
        f"{switch.off} (`{switch.change}`)",
        f"`{metric}`",
        f"{sum(usual) / len(usual):.3f}",
        f"{sum(without) / len(without):.3f}",
        ", ".join(f"{difference:+.3f}" for difference in gone),
    )
    says = switch.says if metric == switch.metrics[0] else ""
    return f"| {' | '.join(cells)} | {says} |".replace("|  |", "| |")


def heading(systems: Sequence[str], seeds: Sequence[int], rounds: int | None) -> str:
    """How the runs were made, in a sentence for each system.

    Example:
        >>> print(heading(["cv_mim"], [0, 1], None))
        Seeds 0, 1; --users 20000 --noise-multiplier 0 --set run.evaluate_every=0
        cv_mim: --rounds 40 --users-per-round 256
    """
    common = len(SHARED)
    lines = [f"Seeds {', '.join(map(str, seeds))}; {' '.join(SHARED)}"]
    lines += [
        f"{name}: {' '.join(options_of(name, rounds)[common:])}" for name in systems
    ]
    return "\n".join(lines)


def options_of(system: str, rounds: int | None) -> list[str]:
    """Of the command line, for runs of a system; a later `--rounds` counts."""
    shorter = [] if rounds is None else ["--rounds", str(rounds)]
    return [*SHARED, *OPTIONS[system], *shorter]


def metrics_of(
    system: str, options: Sequence[str], kept: Path | None
) -> Mapping[str, float]:
    """Final metrics of a run; one that is kept is not made again."""
    words = json.dumps([system, *options])
    file = None
    if kept is not None:
        file = kept / f"{system}-{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"
        if file.exists():
            return _final(json.loads(file.read_text())["report"])
    report = report_of(system, options)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"run": words, "report": report}))
    return _final(report)


def _final(report: Mapping[str, Any]) -> Mapping[str, float]:
    final: Mapping[str, float] = report["metrics"]["final"]
    return final


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", default=list(OPTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, help="other than the systems' own")
    parser.add_argument(
        "--kept", type=Path, help="folder of reports; no run is made twice"
    )
    chosen = parser.parse_args()
    for name in chosen.systems:
        if name not in OPTIONS:
            parser.error(
                f"{name} has no switches here; there are {', '.join(OPTIONS)}."
            )

    def measured(system: str, *more: str) -> list[Mapping[str, float]]:
        options = [*options_of(system, chosen.rounds), *more]
        return [
            metrics_of(system, [*options, "--seed", str(seed)], chosen.kept)
            for seed in chosen.seeds
        ]

    print(heading(chosen.systems, chosen.seeds, chosen.rounds), end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for system in chosen.systems:
        usual = measured(system)
        for switch in SWITCHES:
            if switch.system == system:
                without = measured(system, "--set", f"model.changes.{switch.change}")
                for metric in switch.metrics:
                    pairs = [
                        [found[metric] for found in runs] for runs in (usual, without)
                    ]
                    print(row(switch, metric, *pairs), flush=True)


if __name__ == "__main__":
    main()
