"""Every figure that speed is judged by, in one table.

python -m benchmarks [GROUP ...] [--repeat 5]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import engines, rounds, whole
from benchmarks.table import Row, machine, markdown
from benchmarks.workloads import WORKLOADS
from fedemb.memory import keep_freed_memory

GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "W1": partial(engines.against_plain, "W1"),
    "pfl-W1": partial(whole.pfl, "W1"),
    "W2": partial(engines.against_plain, "W2"),
    "pfl-W2": partial(whole.pfl, "W2"),
    "W3": partial(engines.against_plain, "W3"),
    "heads": engines.heads,
    "shared": engines.shared,
    "flower": whole.flower,
    "drawing": rounds.drawing,
    "lattice": rounds.lattice,
    "durability": rounds.durability,
    "start": whole.first_round,
    "memory": rounds.memory,
    "evaluation": whole.evaluation,
    "waiting": rounds.waiting,
}
MORE: dict[str, Callable[[int], Iterator[Row]]] = {
    f"engines-{name}": partial(engines.all_engines, workload)
    for name, workload in WORKLOADS.items()
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "groups", nargs="*", help=f"of {', '.join([*GROUPS, *MORE])}; all of the former"
    )
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - {*GROUPS, *MORE}
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()  # as every run does
    before, found = machine(), []
    for name in arguments.groups or GROUPS:
        started = time.perf_counter()
        for row in (GROUPS | MORE)[name](arguments.repeat):
            found.append(row)
            print("  ".join(cell for cell in row.cells() if cell), file=sys.stderr)
        print(f"[{name}: {time.perf_counter() - started:.0f} s]", file=sys.stderr)
    print(f"Before: {before}\nAfter: {machine()}\n\n{markdown(found)}")


if __name__ == "__main__":
    main()
