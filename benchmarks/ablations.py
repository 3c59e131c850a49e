"""What each mechanism brings: systems of the zoo without one of them, in one table.

    python -m benchmarks.ablations cv_mim g_vilm --seeds 0 1

Every system is trained by `fedemb simulate`, without noise, on its default generated
data: as it is and once for each of its switches (`benchmarks/switches.py`). Runs are
much shorter than the recipes, so that each takes about a minute of one core. Seeds make
other data and other starts; a difference whose sign changes with the seed is noise.

With `--kept FOLDER` no run is made twice, so that an interrupted table goes on where it
was. `--print` makes none at all and prints what is kept, with the seeds that there are.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablation_table import COLUMNS, Metrics, rows
from benchmarks.arguments import whole
from benchmarks.simulated import metrics_of, report_of
from benchmarks.switches import OPTIONS, SHARED, SWITCHES, Switch


def heading(systems: Sequence[str], rounds: int | None) -> str:
    """How the runs were made, in a line for each system.

    Example:
        >>> print(heading(["cv_mim"], None))
        --users 20000 --noise-multiplier 0 --set run.evaluate_every=0
        cv_mim: --rounds 160 --users-per-round 64
    """
    common = len(SHARED)
    lines = [" ".join(SHARED)]
    lines += [
        f"{name}: {' '.join(options_of(name, rounds)[common:])}" for name in systems
    ]
    return "\n".join(lines)


def options_of(system: str, rounds: int | None) -> list[str]:
    """Of the command line, for runs of a system; a later `--rounds` counts."""
    shorter = [] if rounds is None else ["--rounds", str(rounds)]
    return [*SHARED, *OPTIONS[system], *shorter]


@dataclass(frozen=True)
class Runs:
    """Runs of systems, none made twice.

    Attributes:
        kept: folder of reports, all of one version of the code: a report is told by the
            options of its run.
        made: whether runs that are not kept are made; otherwise they are not there.
        rounds: of all systems; None leaves each its own.
    """

    kept: Path
    made: bool = True
    rounds: int | None = None

    def pairs(
        self, switch: Switch, seeds: Iterable[int]
    ) -> list[tuple[Metrics, Metrics]]:
        """Final metrics as the system is, and without; of the seeds that have both."""
        usual = [*options_of(switch.system, self.rounds), *switch.options]
        change = ["--set", f"model.changes.{switch.change}"]
        found = []
        for seed in seeds:
            both = [
                self.metrics_of(switch.system, [*options, "--seed", str(seed)])
                for options in (usual, [*usual, *change])
            ]
            if both[0] is not None and both[1] is not None:
                found.append((both[0], both[1]))
        return found

    def metrics_of(self, system: str, options: Sequence[str]) -> Metrics | None:
        """Final metrics of a run; None if it is neither kept nor to be made."""
        words = json.dumps([system, *options])
        digest = hashlib.sha256(words.encode()).hexdigest()[:16]
        file = self.kept / f"{system}-{digest}.json"
        if file.exists():
            return metrics_of(json.loads(file.read_text())["report"], "final")
        if not self.made:
            return None
        report = report_of(system, options)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"run": words, "report": report}))
        return metrics_of(report, "final")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", default=list(OPTIONS))
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=whole(1), help="other than the systems' own")
    parser.add_argument(
        "--kept", type=Path, help="folder of reports; no run is made twice"
    )
    parser.add_argument(
        "--print", action="store_true", help="make no run; print what is kept"
    )
    chosen = parser.parse_args()
    for name in chosen.systems:
        if name not in OPTIONS:
            parser.error(
                f"{name} has no switches here; there are {', '.join(OPTIONS)}."
            )
    if chosen.print and chosen.kept is None:
        parser.error("--print needs --kept: it prints what is kept there.")
    print(heading(chosen.systems, chosen.rounds), end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(chosen.kept or Path(folder), not chosen.print, chosen.rounds)
        for switch in SWITCHES:
            if switch.system in chosen.systems:
                for line in rows(switch, runs.pairs(switch, chosen.seeds)):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
