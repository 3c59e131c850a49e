"""Steps that are recorded compute what the serial engine does, whatever they read next.

Recordings are of operations here, on a processor; `test_graphics_card` has those of a
card.
"""

import numpy as np
import pytest
import torch
from core_toys import MODES, everyone, rows, runner, theta
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.agreement import agrees_with_serial
from fedemb.clipping import Lattice
from fedemb.engines.flat import FORMS, replays
from fedemb.engines.recorded import Recorded
from fedemb.engines.serial import serial_deltas
from fedemb.errors import UserError
from fedemb.local import LocalModel
from fedemb.make_work import make_work
from fedemb.runner import ENGINES, RECORDED, EngineChoice
from tests.operations import GraphsOnTheHost


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr("fedemb.engines.recorded.CudaGraphs", GraphsOnTheHost)


def trained(own, name, data, filled_up=8):
    """Deltas of each of `data` by one model, those of the serial engine, and it."""
    net = own.backbone.double().requires_grad_(False)
    start, model, found, right = theta(own).double(), None, [], []
    for turn, examples in enumerate(data):
        seeds = np.arange(examples.num_groups, dtype=np.uint64) + np.uint64(99 * turn)
        work = make_work(own.task, own.recipe, examples, seeds, torch.float64)
        model = model or LocalModel(own.task, net, work.head)
        model.head, model.recorded = work.head, filled_up
        given_ = (own.layout, start, work, own.recipe)
        found.append(ENGINES[name](model, *given_))
        right.append(serial_deltas(LocalModel(own.task, net, work.head), *given_))
    return found, right, model


@pytest.mark.parametrize("head", ["linear", "cosine", "class-means"])
@pytest.mark.parametrize("backbone", ["dense", "conv", "loose"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.usefixtures("graphs")
def test_recorded_steps_compute_what_the_serial_engine_does(name, mode, backbone, head):
    if name in FORMS and backbone == "loose":
        pytest.skip("has no such form")
    own = runner(rows([1]), backbone=backbone, head=head, **MODES[mode])
    sizes = ([3, 7, 0, 1, 5], [4, 4, 4], [2], [3, 7, 0, 1, 5], [5, 1, 0, 7, 3])
    data = [rows(s, seed) for seed, s in enumerate(sizes)]
    found, right, model = trained(own, name, data)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    if mode != "head first" or name != "flat":  # a single step after heads is not
        assert replays(model) > 0


@settings(max_examples=25)
@given(
    chunks=st.lists(
        st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=2, max_size=5
    ),
    name=st.sampled_from(RECORDED),
    momentum=st.sampled_from([0.0, 0.9]),
    batch=st.integers(1, 4),
)
def test_whatever_chunks_come_recorded_steps_equal_the_serial_ones(
    chunks, name, momentum, batch
):
    own = runner(
        rows([1]), backbone="conv", head="linear", momentum=momentum, batch_size=batch
    )
    data = [rows(sizes, seed) for seed, sizes in enumerate(chunks) if any(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedemb.engines.recorded.CudaGraphs", GraphsOnTheHost)
        found, right, _ = trained(own, name, data)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.usefixtures("graphs")
def test_a_replay_carries_nothing_over_from_clients_that_were_not_finite(name):
    own = runner(rows([1]), backbone="conv", head="linear", steps=2, momentum=0.9)
    clean = rows([3, 7, 0, 1, 5])
    broken = rows([3, 7, 0, 1, 5])
    broken.fields["image"][3:10] = np.nan  # all of the second client's
    data = [clean, clean, clean, broken, clean]
    found, right, model = trained(own, name, data)
    assert replays(model) > 0
    torch.testing.assert_close(found[4], right[4], rtol=1e-9, atol=1e-11)
    assert bool(found[3][1].isnan().any())
    others = [0, 2, 3, 4]
    torch.testing.assert_close(
        found[3][others], right[3][others], rtol=1e-9, atol=1e-11
    )


@pytest.mark.usefixtures("graphs")
def test_what_the_host_works_out_from_values_is_found_out():
    own = runner(rows([4, 5, 6]), backbone="conv", head="linear", steps=3)
    choice = EngineChoice(name="stacked", recorded=True)
    assert agrees_with_serial(own, choice, theta(own))
    usual = own.task.loss

    def by_the_host(head, features, batch):
        scale = float(np.asarray(batch["image"].detach()).max())
        return usual(head, features, batch) * scale

    object.__setattr__(own.task, "loss", by_the_host)
    object.__setattr__(own.task, "takes_many", lambda head: True)
    assert not agrees_with_serial(own, choice, theta(own))


@pytest.mark.usefixtures("graphs")
def test_only_so_many_shapes_are_recorded(monkeypatch):
    total, graphs = torch.zeros(1), GraphsOnTheHost()
    steps = Recorded(lambda batch: total.add_(batch["x"].sum()), graphs)
    one, two = {"x": torch.ones(1)}, {"x": torch.ones(2)}
    for _ in range(3):
        steps(one)
    assert steps.replays == 1
    monkeypatch.setattr(graphs, "full", True, raising=False)
    for _ in range(3):
        steps(two)
        steps(one)
    assert steps.replays == 4  # the second shape is computed as it comes
    assert float(total) == 3 + 6 + 3


@pytest.mark.usefixtures("graphs")
def test_what_waits_for_the_card_is_computed_as_it_comes():
    seen, total = [], torch.zeros(2)

    def waiting(batch):
        seen.append(float(batch["x"].sum()))
        total.add_(batch["x"])

    steps = Recorded(waiting, GraphsOnTheHost())
    for value in range(4):
        steps({"x": torch.full((2,), float(value))})
    assert steps.replays == 0
    assert total.tolist() == [6.0, 6.0]


def test_an_engine_that_never_replays_is_not_taken_for_recorded():
    """Without a card nothing can be recorded, so the choice must not say it was."""
    own = runner(rows([4, 5, 6]), backbone="conv", steps=3)
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert not agrees_with_serial(
        own, EngineChoice(name="stacked", recorded=True), theta(own)
    )


@pytest.mark.parametrize(
    ("name", "threads"), [("shared", 1), ("serial", 1), ("stacked", 2)]
)
def test_only_some_engines_on_one_thread_can_be_recorded(name, threads):
    with pytest.raises(UserError, match="one thread"):
        EngineChoice(name=name, threads=threads, recorded=True)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.usefixtures("graphs")
def test_chunks_filled_up_count_for_nothing_in_the_sum(name):
    own = runner(rows([3, 7, 0, 1, 5]), backbone="conv", head="linear", steps=3)
    lattice = Lattice(1.0, own.layout.size)
    sums = [
        own.with_engine(EngineChoice(name=name, chunk=3, recorded=recorded)).train(
            theta(own), everyone(5), lattice, 0
        )
        for recorded in (False, True)
    ]
    assert sums[0].clients == sums[1].clients == 5
    assert sums[0].unclipped == sums[1].unclipped
    # Heads are padded differently, and round so: a few of 2^20 steps of the lattice.
    assert (sums[0].total - sums[1].total).abs().max() <= 2**4
