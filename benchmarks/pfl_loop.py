"""pfl as something to call: one round in two processes for each call.

pfl pins older versions of what fedemb needs, so it may need an environment of its own:
one where fedemb's dependencies are installed, then `pip install --no-deps pfl==0.6.0
multiprocess prv-accountant dill`. PFL_PYTHON names its interpreter.
"""

import os
import subprocess
import sys
from contextlib import AbstractContextManager

from benchmarks.elsewhere import RoundsElsewhere, elsewhere

PROCESSES = 2


def interpreter() -> str | None:
    """The Python that has pfl, if there is one."""
    python = os.environ.get("PFL_PYTHON", sys.executable)
    found = subprocess.run(
        [python, "-c", "import pfl"], stderr=subprocess.DEVNULL, check=False
    )
    return None if found.returncode else python


def pfl_rounds(
    python: str, workload: str, device: str = "cpu"
) -> AbstractContextManager[RoundsElsewhere]:
    """pfl on a workload, in processes of one thread each, while in the block.

    On a graphics card it is one process: its collective operations take a card each.
    """
    processes = PROCESSES if device == "cpu" else 1
    command = [
        *(python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
        *(str(processes), "-m", "benchmarks.pfl_process", workload),
    ]
    return elsewhere(
        "pfl",
        command,
        OMP_NUM_THREADS="1",
        PYTHONWARNINGS="ignore",
        PFL_PYTORCH_DEVICE=device,
    )
