"""The identity task: published preprocessing, fresh heads, unit-length embeddings."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.identity import IdentityTask, embed_all
from fedemb.pixels import pixels
from fedemb.protocols import EmbeddingTask


class Flat(nn.Module):
    """A linear backbone without bias, so that a zero image has a zero embedding."""

    def __init__(self, inputs: int = 12, dim: int = 6) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, dim, bias=False)

    def forward(self, images):
        return self.dense(images.flatten(1))


def task(**changes) -> IdentityTask:
    settings = {"name": "flat", "backbone": Flat, "embedding_dim": 6, "num_classes": 9}
    return IdentityTask(**(settings | changes))


def examples(n: int = 5, seed: int = 0) -> Examples:
    draw = np.random.default_rng(seed)
    fields = {
        "image": draw.integers(0, 256, (n, 2, 2, 3), dtype=np.uint8),
        "label": np.arange(n) % 2,
    }
    return Examples(fields, np.array([0, n]))


def test_it_is_an_embedding_task():
    assert isinstance(task(), EmbeddingTask)


def test_pixels_lie_between_minus_one_and_0_992_channels_first():
    images = np.zeros((1, 2, 3, 3), np.uint8)
    images[0, 1, 2] = (0, 128, 255)
    values = pixels(images)
    assert values.shape == (1, 3, 2, 3)
    assert values[0, :, 1, 2].tolist() == [-1.0, 0.0, 0.9921875]


def test_float_images_mean_the_same_as_bytes():
    images = examples().fields["image"]
    torch.testing.assert_close(pixels(images / np.float64(255)), pixels(images))
    torch.testing.assert_close(
        pixels((images / 255).astype(np.float32)), pixels(images)
    )


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("shape", [(0, 12, 12, 3), (3, 12, 12, 1), (2, 12, 8, 3)])
def test_large_pictures_are_averaged_over_areas_and_stay_as_they_are(shape, side, kind):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, shape, dtype=np.uint8)
    images = images if kind == np.uint8 else (images / 255).astype(kind)
    before = images.copy()
    found, whole = pixels(images, side), pixels(images)
    size = tuple(round(own * min(1, side / 12)) for own in shape[1:3])
    assert found.shape == (shape[0], shape[3], *size)
    if len(images):
        right = torch.nn.functional.adaptive_avg_pool2d(whole, size)
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
    assert np.array_equal(images, before)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_fresh_heads_are_glorot_uniform_for_the_true_number_of_classes(kind):
    head = task(head=kind).make_head(40)
    fresh = task(head=kind).fresh_head(head, 25, torch.Generator().manual_seed(0))
    bound = (6 / (6 + 25)) ** 0.5
    drawn = fresh["weight"][:25]
    assert drawn.abs().max() <= bound
    assert drawn.abs().max() > 0.9 * bound
    assert abs(float(drawn.mean())) < 4 * bound / 3**0.5 / drawn.numel() ** 0.5
    assert (fresh["weight"][25:] == 0).all()
    assert (head.weight == 0).all()
    assert kind == "linear" or fresh["scale"] == 1


def test_fresh_heads_depend_on_the_generator_and_not_on_the_capacity():
    t = task(head="linear")

    def draw(capacity, seed):
        g = torch.Generator().manual_seed(seed)
        return t.fresh_head(t.make_head(capacity), 4, g)["weight"][:4]

    assert torch.equal(draw(4, 1), draw(9, 1))
    assert not torch.equal(draw(4, 1), draw(4, 2))


def test_the_class_means_head_has_no_parameters():
    t = task()
    head = t.make_head(7)
    assert list(head.parameters()) == []
    assert t.fresh_head(head, 7, torch.Generator()) == {}


def test_embeddings_have_unit_length_and_features_do_not():
    t, backbone = task(), Flat()
    batch = t.prepare(examples(), np.zeros(1, np.uint64))
    embedded = t.embed(backbone, batch)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(5))
    features = t.features(backbone, batch)
    torch.testing.assert_close(features, features.norm(dim=1)[:, None] * embedded)
    with torch.no_grad():
        backbone.dense.weight *= 2
    torch.testing.assert_close(t.features(backbone, batch), 2 * features)
    torch.testing.assert_close(t.embed(backbone, batch), embedded)
    always = task(always_normalize=True).features(backbone, batch)
    torch.testing.assert_close(always, embedded)


def test_a_zero_embedding_stays_zero():
    grey = np.full((1, 2, 2, 3), 128, np.uint8)
    rows = Examples({"image": grey, "label": np.zeros(1, np.int64)}, np.array([0, 1]))
    batch = task().prepare(rows, np.zeros(1, np.uint64))
    assert (task().embed(Flat(), batch) == 0).all()


def test_embedding_in_blocks_equals_embedding_at_once():
    backbone, rows = Flat(), examples(7)
    whole = embed_all(task(), backbone, rows)
    torch.testing.assert_close(embed_all(task(), backbone, rows, block=3), whole)


def test_evaluation_of_perfect_clusters_is_perfect():
    images = np.zeros((34, 2, 2, 3), np.uint8)
    images[:16, 0], images[16:, 1] = 200, 200
    rows = Examples(
        {"image": images, "label": np.repeat([5, 8], [16, 18])}, np.array([0, 34])
    )
    metrics = task().evaluate(Flat(), rows)
    assert metrics["recall_at_far_1e-1"] == metrics["roc_auc"] == 1.0


@pytest.mark.parametrize("wrong", [{"head": "softmax"}, {"label_space": "mine"}])
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(UserError, match="must be"):
        task(**wrong)


def test_a_penalty_of_the_weights_joins_the_loss_of_steps_that_have_rows():
    class Penalised(Flat):
        def penalty(self):
            return 0.5 * self.dense.weight.square().sum()

    backbone = Penalised()
    t = task(backbone=partial(Penalised), head="linear")
    head = t.make_head(2)
    batch = t.prepare(examples(), np.zeros(1, np.uint64))
    batch |= {"weight": torch.ones(5), "classes": torch.tensor(2)}
    plain = task(head="linear").loss(
        head, Flat.forward(backbone, batch["image"]), batch
    )
    found = t.loss(head, t.features(backbone, batch), batch)
    torch.testing.assert_close(found, plain + backbone.penalty())
    batch["weight"] = torch.zeros(5)
    assert t.loss(head, t.features(backbone, batch), batch) == 0


def test_large_images_are_averaged_down_before_all_else():
    rows = Examples(
        {
            "image": np.arange(2 * 8 * 4 * 3, dtype=np.uint8).reshape(2, 8, 4, 3),
            "label": np.zeros(2, np.int64),
        },
        np.array([0, 2]),
    )
    batch = task(max_side=4, views=2).prepare(rows, np.zeros(1, np.uint64))
    assert batch["image"].shape == (2, 3, 4, 2)
    assert batch["views"].shape == (2, 2, 3, 4, 2)
    whole = pixels(rows.fields["image"])
    expected = whole.unflatten(2, (4, 2)).unflatten(4, (2, 2)).mean((3, 5))
    torch.testing.assert_close(batch["image"], expected)
    small = task(max_side=8).prepare(rows, np.zeros(1, np.uint64))["image"]
    assert torch.equal(small, whole)
