"""pfl as something to call: one round in two processes for each call.

pfl pins older versions of what fedemb needs, so it may need an environment of its own:
one where fedemb's dependencies are installed, then `pip install --no-deps pfl==0.6.0
multiprocess prv-accountant dill`. PFL_PYTHON names its interpreter.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PROCESSES = 2


@dataclass(frozen=True)
class PflRounds:
    """Has pfl run a round whenever it is called, and waits for it.

    `processor` collects the processor seconds of each round, of all processes.
    """

    process: "subprocess.Popen[str]"
    processor: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"pfl ended early, with status {self.process.wait()}")
        self.processor.append(float(answer))


def interpreter() -> str | None:
    """The Python that has pfl, if there is one."""
    python = os.environ.get("PFL_PYTHON", sys.executable)
    found = subprocess.run(
        [python, "-c", "import pfl"], stderr=subprocess.DEVNULL, check=False
    )
    return None if found.returncode else python


@contextmanager
def pfl_rounds(python: str, workload: str) -> Iterator[PflRounds]:
    """pfl on a workload, in processes of one thread each, while in the block."""
    command = [
        *(python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
        *(str(PROCESSES), "-m", "benchmarks.pfl_process", workload),
    ]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:  # ends when its standard input is closed
        yield PflRounds(process)
