"""The exact sum of a round: sensitivity to a user, chunks, threads, absent users."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from core_toys import KEY, everyone, rows, runner, theta
from torch import nn

from fedemb.clipping import Lattice
from fedemb.cohort import PoissonVirtualClients
from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.randomness import RootKey
from fedemb.runner import DoesNotFit, EngineChoice
from fedemb.tuning import choose_engine

CLIP = 0.05  # far below the norms of these deltas, so that everybody is clipped
UNIT = 2**20
SIZES = [4, 7, 2, 5, 9, 3, 4, 8]
ENGINES = [
    ("serial", {"epochs": 2}),
    ("vectorized", {"epochs": 2}),
    ("shared", {"steps": 1, "batch_size": 64}),
]


def total(data, cohort, engine="serial", t=0, chunk=3, **kinds):
    own = runner(data, engine=engine, chunk=chunk, head="linear", **kinds)
    return own.train(theta(own), cohort, Lattice(CLIP, own.layout.size), t)


def change(one, two):
    """Norm of the difference of two sums in units of C, from exact integers."""
    moved = (one.total - two.total).tolist()
    return (sum(int(x) ** 2 for x in moved)) ** 0.5 / UNIT


def without_last(data):
    rows_left = int(data.offsets[-2])
    fields = {name: values[:rows_left] for name, values in data.fields.items()}
    return Examples(fields, data.offsets[:-1])


def with_other_last(data):
    """The same users, but the last one has other data of the same size."""
    image, first = data.fields["image"].copy(), int(data.offsets[-2])
    image[first:] = 1 - image[first:] ** 3
    label = data.fields["label"].copy()
    label[first:] = label[first:][::-1]
    return Examples({"image": image, "label": label}, data.offsets)


# Batched engines round chunk-mates together: a unit of the lattice here and there.
ROUNDING = {"serial": 0.0, "vectorized": 1e-5, "shared": 1e-5}


@pytest.mark.parametrize(("engine", "recipe"), ENGINES)
@pytest.mark.parametrize(("u", "bound"), [(1, 1.0), (2, 2.0), (4, 2.0)])
def test_removing_a_user_changes_the_sum_by_c_alone_or_2c_in_company(
    engine, recipe, u, bound
):
    data, cohort = rows(SIZES, 3), everyone(8, u)
    found = change(
        total(data, cohort, engine, **recipe),
        total(without_last(data), cohort, engine, **recipe),
    )
    assert 0.5 < found <= bound + ROUNDING[engine]


@pytest.mark.parametrize(("engine", "recipe"), ENGINES)
@pytest.mark.parametrize("u", [1, 2, 4])
def test_replacing_a_users_data_changes_the_sum_by_at_most_2c(engine, recipe, u):
    data, cohort = rows(SIZES, 3), everyone(8, u)
    found = change(
        total(data, cohort, engine, **recipe),
        total(with_other_last(data), cohort, engine, **recipe),
    )
    assert 0.1 < found <= 2.0 + ROUNDING[engine]


def test_two_users_of_different_virtual_clients_exceed_the_bound_of_one():
    """Negative control: the bound is about one user."""
    data, cohort = rows(SIZES, 3), everyone(8)
    image = data.fields["image"].copy()
    image[:] = 1 - image
    other = Examples(dict(data.fields, image=image), data.offsets)
    assert change(total(data, cohort), total(other, cohort)) > 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize(("engine", "recipe"), ENGINES)
def test_poisoned_data_counts_as_one_client_of_zeros_at_worst(engine, recipe, bad):
    data, cohort = rows(SIZES, 3), everyone(8, 2)
    image = data.fields["image"].copy()
    image[: SIZES[0]] = bad
    poisoned = total(
        Examples(dict(data.fields, image=image), data.offsets), cohort, engine, **recipe
    )
    others = total(data, cohort.part(1, 4), engine, chunk=4, **recipe)
    clean = total(data, cohort, engine, **recipe)
    assert change(poisoned, clean) <= 2.0 + ROUNDING[engine]
    if np.isnan(bad):
        assert poisoned.diagnostics.non_finite == 1
        assert change(poisoned, others) <= ROUNDING[engine]


@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (3, 1), (8, 1), (2, 3)])
def test_chunks_and_threads_do_not_change_the_serial_sum(chunk, threads):
    data, cohort = rows(SIZES, 3), everyone(8)
    expected = total(data, cohort, chunk=8)
    found = total(data, cohort, chunk=chunk, threads=threads)
    assert torch.equal(found.total, expected.total)
    assert found.unclipped == expected.unclipped
    assert found.clients == 8


@pytest.mark.parametrize(("engine", "recipe"), ENGINES[1:])
@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (3, 2), (8, 1)])
def test_batched_engines_agree_with_serial_to_float_rounding(
    engine, recipe, chunk, threads
):
    data, cohort = rows(SIZES, 3), everyone(8)
    expected = total(data, cohort, "serial", **recipe)
    found = total(data, cohort, engine, chunk=chunk, threads=threads, **recipe)
    assert change(found, expected) < 1e-4


@pytest.mark.parametrize("users", [0, 1, 5])
def test_absent_users_contribute_zero(users):
    """A round of empty seats alone is a sum of nothing, not an error."""
    data = rows(SIZES[:users], 3) if users else rows([])
    found = total(data, everyone(8, 2))
    present = -(-users // 2)
    assert found.clients == present
    assert bool(found.total.any()) == (users > 0)


def test_a_user_without_examples_contributes_zero():
    found = total(rows([0, 0]), everyone(2))
    assert not found.total.any()
    assert found.clients == 2


def test_rounds_and_keys_change_local_randomness_and_nothing_else():
    data, cohort = rows(SIZES, 3), everyone(8)
    assert torch.equal(total(data, cohort, t=4).total, total(data, cohort, t=4).total)
    assert change(total(data, cohort, t=4), total(data, cohort, t=5)) > 1e-3
    other = total(data, cohort, t=4, key=RootKey.from_seed(12))
    assert change(total(data, cohort, t=4), other) > 1e-3


def test_two_rounds_start_from_other_heads_and_the_same_backbone():
    own = runner(rows(SIZES, 3), head="linear")
    part = everyone(8).part(0, 3)
    first, again, later = (own.work(part, t).heads["weight"] for t in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first[first != 0], later[first != 0]).any()
    before = theta(own)
    own.train(before, part, Lattice(CLIP, own.layout.size), 0)
    assert torch.equal(theta(own), before)  # training never writes to the backbone


def test_the_sampled_round_equals_the_sum_over_its_virtual_clients():
    sampler = PoissonVirtualClients(
        population=8, users_per_round=5, users_per_virtual_client=2
    )
    cohort, data = sampler.draw(KEY, 1), rows(SIZES, 3)
    whole = total(data, cohort, t=1)
    parts = [total(data, cohort.part(i, i + 1), t=1) for i in range(len(cohort))]
    assert len(cohort) > 1
    assert torch.equal(whole.total, sum(p.total for p in parts))


def test_unknown_engines_and_empty_chunks_are_refused():
    with pytest.raises(UserError, match="engine='fast' must be one of serial"):
        EngineChoice(name="fast")
    for wrong in ({"chunk": 0}, {"threads": 0}):
        with pytest.raises(UserError, match="at least 1"):
            replace(EngineChoice(), **wrong)


class SmallMemory(nn.Module):
    """Has memory for so many rows at a time, and fails as a graphics card does."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.inner(images)


def small(most, engine="shared", **kinds):
    own = runner(rows(SIZES), engine=engine, steps=1, head="linear", **kinds)
    backbone = SmallMemory(own.backbone, most)
    layout = type(own.layout).of(backbone)
    return replace(own, backbone=backbone, layout=layout)


@pytest.mark.parametrize("engine", ["shared", "stacked", "grouped"])
def test_clients_that_do_not_fit_together_are_trained_by_halves(engine):
    lattice, whole = Lattice(CLIP, 159), small(1000, engine)
    expected = whole.train(theta(whole), everyone(len(SIZES)), lattice, 0)
    halved = small(9, engine)
    found = halved.train(theta(halved), everyone(len(SIZES)), lattice, 0)
    assert found.clients == expected.clients == len(SIZES)
    assert (
        float((found.total - expected.total).abs().max()) <= ROUNDING["shared"] * UNIT
    )


def test_a_client_that_does_not_fit_alone_is_named_before_any_user_is_read():
    own = small(1)
    with pytest.raises(DoesNotFit, match=r"read 4 rows each .*batch_size"):
        own.train(theta(own), everyone(len(SIZES)), Lattice(CLIP, own.layout.size), 0)
    with pytest.raises(DoesNotFit, match="run.device=cpu"):
        choose_engine(own, theta(own), 4)
