"""Worker threads: cores add up, results come once, errors end the work."""

import pytest
import torch
from torch import nn

from fedemb.threads import Threads, suited_to


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def seen_while_making(threads, fail=False):
    cores, done = [], []

    def items():
        for item in range(6):
            cores.append(torch.get_num_threads())
            yield item
        if fail:
            raise ValueError("no more items")

    threads.each(done.append, items())
    return cores, done


def test_making_items_takes_no_second_core_from_the_workers(two_cores):
    cores, done = seen_while_making(Threads(2))
    assert set(cores) == {1}
    assert sorted(done) == list(range(6))
    assert torch.get_num_threads() == 2


def test_without_workers_the_caller_keeps_its_cores(two_cores):
    assert set(seen_while_making(Threads(1))[0]) == {2}


def test_cores_come_back_after_an_error(two_cores):
    with pytest.raises(ValueError, match="no more items"):
        seen_while_making(Threads(2), fail=True)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("width", "rows", "one_core"),
    [(8, 100, True), (2048, 100, False), (8, 50_000, False)],
)
def test_only_small_operations_take_one_core(two_cores, width, rows, one_core):
    with suited_to(nn.Linear(width, width), rows):
        assert (torch.get_num_threads() == 1) == one_core
    assert torch.get_num_threads() == 2
