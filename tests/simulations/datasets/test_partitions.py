"""Artificial users: every row dealt once, in the mix that was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.errors import UserError
from simulations.datasets.partitions import partition

LABELS = [f"c{i % 10}" for i in range(2_000)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 9), st.sampled_from(["iid", "shards"]))
def test_sizes_are_even(users, seed, kind):
    text = f"iid:{users}" if kind == "iid" else f"shards:{users}:2"
    names, _ = partition(LABELS, text, seed)
    sizes = np.unique(names, return_counts=True)[1]
    assert len(names) == 2_000
    assert len(sizes) == users
    assert sizes.max() - sizes.min() <= (1 if kind == "iid" else 2)


@pytest.mark.statistical
def test_dirichlet_mixes_grow_more_even_with_alpha():
    def effective_classes(text):
        names, _ = partition(LABELS, text, 3)
        table = np.zeros((20, 10))
        for name, label in zip(names, LABELS, strict=True):
            table[int(name[5:]), int(label[1:])] += 1
        table = table[table.sum(axis=1) > 0]
        share = table / table.sum(axis=1, keepdims=True)
        return float(np.mean(1 / (share**2).sum(axis=1)))

    sharp, even = effective_classes("dirichlet:20:0.05"), effective_classes("iid:20")
    mild = effective_classes("dirichlet:20:1")
    assert sharp < 3 < mild < 9 < even


def test_shards_hold_few_classes():
    names, _ = partition(LABELS, "shards:100:2", 0)
    classes = {n: set() for n in names}
    for name, label in zip(names, LABELS, strict=True):
        classes[name].add(label)
    assert max(map(len, classes.values())) <= 4


@pytest.mark.parametrize(
    "text",
    ["iid:0", "iid:x", "iid:3:1", "dirichlet:4", "dirichlet:4:0", "shards:4:0.5"],
)
def test_nonsense_is_refused(text):
    with pytest.raises(UserError, match="user_column="):
        partition(LABELS, text, 0)


def test_the_seed_decides():
    assert partition(LABELS, "iid:7", 1) == partition(LABELS, "iid:7", 1)
    assert partition(LABELS, "iid:7", 1)[0] != partition(LABELS, "iid:7", 2)[0]
