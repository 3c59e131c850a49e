"""ConST-CL as a whole: what each loss moves, engines, leakage, and metrics."""

import dataclasses

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.local import LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from model_zoo import registry
from model_zoo.const_cl.losses import local_loss
from model_zoo.system import DataFacts
from model_zoo.video.encoder import VideoEncoder
from model_zoo.videoglue.adapters import with_adapters
from simulations.datasets.clips import PlainClips

DATA = PlainClips(50, 3, 16, classes_per_user=2, repeats=2)
FACTS = DataFacts(example_shape=(8, 16, 16, 3), num_classes=10)
TASK = registry.get("const_cl:tiny").build(data=FACTS)[0].task


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return TASK.make_backbone()


def batch_of(users):
    examples = DATA.fetch(np.array(users)).regroup([len(users)])
    batch = TASK.prepare(examples, np.array([7], np.uint64))
    return batch | {"weight": torch.ones(len(examples))}


def fresh(task=TASK):
    head = task.make_head(1)
    generator = torch.Generator().manual_seed(0)
    head.load_state_dict(dict(task.fresh_head(head, 1, generator)))
    return head


def total(task, backbone, head, batch):
    return task.loss(head, task.features(backbone, batch), batch)


def deltas(engine, data, task=TASK):
    torch.manual_seed(0)
    backbone = task.make_backbone().double()
    made = InlineRunner(
        task=task,
        dataset=DATA,
        backbone=backbone,
        layout=FlatLayout.of(backbone),
        recipe=LocalTraining(learning_rate=0.1, batch_size=4, steps=1),
        key=RootKey.from_seed(3),
        engine=EngineChoice(name=engine),
    )
    seeds = np.arange(data.num_groups, dtype=np.uint64)
    work = make_work(task, made.recipe, data, seeds, torch.float64)
    theta = made.layout.flatten(dict(backbone.named_parameters()))
    return made.deltas(theta, work)


def test_each_loss_moves_its_own_branch(backbone):
    batch, head = batch_of([1, 2]), fresh()

    def moved(**weights):
        task = dataclasses.replace(TASK, **weights)
        loss = total(task, backbone, head, batch)
        parts = {
            "shared": backbone.stem.conv.weight,
            "holistic": backbone.holistic[0].space.weight,
            "local": backbone.local[0].space.weight,
            "perceptron": head.perceptron[0].weight,
            "reconstructor": head.reconstructor.outward.weight,
        }
        found = torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
        return {
            name
            for name, gradient in zip(parts, found, strict=True)
            if gradient is not None and gradient.abs().max() > 1e-7
        }

    clips, regions = {"shared", "holistic", "perceptron"}, {"local", "reconstructor"}
    assert moved(global_weight=1.0, local_weight=0.0) == clips
    assert moved(global_weight=0.0, local_weight=1.0) == regions | {"shared"}
    assert moved(global_weight=1.0, local_weight=1.0) == regions | clips


def test_without_its_global_loss_the_local_one_is_left(backbone):
    batch, head = batch_of([1, 2]), fresh()

    def loss(**weights):
        return total(dataclasses.replace(TASK, **weights), backbone, head, batch).item()

    whole = loss(global_weight=1.0, local_weight=0.5)
    left = loss(global_weight=0.0, local_weight=0.5)
    assert 0 < left < whole
    assert whole == pytest.approx(left + loss(local_weight=0.0), rel=1e-5)


def test_a_task_without_any_loss_or_with_a_negative_weight_is_refused():
    with pytest.raises(UserError, match="global_weight=0 and local_weight=0 leave"):
        dataclasses.replace(TASK, global_weight=0.0, local_weight=0.0)
    for name in ("global_weight", "local_weight"):
        with pytest.raises(UserError, match=f"{name}=-1.0 must not be negative"):
            dataclasses.replace(TASK, **{name: -1.0})


def test_the_total_weighs_the_local_loss_and_views_can_be_swapped(backbone):
    batch, head = batch_of([1, 2]), fresh()

    def loss(weight, batch=batch):
        task = dataclasses.replace(TASK, local_weight=weight)
        return total(task, backbone, head, batch).item()

    local = loss(1.0) - loss(0.0)
    assert local > 0
    assert loss(0.001) == pytest.approx(loss(0.0) + 0.001 * local, rel=1e-5)
    swapped = batch | {k: batch[k].flip(1) for k in ("views", "boxes")}
    assert loss(0.3, swapped) == pytest.approx(loss(0.3), rel=1e-4)


def test_without_its_decoder_it_compares_regions_as_they_are(backbone):
    card = registry.get("const_cl:tiny").configuration().build
    changes = {"head": {"guided": False}, "local_weight": 1.0}
    (stage,) = dataclasses.replace(card, changes=changes)(
        data=FACTS, options=registry.TaskOptions()
    )
    task, batch = stage.task, batch_of([1, 2])
    head = fresh(task)
    assert {name.partition(".")[0] for name, _ in head.named_parameters()} == {
        "perceptron"
    }
    features = task.features(backbone, batch)
    found = task.loss(head, features, batch)
    apart = dataclasses.replace(task, local_weight=0.0)
    a, b = features["regions"].unbind(1)
    arguments = torch.ones_like(a[..., 0]), task.temperatures[1], batch["weight"]
    raw = (local_loss(a, a, b, *arguments) + local_loss(b, b, a, *arguments)) / 2
    torch.testing.assert_close(found, apart.loss(head, features, batch) + raw)
    # Context is what the decoder reads: other maps change nothing without it.
    elsewhere = features | {"maps": features["maps"].flip(0)}
    assert torch.equal(task.loss(head, elsewhere, batch), found)
    usual = dataclasses.replace(TASK, local_weight=1.0)
    assert not torch.equal(
        usual.loss(fresh(), elsewhere, batch), usual.loss(fresh(), features, batch)
    )
    unguided = registry.get("const_cl:tiny-unguided").build(data=FACTS)[0].task
    assert unguided.head == task.head


def test_regions_may_be_those_of_things(backbone):
    views = dataclasses.replace(TASK.augmentation, regions="things")
    task = dataclasses.replace(TASK, augmentation=views, global_weight=0.0)
    examples = DATA.fetch(np.array([1, 2])).regroup([2])
    seeds = np.array([7], np.uint64)
    batch = task.prepare(examples, seeds) | {"weight": torch.ones(len(examples))}
    assert batch["boxes"].shape == (len(examples), 2, 2, 4)
    hidden = batch["boxes"][..., 0] < 0
    assert 0 < hidden.float().mean() < 1
    base = total(task, backbone, fresh(task), batch)
    assert base > 0
    # Without a thing in sight there is nothing to learn.
    blind = batch | {"boxes": torch.full_like(batch["boxes"], -1)}
    assert total(task, backbone, fresh(task), blind) == 0
    fields = {k: v for k, v in examples.fields.items() if k != "boxes"}
    with pytest.raises(UserError, match="take regions='random'"):
        task.prepare(Examples(fields, examples.offsets), seeds)


def test_a_shared_decoder_is_aggregated_and_learns_from_regions_alone():
    (stage,) = registry.get("const_cl:tiny-carried").build(data=FACTS)
    torch.manual_seed(0)
    network, head = stage.task.make_backbone(), fresh(stage.task)
    names = FlatLayout.of(network, stage.trainable).names
    assert "decoder.outward.weight" in names
    assert not any("reconstructor" in name for name, _ in head.named_parameters())
    examples = DATA.fetch(np.array([1, 2])).regroup([2])
    batch = stage.task.prepare(examples, np.array([7], np.uint64))
    batch["weight"] = torch.ones(len(examples))
    for weight in (1.0, 0.0):
        task = dataclasses.replace(stage.task, global_weight=weight)
        features = task.features(network, batch)
        loss = task.loss(head, features, batch)
        weights = [network.decoder.outward.weight, network.holistic[0].space.weight]
        moved = torch.autograd.grad(loss, weights, allow_unused=True)
        assert moved[0].abs().max() > 0
        assert (moved[1] is not None) == bool(weight)
    # It says what a decoder of the client's own would say with the same values.
    local = dataclasses.replace(stage.task, share_decoder=False)
    own = fresh(local)
    own.reconstructor.load_state_dict(network.decoder.state_dict())
    own.perceptron.load_state_dict(head.perceptron.state_dict())
    network.decoder = None
    found = local.loss(own, local.features(network, batch), batch)
    shared = stage.task.loss(head, features | {"maps": features["carried"]}, batch)
    torch.testing.assert_close(found, shared)


def test_a_decoder_that_nothing_trains_is_not_aggregated():
    task = registry.get("const_cl:tiny-carried").build(data=FACTS)[0].task
    unguided = dataclasses.replace(task.head, guided=False)
    for changes in ({"head": unguided}, {"local_weight": 0.0}):
        assert dataclasses.replace(task, **changes).make_backbone().decoder is None
    assert task.make_backbone().decoder is not None


@pytest.mark.parametrize("engine", ["vectorized", "shared"])
def test_engines_agree_on_a_shared_decoder(engine):
    task = registry.get("const_cl:tiny-carried").build(data=FACTS)[0].task
    data = DATA.fetch(np.array([1, 2, 3])).regroup([2, 1])
    found, wanted = deltas(engine, data, task), deltas("serial", data, task)
    assert wanted.norm() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_what_is_carried_must_be_as_wide_as_what_it_is_compared_with():
    narrow = dataclasses.replace(TASK.head, outputs=TASK.head.channels + 1)
    with pytest.raises(UserError, match="Leave outputs out, or set local_weight=0"):
        dataclasses.replace(TASK, head=narrow)
    assert dataclasses.replace(TASK, head=narrow, local_weight=0.0)


def test_rows_are_seen_each_by_itself(backbone):
    refuse_batch_statistics(backbone)
    batch = batch_of([1, 2])
    with torch.no_grad():
        whole = TASK.features(backbone, batch)
        part = TASK.features(backbone, {k: v[3:4] for k, v in batch.items()})
    for name, values in whole.items():
        torch.testing.assert_close(part[name], values[3:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["vectorized", "shared"])
def test_engines_agree(engine):
    data = DATA.fetch(np.array([1, 2, 3])).regroup([2, 1])
    found, wanted = deltas(engine, data), deltas("serial", data)
    assert wanted.norm() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_another_user_moves_no_other_virtual_client():
    data = DATA.fetch(np.array([1, 2, 3, 4])).regroup([2, 2])
    other = DATA.fetch(np.array([1, 2, 3, 9])).regroup([2, 2])
    found, changed = deltas("shared", data), deltas("shared", other)
    torch.testing.assert_close(found[0], changed[0], rtol=0, atol=1e-12)
    assert not torch.allclose(found[1], changed[1])


def test_padding_is_neither_video_nor_negative(backbone):
    head, batch = fresh(), batch_of([1, 2])
    half = {k: v[:4] for k, v in batch.items()}
    padded = batch | {"weight": (torch.arange(8) < 4).float()}
    alone = total(TASK, backbone, head, half).item()
    assert total(TASK, backbone, head, padded).item() == pytest.approx(alone, rel=1e-5)


def test_heads_differ_between_clients_unless_they_are_public():
    data = DATA.fetch(np.array([1, 2]))
    seeds = np.array([1, 2], np.uint64)
    for kind, same in (("fresh", False), ("public", True)):
        recipe = LocalTraining(batch_size=4, steps=1, head_init=kind)
        heads = make_work(TASK, recipe, data, seeds).heads
        weights = heads["perceptron.0.weight"]
        assert torch.equal(weights[0], weights[1]) == same


def test_the_server_vector_is_the_backbone_alone(backbone):
    (stage,) = registry.get("const_cl:tiny").build(data=FACTS)
    layout = FlatLayout.of(backbone, stage.trainable)
    assert layout.size == sum(p.numel() for p in backbone.parameters())
    heads = {name for name, _ in TASK.make_head(1).named_parameters()}
    assert not heads & set(layout.names)


def test_adapters_stand_at_the_ends_of_blocks(backbone):
    assert isinstance(backbone, VideoEncoder)
    assert len(backbone.adapter_sites()) == 2
    clips = torch.randn(2, 3, 4, 16, 16)
    adapted = with_adapters(backbone, 2)
    torch.testing.assert_close(adapted(clips), backbone(clips))
    with torch.no_grad():
        for adapter in adapted.adapters.values():
            adapter.up.bias += 1
    assert not torch.allclose(adapted(clips), backbone(clips))


def test_metrics_are_there(backbone):
    held_out = DATA.held_out()
    rows = np.arange(60)
    some = Examples(held_out.take(rows), np.array([0, 60]))
    found = TASK.evaluate(backbone, some)
    assert set(registry.get("const_cl").watched) <= set(found)
    names = ("recall_at_1", "track_precision", "track_success", "region_matching")
    names += ("view_to_view_recall_at_10", "view_matching")
    assert all(0 <= found[name] <= 1 for name in names)
    assert 0.3 < found["region_matching_chance"] <= 0.5
    hidden = some.fields | {"boxes": np.full_like(some.fields["boxes"], -1)}
    blind = TASK.evaluate(backbone, Examples(hidden, some.offsets))
    assert set(blind) == set(found)
    assert {name for name in blind if np.isnan(blind[name])} == {
        *("track_precision", "track_success"),
        *("region_matching", "region_matching_chance", "view_matching"),
    }


def test_a_shared_decoder_is_judged_by_what_it_carries_over():
    task = registry.get("const_cl:tiny-carried").build(data=FACTS)[0].task
    torch.manual_seed(0)
    network, held_out = task.make_backbone(), DATA.held_out()
    some = Examples(held_out.take(np.arange(60)), np.array([0, 60]))
    found = task.evaluate(network, some)
    assert 0 <= found["carried_matching"] <= 1
    with torch.no_grad():  # a decoder whose output is the same for all tells nothing
        network.decoder.outward.weight.zero_()
    other = task.evaluate(network, some)
    assert other["carried_matching"] != found["carried_matching"]
    assert other["view_matching"] == found["view_matching"]
