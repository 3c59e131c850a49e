"""What only a graphics card can show; skipped where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from core_toys import MODES, everyone, rows, runner, theta

from fedemb.agreement import agrees_with_serial
from fedemb.clipping import Lattice, LatticeSum
from fedemb.engines.flat import FORMS, replays
from fedemb.engines.serial import serial_deltas
from fedemb.local import LocalModel
from fedemb.make_work import make_work
from fedemb.runner import ENGINES, RECORDED, DoesNotFit, EngineChoice

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)
CARD = torch.device("cuda")
SIZES = [3, 7, 0, 1, 5]  # ragged, and one virtual client without rows
KINDS = pytest.mark.parametrize(
    ("name", "recorded"),
    [(name, False) for name in ENGINES] + [(name, True) for name in RECORDED],
)


def work_of(own, data, seed=0, dtype=torch.float64):
    seeds = np.arange(data.num_groups, dtype=np.uint64) + np.uint64(seed)
    return make_work(own.task, own.recipe, data, seeds, dtype)


def model_of(own, work, device, recorded=0):
    net = own.backbone.to(device, next(iter(work.batch.values())).dtype)
    model = LocalModel(own.task, net.requires_grad_(False), work.head.to(device))
    model.recorded = recorded
    return model


def serves(name, backbone, mode):
    if name == "shared":
        return mode in ("one step", "head first")
    return name not in FORMS or backbone != "loose"


@pytest.mark.parametrize("head", ["linear", "class-means"])
@pytest.mark.parametrize("backbone", ["conv", "loose"])
@pytest.mark.parametrize("mode", MODES)
@KINDS
def test_engines_compute_on_a_card_what_the_serial_one_does_on_a_processor(
    name, recorded, mode, backbone, head
):
    if not serves(name, backbone, mode):
        pytest.skip("does not apply")
    own = runner(rows(SIZES), backbone=backbone, head=head, **MODES[mode])
    start = theta(own).double()
    turns = [work_of(own, rows(SIZES, seed), seed) for seed in range(4)]
    expected = [
        serial_deltas(model_of(own, w, "cpu"), own.layout, start, w, own.recipe)
        for w in turns
    ]
    model = model_of(own, turns[0], CARD, 8 if recorded else 0)
    for work, right in zip(turns, expected, strict=True):
        model.head = work.head.to(CARD)
        found = ENGINES[name](
            model, own.layout, start.to(CARD), work.to(CARD), own.recipe
        )
        torch.testing.assert_close(found.cpu(), right, rtol=1e-8, atol=1e-10)
    one_backbone_step = mode == "head first" and name == "flat"
    if recorded and not one_backbone_step:
        assert replays(model) > 0


@pytest.mark.parametrize("mode", MODES)
@KINDS
def test_nothing_waits_for_the_card_before_the_sum(name, recorded, mode):
    if not serves(name, "conv", mode):
        pytest.skip("does not apply")
    own = runner(rows(SIZES), backbone="conv", head="linear", **MODES[mode])
    start = theta(own).to(CARD)
    works = [work_of(own, rows(SIZES), 0, torch.float32) for _ in range(5)]
    model = model_of(own, works[0], CARD, 8 if recorded else 0)
    total = LatticeSum(Lattice(1.0, own.layout.size), CARD)

    def train(work):
        work = work.to(CARD)
        total.add(ENGINES[name](model, own.layout, start, work, own.recipe))

    for work in works[:3]:  # libraries are loaded and steps recorded
        model.head = work.head.to(CARD)
        train(work)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for work in works[3:]:
            train(work)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.result().clients == 5 * len(SIZES)


@pytest.mark.parametrize("name", RECORDED)
def test_a_replay_carries_nothing_over_from_clients_that_were_not_finite(name):
    own = runner(rows(SIZES), backbone="conv", head="linear", steps=2, momentum=0.9)
    clean, start = rows(SIZES), theta(own)
    broken = rows(SIZES)
    broken.fields["image"][:] = np.nan
    lattice = Lattice(1.0, len(start))
    fresh = None
    model = model_of(own, work_of(own, clean, 0, torch.float32), CARD, 8)
    for data in (clean, clean, clean, broken, clean):
        work = work_of(own, data, 0, torch.float32).to(CARD)
        model.head = work.head.to(CARD)
        deltas = ENGINES[name](model, own.layout, start.to(CARD), work, own.recipe)
        if data is clean:
            total = LatticeSum(lattice, CARD)
            total.add(deltas)
            fresh = fresh or total.result()
            assert (total.result().total - fresh.total).abs().max() <= 2**6
        else:
            assert bool(deltas[0].isnan().all())
    assert replays(model) > 0


def test_recordings_are_refused_where_a_step_waits_for_the_card():
    own = runner(rows(SIZES), backbone="conv", head="linear", steps=3)
    choice = EngineChoice(name="stacked", recorded=True)
    usual = own.task.loss

    def curious(head, features, batch):
        batch["weight"].sum().item()
        return usual(head, features, batch)

    own = replace(own, device=CARD)
    assert agrees_with_serial(own, choice, theta(own))
    object.__setattr__(own.task, "loss", curious)
    assert not agrees_with_serial(own, choice, theta(own))


def test_what_does_not_fit_into_the_card_is_trained_by_halves():
    torch.cuda.empty_cache()
    sizes = [400] * 64
    own = runner(rows(sizes), backbone="conv", steps=1, batch_size=400)
    choice = EngineChoice(name="stacked", chunk=64)
    own = replace(own, engine=choice, device=CARD)
    start, cohort = theta(own), everyone(64)
    whole = own.train(start, cohort, Lattice(1.0, len(start)), 0)
    own = own.with_engine(own.engine)
    total = torch.cuda.get_device_properties(CARD).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    own.train(start, cohort, Lattice(1.0, len(start)), 0)
    needed = torch.cuda.max_memory_allocated()
    own = own.with_engine(own.engine)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * needed / total)
    try:
        halved = own.train(start, cohort, Lattice(1.0, len(start)), 0)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.002 * needed / total)
        with pytest.raises(DoesNotFit, match="run.device=cpu"):
            own.with_engine(own.engine).train(
                start, cohort, Lattice(1.0, len(start)), 0
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halved.clients == whole.clients == 64
    assert (halved.total - whole.total).abs().max() <= 2**6
