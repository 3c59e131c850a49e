"""Views: mild distortions, drawn inside the virtual client, for training only."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from core_toys import everyone, module, rows, runner, task, theta
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.baselines import AggregatedHeadTask
from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import UserError
from fedemb.heads import ClassMeansHead, LinearHead
from fedemb.identity import embed_all
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from fedemb.pixels import pixels
from fedemb.views import AUGMENTS, _grid, views_of

SEEDS = np.arange(4, dtype=np.uint64) * np.uint64(7919)


def some(sizes=(2, 3, 0, 1), seed=0):
    data = rows(list(sizes), seed)
    return pixels(data.fields["image"]), data.offsets


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_have_the_shape_and_the_range_of_the_images(augment):
    images, offsets = some()
    views = views_of(images, offsets, SEEDS, 3, augment)
    assert views.shape == (6, 3, *images.shape[1:])
    assert bool(((views >= -1) & (views <= 1)).all())
    assert not torch.isclose(views[:, 0], views[:, 1]).all()


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_depend_on_the_groups_own_rows_and_seed_alone(augment):
    images, offsets = some()
    before = views_of(images, offsets, SEEDS, 2, augment)
    alone = views_of(images[2:5], np.array([0, 3]), SEEDS[1:2], 2, augment)
    torch.testing.assert_close(before[2:5], alone)
    other = images.clone()
    other[:2] = float("nan")
    assert torch.equal(views_of(other, offsets, SEEDS, 2, augment)[2:], before[2:])
    seeds = SEEDS.copy()
    seeds[1] += np.uint64(1)
    moved = views_of(images, offsets, seeds, 2, augment)
    assert torch.equal(moved[:2], before[:2])
    assert not torch.isclose(moved[2:5], before[2:5]).all()


def test_an_affine_view_of_a_plain_image_is_the_plain_image():
    images = torch.full((3, 2, 8, 8), 0.25)
    views = views_of(images, np.array([0, 3]), SEEDS[:1], 4)
    torch.testing.assert_close(views, images[:, None].expand_as(views))


def test_affine_views_are_mild():
    """The middle of a blob moves by no more than shift, turn, shear and zoom allow."""
    images = torch.full((1, 1, 40, 40), -1.0)
    images[:, :, 14:26, 14:26] = 1.0
    views = views_of(images, np.array([0, 1]), SEEDS[:1], 200)[0, :, 0] + 1
    area = views.sum((1, 2)) / 2
    assert bool(((area > 0.6 * 144) & (area < 1.6 * 144)).all())
    y = (views.sum(2) * torch.arange(40)).sum(1) / views.sum((1, 2)) - 19.5
    assert 1.0 < float(y.abs().max()) < 5.0
    assert abs(float(y.mean())) < 0.5


def deltas(engine, own, data, recipe):
    work = make_work(own, recipe, data, SEEDS[: data.num_groups], torch.float64)
    net = module("conv").double()
    layout = FlatLayout.of(net)
    start = layout.flatten(dict(net.named_parameters()))
    model = LocalModel(own, net.requires_grad_(False), work.head)
    return engine(model, layout, start, work, recipe)


@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any),
    head=st.sampled_from(["linear", "cosine", "class-means"]),
    head_steps=st.sampled_from([None, 1]),
    seed=st.integers(0, 50),
)
def test_every_engine_trains_on_the_same_views(sizes, head, head_steps, seed):
    own = replace(task("conv", head), views=2)
    recipe = LocalTraining(
        learning_rate=0.3,
        batch_size=4,
        steps=1 + bool(head_steps),
        head_steps=head_steps,
    )
    expected = deltas(serial_deltas, own, rows(sizes, seed), recipe)
    for engine in (vectorized_deltas, shared_deltas):
        found = deltas(engine, own, rows(sizes, seed), recipe)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_with_one_example_per_class_only_views_teach_anything():
    data = rows([5])
    data.fields["label"][:] = np.arange(5)
    recipe = LocalTraining(learning_rate=0.5, batch_size=5, steps=1)
    assert not deltas(shared_deltas, task("conv"), data, recipe).any()
    seen = deltas(shared_deltas, replace(task("conv"), views=2), data, recipe)
    assert float(seen.norm()) > 1e-3


def test_class_means_compare_a_lone_row_with_its_own_other_views_only():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(3, 2, 5, generator=g).double()
    labels = torch.tensor([0, 0, 1])
    unit = features / features.norm(dim=-1, keepdim=True)
    losses = []
    for row in range(3):
        for view in range(2):
            logits = []
            for k in range(2):
                rest = [r for r in range(3) if labels[r] == k and r != row]
                mean = unit[rest].sum((0, 1)) if rest else unit[row, 1 - view]
                logits.append(unit[row, view] @ mean / mean.norm() / 0.1)
            logits = torch.stack(logits)
            losses.append(logits.logsumexp(0) - logits[labels[row]])
    batch = {
        "label": labels,
        "weight": torch.ones(3, dtype=torch.float64),
        "classes": torch.tensor(2),
    }
    found = ClassMeansHead(4)(features, batch)
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("head", [ClassMeansHead(3), LinearHead(5, 3)])
def test_padding_rows_with_views_never_count(head):
    g = torch.Generator().manual_seed(1)
    features = torch.randn(4, 2, 5, generator=g)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    batch = {"label": torch.tensor([0, 1, 0, 1]), "classes": torch.tensor(2)}
    whole = head(features, {**batch, "weight": weight})
    cut = {"label": batch["label"][:3], "classes": torch.tensor(2)}
    alone = head(features[:3], {**cut, "weight": torch.ones(3)})
    torch.testing.assert_close(whole, alone)


def test_an_aggregated_head_classifies_every_view():
    own = AggregatedHeadTask(
        replace(task("conv", "linear", "global"), views=2, num_classes=6)
    )
    data = rows([4, 3])
    recipe = LocalTraining(learning_rate=0.5, batch_size=4, steps=1)
    work = make_work(own, recipe, data, SEEDS[:2], torch.float64)
    torch.manual_seed(0)
    net = own.make_backbone().double()
    batch = next(work.of(0))
    views = net.head.logits(net.backbone(batch["views"].flatten(0, 1)))
    labels = batch["label"].repeat_interleave(2)
    expected = torch.nn.functional.cross_entropy(views, labels)
    found = own.loss(work.head, own.features(net, batch), batch)
    torch.testing.assert_close(found, expected)


def test_embeddings_and_evaluation_never_see_a_view():
    data, net = rows([9]), module("conv")
    plain, viewed = task("conv"), replace(task("conv"), views=3)
    assert torch.equal(embed_all(plain, net, data), embed_all(viewed, net, data))
    assert plain.evaluate(net, data) == viewed.evaluate(net, data)


def test_views_are_new_in_every_round_and_repeat_with_the_key():
    data = rows([4, 4])
    own = replace(runner(data, steps=1), task=replace(task(), views=2))
    works = [own.work(everyone(2), t).batch["views"] for t in (0, 0, 1)]
    assert torch.equal(works[0], works[1])
    assert not torch.isclose(works[0], works[2]).all()
    assert own.deltas(theta(own), own.work(everyone(2), 0)).any()


@pytest.mark.parametrize("wrong", [{"views": 0}, {"augment": "mixup"}])
def test_unknown_views_are_refused(wrong):
    with pytest.raises(UserError, match="must be"):
        replace(task(), **wrong)


def test_no_rows_have_no_views():
    empty = Examples({"image": np.zeros((0, 4, 4, 1), np.uint8)}, np.array([0, 0]))
    images = pixels(empty.fields["image"])
    assert views_of(images, empty.offsets, SEEDS[:1], 2).shape == (0, 2, 1, 4, 4)


def test_the_grid_of_maps_is_torch_s():
    torch.manual_seed(0)
    maps = torch.randn(5, 2, 3)
    right = torch.nn.functional.affine_grid(maps, [5, 1, 4, 6], align_corners=False)
    torch.testing.assert_close(_grid(maps, 4, 6), right, rtol=1e-5, atol=1e-6)
