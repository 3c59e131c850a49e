"""Image backbones: published counts, rows apart, equal gradients in every engine."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import UserError
from fedemb.identity import IdentityTask
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.pixels import reduced_shape
from model_zoo import registry
from model_zoo.image.lenet import LeNet
from model_zoo.image.mobilenet_v2 import MobileNetV2, SmallMobileNetV2
from model_zoo.image.resnet50 import ResNet50
from model_zoo.image.small_cnn import SmallCNN
from model_zoo.image.stages import ImageStages

IMAGES = [
    name
    for name in registry.names()
    if isinstance(registry.get(name).configuration().build, ImageStages)
]
SCRATCH = [name for name in IMAGES if name != "efficientnet_lite0"]
SMALL = {  # cheap enough to train here, with the shapes they are trained on
    "small_cnn": (12, 12, 1),
    "lenet:tiny": (12, 12, 1),
    "mobilenet_small:tiny": (16, 16, 3),
    "mobilenet_v2:tiny": (32, 32, 3),
    "resnet50:tiny": (32, 32, 3),
}


def stage_of(name, shape, **options):
    system = registry.get(name)
    made = registry.TaskOptions(**options)
    data = registry.DataFacts(example_shape=shape, num_classes=5)
    return system.build(data=data, options=made)[0]


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(make, *arguments, **keywords):
    with torch.device("meta"):
        return make(*arguments, **keywords)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lenet", 453_632),
        ("mobilenet_v2", 2_387_840),
        ("mobilenet_small", 159_296),
        ("resnet50", 23_770_304),
    ],
)
def test_backbones_have_the_published_sizes(name, size):
    paper = registry.describe(name)["configurations"]["paper"]
    assert paper["backbone_parameters"] == size
    assert paper["total_parameters"] == size + paper["head_parameters"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("lenet", 7_936), ("mobilenet_v2", 153_984), ("resnet50", 1_158_016)],
)
def test_heads_have_the_published_sizes(name, parameters):
    paper = registry.describe(name)["configurations"]["paper"]
    assert paper["head_parameters"] == parameters


@pytest.mark.parametrize(
    ("make", "size"),
    [(MobileNetV2, 198_080), (SmallMobileNetV2, 86_848), (ResNet50, 15_480_000)],
)
def test_frozen_convolutions_leave_the_published_number_to_train(make, size):
    assert FlatLayout.of(on_meta(make), "frozen-conv").size == size


def test_frozen_convolutions_of_three_groups_are_those_of_the_last_two():
    small = on_meta(ResNet50, (32, 32, 3), 8, blocks=(1, 1, 1), width=8, groups=4)
    names = FlatLayout.of(small, "frozen-conv").names
    kernels = {n.split(".layers")[0] for n in names if n.endswith("conv.weight")}
    assert {n.split(".shortcut")[0] for n in kernels} == {
        "stem.conv.weight",
        "blocks.0.0",
    }


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_what_trains_from_scratch_on_a_laptop_is_small(name):
    tiny = registry.describe(name)["configurations"]["tiny"]
    assert 30_000 < tiny["backbone_parameters"] < 100_000


def test_lenet_layers_have_the_published_sizes():
    lenet = on_meta(LeNet)
    layers = (lenet.conv1, lenet.conv2, lenet.embedding)
    assert [count(layer) for layer in layers] == [832, 51_264, 401_536]


def test_resnet_pooling_feeds_2048_or_nine_times_2048_values():
    assert on_meta(ResNet50).embedding.in_features == 2048
    assert on_meta(ResNet50, pooling="avg32").embedding.in_features == 3 * 3 * 2048


@pytest.mark.parametrize("name", IMAGES)
def test_the_embedding_dimension_is_free(name):
    stage = stage_of(name, (32, 32, 3), embedding_dim=107)
    with torch.device("meta"):
        embedded = stage.task.make_backbone()(torch.zeros(2, 3, 32, 32))
    assert embedded.shape == (2, 107)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (64, 64, 3), (33, 21, 2)])
@pytest.mark.parametrize("name", SCRATCH)
def test_images_of_any_size_and_number_of_channels_are_embedded(name, shape):
    stage = stage_of(name, shape)
    height, width, channels = reduced_shape(shape, stage.task.max_side)
    with torch.device("meta"):
        out = stage.task.make_backbone()(torch.zeros(2, channels, height, width))
    assert out.shape == (2, stage.task.embedding_dim)


@pytest.mark.parametrize(
    ("side", "blocks"),
    [(65, (3, 4, 6, 3)), (96, (3, 4, 6, 3)), (224, (3, 4, 6, 3)), (33, (1, 1, 1))],
)
def test_avg32_pooling_fits_its_embedding(side, blocks):
    backbone = on_meta(ResNet50, (side, side, 3), 8, blocks=blocks, pooling="avg32")
    images = torch.zeros(1, 3, side, side, device="meta")
    assert backbone(images).shape == (1, 8)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (LeNet, {"image_shape": (3, 28, 1)}),
        (ResNet50, {"image_shape": (64, 64, 3), "pooling": "avg32"}),
        (ResNet50, {"pooling": "maximum"}),
    ],
)
def test_what_cannot_be_built_is_refused(make, arguments):
    with pytest.raises(UserError):
        on_meta(make, **arguments)


@pytest.mark.parametrize("shape", [(28, 28), (0, 28, 1)])
def test_examples_that_are_not_images_are_refused(shape):
    with pytest.raises(UserError, match=r"height, width, channels|at least 1"):
        stage_of("lenet", shape)


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_of_one_equals_its_row_of_a_batch(name):
    shape = SMALL[name]
    torch.manual_seed(0)
    backbone = stage_of(name, shape).task.make_backbone().double()
    images = torch.randn(4, shape[2], *shape[:2], dtype=torch.float64)
    whole = backbone(images)
    for i in range(4):
        torch.testing.assert_close(backbone(images[i : i + 1]), whole[i : i + 1])


@pytest.mark.parametrize("name", SCRATCH)
def test_no_backbone_has_buffers_or_batch_statistics(name):
    for key in registry.get(name).configurations:
        backbone = on_meta(stage_of(f"{name}:{key}", (96, 96, 3)).task.make_backbone)
        assert list(backbone.buffers()) == []
        refuse_batch_statistics(backbone)


@pytest.mark.parametrize("head", ["linear", "cosine", "class-means"])
@pytest.mark.parametrize("name", SMALL)
def test_vectorised_gradients_equal_serial_ones(name, head):
    shape = SMALL[name]
    torch.manual_seed(1)
    task = stage_of(name, shape, head=head).task
    model = LocalModel(task, task.make_backbone(), task.make_head(3)).double()
    clients, rows = 2, 5
    batch = {
        "image": torch.randn(clients, rows, shape[2], *shape[:2]).double(),
        "label": torch.randint(0, 2, (clients, rows)),
        "weight": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).double(),
        "classes": torch.tensor([2, 3]),
    }
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    stacked = {
        k: v + 0.05 * torch.randn(clients, *v.shape).double()
        for k, v in parameters.items()
    }

    def loss(parameters, batch):
        return functional_call(model, parameters, (batch,))

    together = vmap(grad(loss))(stacked, batch)
    for v in range(clients):
        alone = grad(loss)(
            {k: p[v] for k, p in stacked.items()}, {k: b[v] for k, b in batch.items()}
        )
        for key, value in alone.items():
            torch.testing.assert_close(together[key][v], value, rtol=1e-6, atol=1e-9)
    assert any(value.abs().max() > 0 for value in together.values())


def deltas_with_penalty(engine, kernel_l2):
    """Weights `[P]` and deltas `[V, P]` of one local step of a small ResNet."""
    make = partial(ResNet50, (16, 16, 3), 8, blocks=(1, 1, 1, 1), width=8, groups=4)
    task = IdentityTask(
        name="resnet",
        backbone=partial(make, kernel_l2=kernel_l2),
        embedding_dim=8,
        num_classes=2,
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    examples = Examples(
        {"image": images, "label": np.arange(8) % 2}, np.array([0, 4, 8])
    )
    recipe = LocalTraining(learning_rate=0.1, steps=1)
    seeds = np.arange(2, dtype=np.uint64)
    work = make_work(task, recipe, examples, seeds, dtype=torch.float64)
    torch.manual_seed(0)
    backbone = task.make_backbone().double().requires_grad_(requires_grad=False)
    layout = FlatLayout.of(backbone)
    theta = layout.flatten(dict(backbone.named_parameters()))
    model = LocalModel(task, backbone, work.head)
    return layout, theta, engine(model, layout, theta, work, recipe)


@pytest.mark.parametrize("engine", [serial_deltas, vectorized_deltas, shared_deltas])
def test_the_kernel_penalty_shrinks_every_client_s_kernels_in_every_engine(engine):
    layout, theta, penalised = deltas_with_penalty(engine, kernel_l2=1e-2)
    _, _, free = deltas_with_penalty(engine, kernel_l2=0.0)
    shrunk = layout.unflatten(penalised - free)
    for name, value in layout.unflatten(theta).items():
        rate = 0.0 if ".norm." in name else 0.1 * 2 * 1e-2
        expected = (-rate * value).expand_as(shrunk[name])
        torch.testing.assert_close(shrunk[name], expected, rtol=1e-6, atol=1e-9)


def test_the_small_cnn_of_a_laptop_has_about_89_thousand_parameters():
    assert count(on_meta(SmallCNN)) == 89_008
