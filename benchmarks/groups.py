"""The groups of figures, each measured in a process of its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks import engines, rounds, whole
from benchmarks.card import card
from benchmarks.table import Row
from benchmarks.workloads import WORKLOADS
from fedemb.cores import usable_cores
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
} | {f"card-{name}": partial(card, name) for name in WORKLOADS}


def measured(name: str, repeat: int) -> list[Row]:
    """The rows of a group, in a process set up as that of a run."""
    torch.set_num_threads(usable_cores())
    keep_freed_memory()
    return list((GROUPS | MORE)[name](repeat))


def in_a_new_process(name: str, repeat: int) -> list[Row]:
    """The rows of a group: memory that other groups kept is not counted."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measured, name, repeat).result()
