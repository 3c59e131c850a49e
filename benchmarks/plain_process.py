"""The plain loop of a workload, a round for each line of the standard input.

python -m benchmarks.plain_process W2 [cuda]
"""

import sys
import time

import torch

from benchmarks.workloads import WORKLOADS
from fedemb.cores import usable_cores


def main() -> None:
    torch.set_num_threads(usable_cores())
    device = torch.device(*sys.argv[2:] or ["cpu"])
    loop = WORKLOADS[sys.argv[1]].plain_loop(device)
    for _ in sys.stdin:
        before = time.process_time()
        loop()
        print(time.process_time() - before, flush=True)


if __name__ == "__main__":
    main()
