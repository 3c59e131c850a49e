"""UniVRD as a system: counts, engines, privacy, and what its decoder may do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import NotAvailable, UserError
from fedemb.heads import unit_rows
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.univrd.decoder import RelationDecoder
from model_zoo.univrd.geometry import corners
from model_zoo.univrd.heads import BoxHead, ClassPredictor, LocalScaling, similarity
from model_zoo.univrd.inference import best_triplets, pointed
from model_zoo.univrd.systems import _clip
from model_zoo.univrd.towers import DualEncoder, DualShape, ImageTower
from simulations.assembly import facts
from simulations.datasets.registry import load

DATA = load("relation-scenes", users=100)
RECIPE = LocalTraining(learning_rate=1.0, batch_size=3, steps=1)


def count(module):
    return sum(value.numel() for value in module.parameters())


def clip(patch, width, layers, text, vocabulary=49_408, side=224, length=77):
    sizes = _clip(patch, side, width, layers, text)
    return DualShape(**{**sizes, "text_length": length, "vocab_size": vocabulary})


OPEN_H14 = replace(clip(14, 1280, 32, 1024), heads=16, text_layers=24)
"""ViT-H/14 of OpenCLIP: heads of 80, a text tower of 24 layers."""


@pytest.mark.parametrize(
    ("shape", "total"),
    [
        (clip(32, 768, 12, 512), 151_277_313),
        (clip(16, 768, 12, 512), 149_620_737),
        (clip(14, 1024, 24, 768), 427_616_513),
        (clip(14, 1024, 24, 768, side=336), 427_944_193),
        (clip(16, 768, 12, 512, side=384), 149_620_737 + (24**2 - 14**2) * 768),
        (OPEN_H14, 986_109_441),
    ],
)
def test_dual_encoders_have_clips_counts(shape, total):
    with torch.device("meta"):
        assert count(DualEncoder(shape)) == total


def test_parts_of_clip_and_of_the_detection_heads_have_the_published_counts():
    with torch.device("meta"):
        b32 = DualEncoder(clip(32, 768, 12, 512))
        assert count(b32.image) + count(b32.projection) == 87_849_216
        assert count(b32.projection) == 393_216
        assert count(b32.text) == 63_428_096
        l14 = DualEncoder(clip(14, 1024, 24, 768))
        assert count(l14.image) + count(l14.projection) == 303_966_208
        assert count(l14.text) == 123_650_304
        assert count(ClassPredictor(768, 512)) == 395_266
        assert count(BoxHead(768, (24, 24))) == 1_184_260
        assert count(ClassPredictor(1024, 768)) == 789_250
        assert count(BoxHead(1024, (60, 60))) == 2_103_300
        large = clip(32, 768, 12, 512, side=768, length=16)
        assert count(ImageTower(large)) == 87_860_736
        assert count(DualEncoder(large).text) == 63_396_864


@pytest.mark.parametrize(("layers", "millions"), [(2, 17.0), (6, 45.4)])
def test_the_decoder_follows_its_formula(layers, millions):
    d, e, m = 768, 512, 100
    with torch.device("meta"):
        decoder = RelationDecoder(d, e, queries=m, layers=layers, heads=12)
    per_layer = 4 * (d * d + d) + 8 * d * d + 5 * d + 6 * d
    expected = layers * per_layer + m * d + d * e + e + 4 * (d * d + d)
    assert count(decoder) == expected
    assert round(expected / 1e6, 1) == millions


def test_paper_sizes_are_described_without_allocating_them():
    sizes = registry.describe("univrd")["configurations"]
    detector = 87_860_736 + 63_396_864 + 1_581_062
    decoder = 45_369_344
    own = 2 * 769 + 3  # the scalings of tokens, and three scalars; in either stage
    assert sizes["clip-b32"]["head_parameters"] == 2 * own
    assert sizes["clip-b32"]["total_parameters"] == detector + decoder + 3 + own
    assert sizes["clip-l14"]["total_parameters"] > 500_000_000


def stages():
    return registry.get("univrd").build(data=facts(DATA))


def test_shapes_of_the_embedder():
    shape = replace(clip(32, 768, 12, 512), layers=1, text_layers=1)
    model = DualEncoder(shape).eval()
    with torch.no_grad():
        tokens = model.image(torch.zeros(8, 3, 224, 224))
        text = model.text(torch.ones(10, 77, dtype=torch.int64))
    assert tokens[:, 1:].shape == (8, 49, 768)
    assert text.expand(8, -1, -1).shape == (8, 10, 512)


def build(stage, seed=0):
    torch.manual_seed(seed)
    return stage.task.make_backbone().requires_grad_(False)


def compute(engine, stage, examples, backbone, recipe=RECIPE):
    seeds = np.arange(examples.num_groups, dtype=np.uint64) * np.uint64(7919)
    work = make_work(stage.task, recipe, examples, seeds, dtype=torch.float64)
    layout = FlatLayout.of(backbone, stage.trainable)
    theta = layout.flatten(dict(backbone.named_parameters()))
    model = LocalModel(stage.task, backbone, work.head)
    return engine(model, layout, theta, work, recipe)


def double(stage):
    backbone = build(stage).double()
    backbone.refresh_banks()
    return backbone


@pytest.mark.parametrize("stage", [0, 1])
def test_every_engine_computes_what_the_serial_one_does(stage):
    """Hungarian matching included."""
    stage = stages()[stage]
    backbone, examples = double(stage), DATA.fetch(np.arange(4))
    expected = compute(serial_deltas, stage, examples, backbone)
    assert float(expected.norm()) > 0
    for engine in (vectorized_deltas, shared_deltas):
        found = compute(engine, stage, examples, backbone)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    steps = replace(RECIPE, learning_rate=0.1, batch_size=2, steps=2)
    torch.testing.assert_close(
        compute(vectorized_deltas, stage, examples, backbone, steps),
        compute(serial_deltas, stage, examples, backbone, steps),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.parametrize("stage", [0, 1])
def test_perturbing_one_user_changes_its_own_virtual_client_alone(stage):
    """Two users to a virtual client: mosaics mix them, and nobody else."""
    stage = stages()[stage]
    backbone = double(stage)
    examples = DATA.fetch(np.arange(8)).regroup([2, 2, 2, 2])
    before = compute(vectorized_deltas, stage, examples, backbone)
    fields = {name: np.array(values) for name, values in examples.fields.items()}
    own = slice(int(examples.offsets[1]), int(examples.offsets[1]) + 3)
    fields["image"][own] = 255 - fields["image"][own]
    fields["boxes"][own] = np.nan
    after = compute(
        vectorized_deltas, stage, Examples(fields, examples.offsets), backbone
    )
    others = [0, 2, 3]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1], after[1])


def test_aggregated_keys_exclude_the_text_bank_and_the_local_scalings():
    for stage in stages():
        backbone = build(stage)
        names = FlatLayout.of(backbone, stage.trainable).names
        assert not [n for n in names if "bank" in n or n.startswith("text.")]
        assert not [n for n in backbone.state_dict() if "bank" in n]
        assert not [n for n in names if "scal" in n or "threshold" in n]


@pytest.mark.parametrize("stage", [0, 1])
def test_an_update_with_a_permuted_query_order_is_identical(stage):
    stage = stages()[stage]
    backbone, examples = double(stage), DATA.fetch(np.arange(1))
    task, seeds = stage.task, np.ones(1, np.uint64)
    batch = task.prepare(examples, seeds)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    batch["weight"] = torch.ones(3, dtype=torch.float64)
    other = dict(batch)
    order = torch.randperm(batch["name_query"].shape[1])
    other["name_query"] = batch["name_query"][:, order]
    other["template"] = batch["template"][:, order]
    order = torch.randperm(batch["phrase_query"].shape[1])
    other["phrase_query"] = batch["phrase_query"][:, order]
    layout = FlatLayout.of(backbone, stage.trainable)
    trained = [dict(backbone.named_parameters())[n] for n in layout.names]
    found = []
    for one in (batch, other):
        for value in trained:
            value.requires_grad_()
        head = task.make_head(1).double()
        loss = task.loss(head, task.features(backbone, one), one)
        found.append(torch.autograd.grad(loss, trained, allow_unused=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_with_a_frozen_detector_gradients_flow_into_the_decoder_alone():
    stage = stages()[1]
    backbone, examples = build(stage), DATA.fetch(np.arange(3))
    batch = stage.task.prepare(examples, np.arange(3, dtype=np.uint64))
    batch["weight"] = torch.ones(9)
    chosen = FlatLayout.of(backbone, stage.trainable).names
    for name, value in backbone.named_parameters():
        value.requires_grad_(name in chosen)
    head = stage.task.make_head(1)
    stage.task.loss(head, stage.task.features(backbone, batch), batch).backward()
    moved = {
        name.split(".")[1]
        for name, value in backbone.named_parameters()
        if value.grad is not None and float(value.grad.abs().sum()) > 0
    }
    assert moved == {"layers", "relation", "subject", "object"}
    assert all(
        value.grad is None
        for name, value in backbone.named_parameters()
        if not name.startswith("decoder.")
    )


def test_pointing_returns_existing_boxes_and_may_return_one_for_many_relations():
    stage = stages()[1]
    backbone = build(stage)
    image = stage.task.prepare(DATA.fetch(np.arange(2)), np.arange(2, dtype=np.uint64))
    instances = backbone.detect(image["image"])
    relations = backbone.relate(instances)
    head = LocalScaling(stage.task.width)
    found = best_triplets(instances, relations, backbone.relation_bank, head.phrases)
    boxes = corners(instances.boxes).detach().numpy()
    for picture, subject, target in zip(
        found.picture, found.subject, found.object, strict=True
    ):
        for box in (subject, target):
            assert (boxes[picture] == box).all(axis=1).any()
    subjects, _ = pointed(relations, instances)
    assert subjects.shape == (6, 20)
    assert any(len(set(row.tolist())) < 20 for row in subjects)


def test_unseen_phrases_are_scorable_and_synonyms_lie_near_each_other():
    backbone = build(stages()[0])
    texts = ["a square", "a box", "a ring", "a sphere holding a turnip"]
    square, box, ring, unseen = backbone.embed_texts(texts)
    assert float(square @ box) > float(square @ ring) + 0.2
    assert torch.isfinite(similarity(torch.randn(3, 48), unseen[None])).all()


def test_banks_follow_the_text_tower_whenever_weights_are_loaded():
    backbone = build(stages()[0])
    before = backbone.relation_bank.clone()
    state = backbone.state_dict()
    state["text.token.weight"] = torch.randn_like(state["text.token.weight"])
    backbone.load_state_dict(state)
    assert not torch.allclose(backbone.relation_bank, before)
    expected = backbone.embed_texts(backbone._phrases[:3])
    torch.testing.assert_close(backbone.relation_bank[:3], expected)
    lengths = unit_rows(backbone.relation_bank).norm(dim=1)
    torch.testing.assert_close(backbone.relation_bank.norm(dim=1), lengths)


def test_what_does_not_fit_is_refused_with_a_way_out():
    system = registry.get("univrd")
    named = facts(DATA).vocabularies
    with pytest.raises(UserError, match="relation-scenes"):
        system.build(data=DataFacts(example_shape=(48, 48, 3), num_classes=9))
    with pytest.raises(UserError, match="multiple of patch=8"):
        system.build(data=replace(facts(DATA), example_shape=(50, 50, 3)))
    with pytest.raises(UserError, match="square pictures in 3 colours"):
        system.build(data=replace(facts(DATA), example_shape=(48, 48, 1)))
    with pytest.raises(UserError, match="classifies by texts"):
        system.build(data=facts(DATA), options=TaskOptions(head="linear"))
    wide = TaskOptions(embedding_dim=7)
    stage = system.build(data=facts(DATA), options=wide)[0]
    with pytest.raises(NotAvailable, match="own sizes"):
        stage.task.make_backbone()
    assert named["source"] == ("words-a", "words-b", "boxes-only")


def test_towers_read_pictures_of_another_size():
    stage = registry.get("univrd").build(
        data=replace(facts(DATA), example_shape=(64, 64, 3))
    )[0]
    found = build(stage).detect(torch.zeros(1, 3, 64, 64))
    assert found.boxes.shape == (1, 64, 4)


@pytest.mark.parametrize(
    ("field", "undefined"),
    [("relations", {"relation_map"}), ("object_name", {"relation_map", "detection"})],
    ids=["no relations", "no objects"],
)
def test_metrics_of_what_nobody_annotated_are_not_defined(field, undefined):
    stage = stages()[1]
    rows = DATA.fetch(np.arange(2))
    blank = {field: np.full_like(rows.fields[field], -1)}
    metrics = stage.task.evaluate(
        build(stage), Examples({**rows.fields, **blank}, rows.offsets)
    )
    assert set(registry.get("univrd").watched) <= set(metrics)
    assert np.isnan(metrics["relation_map"])
    assert np.isnan(metrics["mean_recall_at_100"])
    assert np.isnan(metrics["detection_map"]) == ("detection" in undefined)


@pytest.mark.parametrize("stage", [0, 1])
def test_embeddings_are_of_the_pictures_themselves_not_of_mosaics(stage):
    stage = stages()[stage]
    backbone, examples = build(stage), DATA.fetch(np.arange(2))
    first, second = (
        stage.task.prepare(examples, np.full(2, seed, np.uint64)) for seed in (1, 2)
    )
    assert not torch.equal(first["augmented"], second["augmented"])
    embedded = stage.task.embed(backbone, first)
    assert torch.equal(embedded, stage.task.embed(backbone, second))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(6))
