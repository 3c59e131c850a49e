"""The command line, run as a person would run it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# Small enough for a second or two of training.
SMALL = [
    *("--dataset", "synthetic", "--users", "3000", "--users-per-round", "60"),
    *("--model", "small_cnn:tiny", "--engine", "shared"),
]


@dataclass(frozen=True)
class CommandLine:
    """Runs `fedemb` in a folder of its own."""

    folder: Path

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "fedemb", *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # As from a terminal, even where the tests themselves run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def json(self, *arguments: object) -> dict[str, Any]:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        content: dict[str, Any] = json.loads(out)
        return content


Said = tuple[int, str, str]


@pytest.fixture
def here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """Runs `fedemb` in this process: exit code, standard output, standard error."""
    from fedemb.cli.main import main

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["fedemb", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def fedemb(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)
