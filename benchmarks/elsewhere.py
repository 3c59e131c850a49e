"""Rounds in processes of their own, called one by one: they measure what peers do.

A peer's memory, threads and allocator are then its own, as they are where people use
it, and ours are ours.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class RoundsElsewhere:
    """Has a round run elsewhere whenever it is called, and waits for it.

    The process reads a line for each round, and answers it with a line that has the
    processor seconds of the round, which a call returns.
    """

    name: str
    process: "subprocess.Popen[str]"

    def __call__(self) -> float:
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            raise RuntimeError(f"{self.name} ended early, with status {status}")
        return float(answer)


@contextmanager
def elsewhere(
    name: str, command: Sequence[str], **environment: str
) -> Iterator[RoundsElsewhere]:
    """Rounds by `command`, which lives as long as the block."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_without_ours(os.environ) | environment,
    ) as process:  # ends when its standard input is closed
        yield RoundsElsewhere(name, process)


def _without_ours(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment, without what tells this process how many threads to use."""
    return {k: v for k, v in variables.items() if k != "OMP_NUM_THREADS"}
