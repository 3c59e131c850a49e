"""One run of `fedemb simulate` in a process and a folder of its own."""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def report_of(system: str, options: Sequence[str]) -> dict[str, Any]:
    """What `report.json` says of a run of a system, whose folder is then gone.

    Args:
        system: NAME or NAME:CONFIGURATION.
        options: of the command line, such as `["--users", "1000"]`.

    Raises:
        SystemExit: the run failed, and has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "fedemb", "simulate", "--model", system),
            *("--json", "--out", str(out), *options),
        ]
        finished = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        if finished.returncode:
            raise SystemExit(finished.returncode)
        report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def metrics_of(report: Mapping[str, Any], when: str) -> dict[str, float]:
    """Metrics `initial`, `final` or `non_private`; `null` is NaN, not defined.

    Example:
        >>> metrics_of({"metrics": {"final": {"pq": 0.5, "ap": None}}}, "final")
        {'pq': 0.5, 'ap': nan}
    """
    found: Mapping[str, float | None] = report["metrics"][when]
    return {name: math.nan if value is None else value for name, value in found.items()}
