"""The folder of a run: what lies where, and how nothing in it is ever lost.

| file | what |
|---|---|
| `config.toml` | the resolved configuration |
| `NAME.py` | a copy of the file that the system is in, if it is in one of one's own |
| `privacy_statement.json`, `.txt` | the promise |
| `report.json`, `report.html` | results |
| `metrics.csv` | a row per evaluation |
| `ledger.sqlite` | what was spent, unless a shared ledger was given |
| `backbone.safetensors` | the trained backbone, the statement in its metadata |
| `checkpoints/` | states to resume from; until it is done, its key and users' heads |
| `environment.json` | versions and machine |
"""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fedemb.checkpoint import write_atomically
from fedemb.cores import usable_cores
from fedemb.errors import UserError
from fedemb.randomness import RootKey


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path

    @staticmethod
    def create(path: Path) -> "RunFolder":
        """A new run folder.

        Raises:
            UserError: if it holds anything already, or cannot be written.
        """
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError(
                    f"{path} already exists; nothing is overwritten. Choose another "
                    f"--out, or continue it with: fedemb resume {path}"
                )
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            probe = path / "checkpoints" / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"run folder {path} cannot be written: {error.strerror}; choose "
                "another --out."
            ) from error
        return RunFolder(path)

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            UserError: if it is not one.
        """
        if not (path / "config.toml").is_file():
            raise UserError(f"{path} is not a run folder: it has no config.toml.")
        return RunFolder(path)

    @property
    def ledger(self) -> Path:
        """The run's own ledger."""
        return self.path / "ledger.sqlite"

    @property
    def backbone(self) -> Path:
        """The trained backbone."""
        return self.path / "backbone.safetensors"

    def state(self, stage: int) -> Path:
        """The newest server state of a stage."""
        return self.path / "checkpoints" / f"stage-{stage}.safetensors"

    def heads(self, stage: int) -> Path:
        """The users' heads of a stage, where they persist."""
        return self.path / "checkpoints" / f"heads-{stage}.sqlite"

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        write_atomically(self.path / name, text.encode())

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; it never holds NaN or Infinity."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            UserError: if it is missing or broken.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}.") from error
        return content

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """`metrics.csv`, a row per evaluation."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[row.get(key, "") for key in columns] for row in rows]
        path = self.path / "metrics.csv"
        temporary = path.with_suffix(".csv.tmp")
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *cells])
        temporary.replace(path)

    def read_metrics(self) -> list[dict[str, float]]:
        """The rows of `metrics.csv`, if any."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [
                {key: float(value) for key, value in row.items() if value}
                for row in csv.DictReader(file)
            ]

    def keep_key(self, key: RootKey) -> None:
        """Store the run's secret, readable by its owner only, until the run is done.

        An interrupted round can then be repeated bit for bit, which costs nothing.
        """
        path = self.path / "checkpoints" / "key"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes([key.seeded]) + key.secret)
            file.flush()
            os.fsync(file.fileno())

    def key(self) -> RootKey:
        """The stored secret.

        Raises:
            UserError: if the run has none (it is complete, or never began).
        """
        path = self.path / "checkpoints" / "key"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be resumed: it is complete, or never began."
            ) from error
        return RootKey(content[1:], seeded=bool(content[0]))

    def forget_secrets(self) -> None:
        """Delete the users' heads and the key: nobody can subtract the noise later."""
        for path in (self.path / "checkpoints").glob("heads-*.sqlite*"):
            path.unlink()
        (self.path / "checkpoints" / "key").unlink(missing_ok=True)

    @property
    def resumable(self) -> bool:
        """Whether the run has begun and is not complete."""
        return (self.path / "checkpoints" / "key").exists()


def environment() -> dict[str, str]:
    """Versions of what computes and accounts, and the machine."""
    packages = ("fedemb", "torch", "numpy", "scipy", "dp-accounting", "opacus", "flwr")
    found = {name: _version(name) for name in packages}
    return {k: v for k, v in found.items() if v} | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": str(usable_cores()),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
