"""Local work: which rows a step reads, local labels, fresh heads."""

import numpy as np
import pytest
import torch
from core_toys import CLASSES, DIM, rows, task
from hypothesis import given
from hypothesis import strategies as st

from fedemb.errors import UserError
from fedemb.local import LocalTraining
from fedemb.make_work import make_work, renumber, schedule
from fedemb.pixels import pixels

recipes = st.builds(
    LocalTraining,
    batch_size=st.integers(1, 6),
    epochs=st.integers(1, 4),
    max_examples=st.none() | st.integers(1, 20),
    steps=st.none() | st.integers(1, 5),
)
sizes = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def seeds(count, start=0):
    return np.arange(start, start + count, dtype=np.uint64) * np.uint64(7919**4)


@given(recipes, sizes)
def test_a_schedule_reads_whole_passes_in_new_orders(recipe, sizes):
    plan = schedule(recipe, np.array(sizes), seeds(len(sizes)))
    for own, size in zip(plan, sizes, strict=True):
        read = own[own >= 0]
        assert len(read) == recipe.reads(size)
        if size == 0:
            continue
        assert read.max() < size
        for start in range(0, len(read), size):
            one_pass = read[start : start + size]
            assert len(set(one_pass.tolist())) == len(one_pass)
        counts = (own >= 0).sum(axis=1)
        assert counts.max() <= recipe.batch_size
        assert np.all(np.diff((counts > 0).astype(int)) <= 0)  # no step after the last


@given(recipes, sizes)
def test_a_client_reads_the_same_rows_whoever_is_beside_her(recipe, sizes):
    keys = seeds(len(sizes))
    together = schedule(recipe, np.array(sizes), keys)
    for v, size in enumerate(sizes):
        alone = schedule(recipe, np.array([size]), keys[v : v + 1])[0]
        one = [step[step >= 0].tolist() for step in together[v] if (step >= 0).any()]
        assert one == [s[s >= 0].tolist() for s in alone if (s >= 0).any()]


def test_steps_override_epochs_and_max_examples():
    recipe = LocalTraining(batch_size=4, epochs=9, max_examples=1, steps=3)
    assert [recipe.reads(n) for n in (0, 2, 4, 100)] == [0, 6, 12, 12]
    limited = LocalTraining(batch_size=4, epochs=9, max_examples=10)
    assert [limited.reads(n) for n in (0, 1, 100)] == [0, 9, 10]


def test_head_steps_come_first_and_never_move_the_backbone():
    recipe = LocalTraining(head_steps=2)
    assert [recipe.trains_head(s) for s in range(4)] == [True, True, False, False]
    assert [recipe.trains_backbone(s) for s in range(4)] == [False, False, True, True]
    joint = LocalTraining()
    assert joint.trains_head(5)
    assert joint.trains_backbone(0)


@given(sizes, st.data())
def test_renumbered_labels_tell_the_same_rows_apart(sizes, data):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = int(offsets[-1])
    labels = np.array(
        data.draw(st.lists(st.integers(0, 7), min_size=n, max_size=n)), int
    )
    local, classes = renumber(labels, offsets)
    for v in range(len(sizes)):
        own = slice(offsets[v], offsets[v + 1])
        assert sorted(set(local[own].tolist())) == list(range(classes[v]))
        same = labels[own][:, None] == labels[own]
        assert np.array_equal(same, local[own][:, None] == local[own])


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_fresh_head_is_a_function_of_the_clients_seed(head):
    """Two rounds start with other heads; the same seed repeats them."""
    own, recipe = task(head=head), LocalTraining()
    data = rows([4, 5])
    first, again, other = (
        make_work(own, recipe, data, seeds(2, start)).heads["weight"]
        for start in (0, 0, 10)
    )
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).all(dim=(1, 2)).any()
    swapped = make_work(own, recipe, data, seeds(2)[::-1].copy()).heads["weight"]
    assert swapped.shape[2] == DIM
    assert not torch.equal(swapped, first)


def test_label_spaces_size_the_head():
    data = rows([6, 6])
    work = make_work(
        task(head="linear", space="global"), LocalTraining(), data, seeds(2)
    )
    assert work.heads["weight"].shape == (2, CLASSES, DIM)
    assert work.classes.tolist() == [CLASSES, CLASSES]
    local = make_work(task(head="linear"), LocalTraining(), data, seeds(2))
    distinct = [len(set(data.group(v)["label"].tolist())) for v in range(2)]
    assert local.classes.tolist() == distinct
    assert local.heads["weight"].shape == (2, max(distinct), DIM)


@given(recipes, sizes)
def test_padding_holds_rows_of_its_own_client_only(recipe, sizes):
    data = rows(sizes)
    owner = np.repeat(np.arange(1, len(sizes) + 1), data.sizes)
    data.fields["image"][:] = owner[:, None, None, None] / 255
    work = make_work(task(), recipe, data, seeds(len(sizes)))
    owner = ((work.batch["image"][:, 0, 0, 0] + 1) * 128).round().long()
    for step in work.steps():
        if not len(owner):
            continue
        read = work.gather(owner, step)
        allowed = torch.arange(1, len(sizes) + 1)[:, None]
        assert bool(((read == allowed) | (read == 0)).all())
        batch = work.at(step)
        assert torch.equal(batch["weight"] > 0, work.rows[:, step] >= 0)
        assert torch.equal(work.active(step), (batch["weight"] > 0).any(dim=1))


def test_only_rows_that_some_step_reads_are_prepared():
    data = rows([40, 3, 9])
    recipe = LocalTraining(batch_size=4, steps=2)
    work = make_work(task(), recipe, data, seeds(3))
    assert len(work.batch["image"]) == 8 + 3 + 8
    whole = pixels(data.fields["image"])
    read = schedule(recipe, data.sizes, seeds(3)) + data.offsets[:-1, None, None]
    for v, step in ((0, 0), (0, 1), (2, 1)):
        own = work.batch["image"][work.rows[v, step]]
        assert torch.equal(own, whole[torch.from_numpy(read[v, step])])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("head_lr_scale", float("inf")),
        ("momentum", 1.0),
        ("batch_size", 0),
        ("epochs", 0),
        ("max_examples", 0),
        ("steps", 0),
        ("head_steps", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"{name}="):
        LocalTraining(**{name: value})
