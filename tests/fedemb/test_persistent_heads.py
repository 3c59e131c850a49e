"""Heads that stay with their user: what they read, what they cost, what they keep."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from core_toys import MODES, everyone, rows, runner, theta
from scipy.stats import norm

from accounting import SampledGaussian, Sampler, delta_for_epsilon
from fedemb.clipping import Lattice
from fedemb.cohort import Cohort
from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.local import LocalTraining
from fedemb.persistent_heads import PersistentHeads

SIZES = [4, 7, 2, 5]
RECIPE = {"steps": 3, "head_steps": 2, "head_init": "persistent"}
UNIT = 2**20


@pytest.fixture
def heads(tmp_path):
    kept = PersistentHeads(tmp_path / "heads.sqlite")
    yield kept
    kept.close()


def persistent(data, heads, engine="serial", chunk=3, **more):
    kinds = {"head": "linear", **RECIPE, **more}
    return replace(runner(data, engine=engine, chunk=chunk, **kinds), kept_heads=heads)


def rounds(own, count, cohort=None, first=0, clip=5.0):
    """The sums of a few rounds that all start from the same backbone."""
    lattice = Lattice(clip, own.layout.size)
    cohort = cohort or everyone(len(SIZES))
    start = theta(own)
    return [own.train(start, cohort, lattice, first + t).total for t in range(count)]


def alone(user):
    one = np.array([1], np.int64)
    return Cohort(np.array([user]), np.array([user]), one)


def test_the_first_round_is_that_of_a_public_head_and_the_second_is_not(heads):
    own = persistent(rows(SIZES), heads)
    public = runner(rows(SIZES), head="linear", **RECIPE | {"head_init": "public"})
    kept, new = rounds(own, 2), rounds(public, 2)
    assert torch.equal(kept[0], new[0])
    assert (kept[1] - new[1]).abs().max() > 0.01 * UNIT


def test_a_round_goes_on_where_more_head_steps_would_have(heads):
    """Two rounds of 2 head steps, then a backbone step, are one of 4 and a step."""
    data = rows([4], 5)  # one full batch: every step reads the same rows
    recipe = {"steps": 3, "head_steps": 2, "batch_size": 4}
    twice = rounds(persistent(data, heads, **recipe), 2, everyone(1))[1]
    longer = {"steps": 5, "head_steps": 4, "batch_size": 4, "head_init": "public"}
    once = rounds(runner(data, head="linear", **longer), 1, everyone(1))[0]
    assert (twice - once).abs().max() <= 2e-5 * UNIT


@pytest.mark.parametrize("engine", ["flat", "stacked", "grouped", "vectorized"])
@pytest.mark.parametrize("head", ["linear", "linear-bias", "cosine"])
def test_engines_agree_over_rounds(engine, head, tmp_path):
    data, found = rows(SIZES, 2), []
    for name in ("serial", engine):
        kept = PersistentHeads(tmp_path / name)
        own = persistent(data, kept, name, backbone="conv", head=head, steps=4)
        found.append(rounds(own, 3)[2])
        kept.close()
    assert (found[0] - found[1]).abs().max() <= 3e-5 * UNIT


def test_heads_of_several_classes_meet_in_chunks_of_any_size(tmp_path):
    """A head is kept without the room that its chunk-mates' classes needed."""
    data, found = rows([9, 1, 4, 2], 4), []
    for chunk in (1, 2, 4):
        kept = PersistentHeads(tmp_path / str(chunk))
        own = persistent(data, kept, "flat", chunk)
        rounds(own, 2)
        found.append(kept.before(9, range(4)))
        kept.close()
    classes = [len(np.unique(data.fields["label"][a:b])) for a, b in _spans(data)]
    assert [len(head["weight"]) for head in found[0].values()] == classes
    for other in found[1:]:
        for user in range(4):
            torch.testing.assert_close(found[0][user], other[user])


def _spans(data):
    return zip(data.offsets[:-1], data.offsets[1:], strict=True)


@pytest.mark.parametrize("engine", ["serial", "vectorized"])
def test_a_user_moves_nobody_elses_head_in_any_round(engine, tmp_path):
    """From the same backbones; what a user moves in those is clipped and noised."""
    data = rows(SIZES, 1)
    image = data.fields["image"].copy()
    image[data.offsets[3] :] = 1 - image[data.offsets[3] :]
    other = Examples({**data.fields, "image": image}, data.offsets)
    found = []
    for name, examples in (("one", data), ("two", other)):
        kept = PersistentHeads(tmp_path / name)
        own = persistent(examples, kept, engine)
        rounds(own, 2)
        found.append([rounds(own, 1, alone(u), first=2 + u)[0] for u in range(4)])
        kept.close()
    for user in range(3):
        assert (found[0][user] - found[1][user]).abs().max() <= 1e-5 * UNIT
    assert (found[0][3] - found[1][3]).abs().max() > 0.01 * UNIT


def test_with_any_head_a_user_moves_the_sum_by_c(heads):
    own = persistent(rows(SIZES), heads)
    for user in range(4):
        heads.put(user, {"weight": 1e6 * torch.randn(1, 5)})
    heads.write(0)
    total = rounds(own, 1, alone(2), first=1, clip=0.05)[0]
    assert float(total.double().norm()) / UNIT <= 1.0


def test_a_round_that_is_repeated_finds_what_it_found(heads):
    own = persistent(rows(SIZES), heads)
    before = rounds(own, 3)
    heads.begin_at(1)
    assert all(
        torch.equal(*pair)
        for pair in zip(before[1:], rounds(own, 2, first=1), strict=True)
    )


def test_what_a_durable_round_replaced_is_forgotten_and_no_more(heads):
    one, two = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    heads.put(1, one)
    heads.put(2, one)
    heads.write(0)
    heads.put(1, two)
    heads.write(4)
    assert heads.before(4, [1]) == {1: one}
    heads.settle(4)
    assert heads.before(4, [1, 2]) == {2: one}
    assert heads.before(5, [1]) == {1: two}


def test_a_head_that_is_not_finite_is_not_kept(heads):
    heads.put(1, {"w": torch.ones(1)})
    heads.write(0)
    heads.put(1, {"w": torch.tensor([float("nan")])})
    heads.write(1)
    assert heads.before(2, [1]) == {1: {"w": torch.ones(1)}}


def test_nobody_else_may_read_the_file(heads):
    assert heads.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", ["joint", "one step"])
def test_without_head_steps_there_is_nothing_that_could_persist(mode):
    with pytest.raises(UserError, match="head_steps"):
        LocalTraining(**MODES[mode], head_init="persistent")


def test_a_system_without_head_parameters_keeps_nothing(heads):
    own = persistent(rows(SIZES), heads, head="class-means", batch_size=16)
    first, second = rounds(own, 2)
    assert (first - second).abs().max() <= 1e-5 * UNIT


# The proof: two rounds of a user whose update depends on a coin that nobody sees.

Q, Z = 0.3, 1.0
GRID = np.linspace(-9, 9, 721)
EPSILONS = (0.1, 0.5, 1.0, 2.0)


def _release(first, second):
    """Densities of two releases, by the coins: {(b1, b2): probability} of updates."""
    out = 0.0
    for (b1, b2), probability in first.items():
        move = second(b1, GRID[:, None])
        one = norm.pdf(GRID[:, None] - b1, scale=Z)
        out = out + probability * one * norm.pdf(GRID[None] - b2 * move, scale=Z)
    return out


INDEPENDENT = {
    (0, 0): (1 - Q) ** 2,
    (0, 1): (1 - Q) * Q,
    (1, 0): Q * (1 - Q),
    (1, 1): Q**2,
}
TOGETHER = {(0, 0): 1 - Q, (1, 1): Q}
HIDDEN = {
    "the same": lambda b1, y: np.ones_like(y),
    "turned by the coin": lambda b1, y: np.full_like(y, 1.0 if b1 else -1.0),
    "after the release, too": lambda b1, y: np.where(y > 0.5, 1.0, 1.0 - 2 * b1),
}


def _excess(coins, move):
    """How far the exact divergences are above what is accounted, at worst."""
    cell = (GRID[1] - GRID[0]) ** 2
    with_user = _release(coins, move)
    without = norm.pdf(GRID[:, None], scale=Z) * norm.pdf(GRID[None], scale=Z)
    mechanism = SampledGaussian(
        sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        population=1000,
        users_per_round=1000 * Q,
        noise_multiplier=Z,
    )
    worst = -1.0
    for epsilon in EPSILONS:
        accounted = delta_for_epsilon(mechanism, rounds=2, epsilon=epsilon)
        for p, other in ((with_user, without), (without, with_user)):
            found = np.maximum(p - np.exp(epsilon) * other, 0).sum() * cell
            worst = max(worst, float(found - accounted))
    return worst


@pytest.mark.parametrize("move", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_hidden_state_costs_no_more_than_is_accounted(move):
    assert _excess(INDEPENDENT, move) <= 1e-5


def test_coins_that_depend_on_each_other_would_cost_more():
    """The control: the same test finds what the proof excludes."""
    assert _excess(TOGETHER, HIDDEN["the same"]) > 0.01
