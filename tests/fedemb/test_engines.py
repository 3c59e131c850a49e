"""Every engine computes what the serial one does; nothing crosses virtual clients."""

import numpy as np
import pytest
import torch
from core_toys import BACKBONES, DIM, everyone, module, rows, runner, task, theta
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedemb.data import Examples
from fedemb.engines.flat import FORMS, flat_deltas, grouped_deltas, stacked_deltas
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas, single_backbone_step
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.heads import LinearHead
from fedemb.identity import IdentityTask
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from fedemb.work import Work

IN_LOCK_STEP = [stacked_deltas, grouped_deltas, vectorized_deltas]
HEADS = ["linear", "cosine", "class-means"]


def compute(engine, data, recipe, backbone="dense", head="linear", space="client"):
    """Deltas in float64 and the work they come from."""
    own = task(backbone, head, space)
    seeds = np.arange(data.num_groups, dtype=np.uint64) * np.uint64(7919)
    work = make_work(own, recipe, data, seeds, dtype=torch.float64)
    net = module(backbone).double()
    layout = FlatLayout.of(net)
    theta = layout.flatten(dict(net.named_parameters()))
    model = LocalModel(own, net.requires_grad_(False), work.head)
    return engine(model, layout, theta, work, recipe), work


def agree(data, recipe, **kinds):
    expected, work = compute(serial_deltas, data, recipe, **kinds)
    engines = [vectorized_deltas, flat_deltas]
    if kinds.get("backbone") != "loose":
        engines += [stacked_deltas, grouped_deltas]
    if single_backbone_step(work, recipe):
        engines.append(shared_deltas)
    for engine in engines:
        found, _ = compute(engine, data, recipe, **kinds)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    return expected


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any),
    recipe=st.builds(
        LocalTraining,
        learning_rate=st.sampled_from([0.05, 0.5]),
        momentum=st.sampled_from([0.0, 0.9]),
        batch_size=st.integers(1, 5),
        epochs=st.integers(1, 2),
        steps=st.none() | st.integers(1, 3),
        head_steps=st.none() | st.integers(0, 3),
        head_lr_scale=st.sampled_from([1.0, 20.0]),
    ),
    head=st.sampled_from(HEADS),
    space=st.sampled_from(["client", "global"]),
    seed=st.integers(0, 100),
)
def test_vectorized_equals_serial(sizes, recipe, head, space, seed):
    agree(rows(sizes, seed), recipe, head=head, space=space)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("head_steps", [None, 1])
def test_one_backbone_step_is_the_same_in_all_three(backbone, head, head_steps):
    steps = 1 if head_steps is None else 2
    recipe = LocalTraining(
        learning_rate=0.3, batch_size=5, steps=steps, head_steps=head_steps
    )
    deltas = agree(rows([3, 7, 1, 4]), recipe, backbone=backbone, head=head)
    assert float(deltas.norm()) > 0


@pytest.mark.parametrize("backbone", ["conv", "loose"])
def test_several_steps_with_momentum_on_other_backbones(backbone):
    recipe = LocalTraining(learning_rate=0.2, batch_size=3, epochs=3, momentum=0.9)
    agree(rows([3, 7, 1, 4]), recipe, backbone=backbone)


@pytest.mark.parametrize("engine", [stacked_deltas, grouped_deltas])
def test_layers_without_a_form_are_refused(engine):
    with pytest.raises(ValueError, match="use --engine flat"):
        compute(engine, rows([5]), LocalTraining(), backbone="loose")


class Lines(nn.Module):
    """Convolutions over one and over three axes of the toy images."""

    def __init__(self) -> None:
        super().__init__()
        self.along, self.norm = nn.Conv1d(4, 6, 3, padding="same"), nn.GroupNorm(3, 6)
        self.through = nn.Conv3d(1, 2, (3, 1, 3), stride=(1, 2, 1), bias=False)
        self.last = nn.Linear(4, DIM)

    def forward(self, images):
        lines = torch.tanh(self.norm(self.along(images.flatten(1, 2))))
        return self.last(
            torch.tanh(self.through(lines.view(-1, 1, 3, 2, 4))).flatten(1)
        )


def test_the_grouped_engine_convolves_over_any_number_of_axes():
    recipe = LocalTraining(learning_rate=0.2, batch_size=3, epochs=2, momentum=0.9)
    BACKBONES["lines"] = Lines
    try:
        expected, _ = compute(serial_deltas, rows([3, 5, 1]), recipe, backbone="lines")
        found, _ = compute(grouped_deltas, rows([3, 5, 1]), recipe, backbone="lines")
    finally:
        del BACKBONES["lines"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert expected.any()


def mixed_backbone():
    """Strides, dilation, groups, one-by-one kernels, no bias, and a layer norm."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=1, padding=2, dilation=2, bias=False),
        nn.GroupNorm(4, 4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 6, 1),
        nn.Tanh(),
        nn.Conv2d(6, 6, (3, 2), stride=(2, 1), groups=2),
        nn.Flatten(),
        nn.LayerNorm(18),
        nn.Linear(18, DIM, bias=False),
    )


class Tied(nn.Module):
    """Two layers that share their weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second, self.last = nn.Linear(16, 16), nn.Linear(16, DIM)
        self.second.weight = self.first.weight

    def forward(self, images):
        hidden = torch.tanh(self.first(images.flatten(1)))
        return self.last(torch.tanh(self.second(hidden)))


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any),
    momentum=st.sampled_from([0.0, 0.9]),
    head_steps=st.none() | st.integers(0, 2),
    kind=st.sampled_from(["mixed", "tied"]),
    frozen=st.booleans(),
    seed=st.integers(0, 100),
)
def test_flat_and_stacked_equal_serial_on_other_layers(
    sizes, momentum, head_steps, kind, frozen, seed
):
    recipe = LocalTraining(
        learning_rate=0.2,
        momentum=momentum,
        batch_size=3,
        epochs=2,
        head_steps=head_steps,
    )
    BACKBONES["mixed"], BACKBONES["tied"] = mixed_backbone, Tied
    try:
        net = module(kind).double()
    finally:
        own = task(kind, "linear")
        del BACKBONES["mixed"], BACKBONES["tied"]
    trainable = (
        "all" if not frozen else "names:4.*,8.bias" if kind == "mixed" else "last"
    )
    layout = FlatLayout.of(net, trainable)
    theta = layout.flatten(dict(net.named_parameters()))
    data = rows(sizes, seed)
    seeds = np.arange(data.num_groups, dtype=np.uint64)
    work = make_work(own, recipe, data, seeds, dtype=torch.float64)
    model = LocalModel(own, net.requires_grad_(False), work.head)
    expected = serial_deltas(model, layout, theta, work, recipe)
    engines = [flat_deltas]
    if kind != "tied" or frozen:
        engines += [stacked_deltas, grouped_deltas]
    for engine in engines:
        found = engine(model, layout, theta, work, recipe)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def layers_with_a_rule():
    """Convolutions whose weight gradients are formed in each of the possible ways."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),  # narrow patches
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 24, 3, stride=2, dilation=2, padding=1, bias=False),
        nn.Tanh(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),  # depthwise
        nn.Conv2d(24, 8, 1, stride=2),
        nn.Flatten(),
        nn.LazyLinear(DIM),
    )


@pytest.mark.parametrize(
    ("kind", "side"), [("layers", 4), ("layers", 24), ("mixed", 4), ("tied", 4)]
)
@pytest.mark.parametrize("head_steps", [None, 0, 2])
def test_shared_equals_serial_on_layers_with_a_rule(kind, side, head_steps):
    """A client's patches of 24 x 24 pixels are too many to be written out."""
    makers = {"layers": layers_with_a_rule, "mixed": mixed_backbone, "tied": Tied}
    torch.manual_seed(0)
    net = makers[kind]().double()
    net(torch.zeros(1, 1, side, side, dtype=torch.float64))
    own = IdentityTask(
        name=kind,
        backbone=makers[kind],
        embedding_dim=DIM,
        num_classes=5,
        head="linear",
        label_space="global",
    )
    draw = np.random.default_rng(side)
    sizes = [9, 4, 1]
    fields = {
        "image": draw.integers(0, 256, (14, side, side, 1), dtype=np.uint8),
        "label": draw.integers(0, 5, 14),
    }
    data = Examples(fields, np.concatenate([[0], np.cumsum(sizes)]))
    recipe = LocalTraining(
        learning_rate=0.2,
        batch_size=9,
        steps=(head_steps or 0) + 1,
        head_steps=head_steps,
    )
    layout = FlatLayout.of(net, "all")
    theta = layout.flatten(dict(net.named_parameters()))
    seeds = np.arange(data.num_groups, dtype=np.uint64)
    work = make_work(own, recipe, data, seeds, dtype=torch.float64)
    model = LocalModel(own, net.requires_grad_(False), work.head)
    expected = serial_deltas(model, layout, theta, work, recipe)
    found = shared_deltas(model, layout, theta, work, recipe)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


class MapHead(nn.Module):
    """Normalises feature maps `[B, C, H, W]` before it classifies their average."""

    def __init__(self, capacity):
        super().__init__()
        self.norm, self.dense = nn.GroupNorm(2, 4), nn.Linear(4, capacity)

    def forward(self, features, batch):
        logits = self.dense(torch.tanh(self.norm(features)).mean((2, 3)))
        losses = nn.functional.cross_entropy(logits, batch["label"], reduction="none")
        return (losses * batch["weight"]).sum() / batch["weight"].sum()


class MapTask(IdentityTask):
    def make_head(self, capacity):
        return MapHead(capacity)

    def fresh_head(self, template, classes, generator):
        return {k: v.detach().clone() for k, v in template.named_parameters()}


@pytest.mark.parametrize(
    "engine", [shared_deltas, stacked_deltas, grouped_deltas, vectorized_deltas]
)
@pytest.mark.parametrize("head_steps", [None, 2])
def test_heads_may_normalise_feature_maps(engine, head_steps):
    own = MapTask(
        name="maps",
        backbone=lambda: nn.Conv2d(1, 4, 3, padding=1),
        embedding_dim=4,
        num_classes=6,
        head="linear",
        label_space="global",
    )
    net = own.make_backbone().double()
    data = rows([5, 2, 4])
    recipe = LocalTraining(
        batch_size=5, steps=(head_steps or 0) + 1, head_steps=head_steps
    )
    layout = FlatLayout.of(net, "all")
    theta = layout.flatten(dict(net.named_parameters()))
    seeds = np.arange(3, dtype=np.uint64)
    work = make_work(own, recipe, data, seeds, dtype=torch.float64)
    net.to(memory_format=torch.channels_last).requires_grad_(False)
    model = LocalModel(own, net, work.head.double())
    expected = serial_deltas(model, layout, theta, work, recipe)
    found = engine(model, layout, theta, work, recipe)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_the_shared_engine_refuses_several_backbone_steps():
    recipe = LocalTraining(steps=2, batch_size=2)
    with pytest.raises(ValueError, match="use the vectorized engine"):
        compute(shared_deltas, rows([5]), recipe)


ENGINE_RECIPES = [
    ("serial", {"epochs": 2, "momentum": 0.5}),
    ("flat", {"epochs": 2, "momentum": 0.5}),
    ("stacked", {"epochs": 2, "momentum": 0.5}),
    ("stacked", {"steps": 3, "head_steps": 1}),
    ("grouped", {"epochs": 2, "momentum": 0.5}),
    ("grouped", {"steps": 3, "head_steps": 1}),
    ("vectorized", {"epochs": 2, "momentum": 0.5}),
    ("vectorized", {"steps": 3, "head_steps": 1}),
    ("shared", {"steps": 1}),
    ("shared", {"steps": 2, "head_steps": 1}),
]
POISON = [1.0, 0.0, 1e38, np.inf, np.nan]


def all_deltas(engine, data, backbone, head, recipe):
    own = runner(data, engine=engine, backbone=backbone, head=head, **recipe)
    return own.deltas(theta(own), own.work(everyone(data.num_groups), 0))


@pytest.mark.parametrize(("engine", "recipe"), ENGINE_RECIPES)
@pytest.mark.parametrize("head", ["linear", "class-means"])
@pytest.mark.parametrize("backbone", ["dense", "conv", "loose"])
def test_perturbing_one_client_changes_no_other_bit(engine, recipe, head, backbone):
    """Not even NaN crosses: padding of the others' batches is their own."""
    if engine in FORMS and backbone == "loose":
        pytest.skip("has a layer without a stacked form; refused, see below")
    data = rows([3, 6, 5, 1, 0, 4], seed=2)
    before = all_deltas(engine, data, backbone, head, recipe)
    for client in (0, 2, 5):
        own = slice(int(data.offsets[client]), int(data.offsets[client + 1]))
        for value in POISON:
            image = data.fields["image"].copy()
            image[own] = value
            other = Examples(dict(data.fields, image=image), data.offsets)
            after = all_deltas(engine, other, backbone, head, recipe)
            for v in range(data.num_groups):
                if v != client:
                    assert torch.equal(after[v], before[v])


@pytest.mark.parametrize(("engine", "recipe"), ENGINE_RECIPES)
def test_a_client_without_rows_moves_by_exactly_zero(engine, recipe):
    deltas = all_deltas(engine, rows([3, 0, 4]), "dense", "linear", recipe)
    assert not deltas[1].any()
    assert deltas[0].any()


class Reference(nn.Module):
    """A linear classifier with bias, all ones and zeros, as the published test has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 1))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, features, batch):
        logits = features @ self.weight.T + self.bias
        chosen = (batch["label"][:, None] == torch.arange(2)).to(logits)
        losses = -(torch.log_softmax(logits, -1) * chosen).sum(-1)
        return (losses * batch["weight"]).sum() / batch["weight"].sum()


class Linear21:
    """The task of the fixture: features are a linear map of two numbers to one."""

    def features(self, backbone, batch):
        return backbone(batch["x"])

    def loss(self, head, features, batch):
        return head(features, batch)


@pytest.mark.parametrize(
    "engine",
    [serial_deltas, flat_deltas, stacked_deltas, grouped_deltas, vectorized_deltas],
)
@pytest.mark.parametrize(
    ("head_steps", "norm"), [(10, 0.0), (0, 0.0), (1, 5.22e-3), (2, 1.18e-2)]
)
def test_reconstruction_fixture(engine, head_steps, norm):
    """Published: linear 2 -> 1 -> 2, four rows twice, three batches of 3, SGD 0.1."""
    net = nn.Linear(2, 1)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    head, layout = Reference(), FlatLayout.of(net)
    order = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, -1])
    work = Work(
        batch={
            "x": torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0]]),
            "label": torch.tensor([0, 0, 1, 1]),
        },
        rows=order.view(1, 3, 3),
        classes=torch.tensor([2]),
        capacity=2,
        head=head,
        heads={k: v.detach()[None] for k, v in head.named_parameters()},
    )
    recipe = LocalTraining(learning_rate=0.1, head_steps=head_steps, batch_size=3)
    model = LocalModel(Linear21(), net.requires_grad_(False), head)
    theta = layout.flatten(dict(net.named_parameters()))
    found = float(engine(model, layout, theta, work, recipe).norm())
    assert found == pytest.approx(norm, rel=5e-3, abs=1e-12)


@pytest.mark.parametrize(
    "engine",
    [
        serial_deltas,
        flat_deltas,
        stacked_deltas,
        grouped_deltas,
        vectorized_deltas,
        shared_deltas,
    ],
)
@pytest.mark.parametrize("head", HEADS)
def test_head_steps_of_all_steps_leave_the_backbone_exactly_where_it_is(engine, head):
    recipe = LocalTraining(steps=3, head_steps=3, batch_size=2)
    deltas, _ = compute(engine, rows([4, 2]), recipe, head=head)
    assert not deltas.any()


def test_head_steps_of_zero_keep_the_random_head_and_move_the_backbone():
    """Another head rate changes nothing, since no step moves the head."""
    found = [
        compute(
            serial_deltas,
            rows([4, 6]),
            LocalTraining(steps=2, head_steps=0, batch_size=3, head_lr_scale=scale),
        )[0]
        for scale in (1.0, 100.0)
    ]
    assert torch.equal(found[0], found[1])
    assert found[0].any()


def test_the_head_rate_scales_the_head_alone():
    """One joint step moves the backbone by the first gradient, whatever the scale."""
    found = {
        (steps, scale): compute(
            serial_deltas,
            rows([4]),
            LocalTraining(steps=steps, batch_size=4, head_lr_scale=scale),
        )[0]
        for steps in (1, 2)
        for scale in (0.5, 5.0)
    }
    assert torch.equal(found[1, 0.5], found[1, 5.0])
    assert not torch.equal(found[2, 0.5], found[2, 5.0])


@pytest.mark.parametrize(
    "engine",
    [
        serial_deltas,
        flat_deltas,
        stacked_deltas,
        grouped_deltas,
        vectorized_deltas,
        shared_deltas,
    ],
)
def test_permuting_the_class_ids_of_a_client_changes_nothing(engine):
    data, recipe = rows([6, 5], seed=3), LocalTraining(batch_size=6, steps=1)
    names = np.array([4, 2, 0, 5, 1, 3])
    renamed = Examples(
        dict(data.fields, label=names[data.fields["label"]]), data.offsets
    )
    before, after = (
        compute(engine, x, recipe, head="class-means")[0] for x in (data, renamed)
    )
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
    assert before.any()


def test_the_aggregated_vector_has_exactly_the_backbones_names():
    """A head is no part of it: no tensor of shape (classes, ...) is ever added."""
    own = runner(rows([3, 4]), head="linear")
    names = tuple(dict(own.backbone.named_parameters()))
    assert own.layout.names == names
    assert own.layout.size == sum(p.numel() for p in own.backbone.parameters())
    assert not any(isinstance(m, LinearHead) for m in own.backbone.modules())
