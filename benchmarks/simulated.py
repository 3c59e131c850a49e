"""One run of `fedemb simulate` in a process and a folder of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
