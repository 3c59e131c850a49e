"""CV-MIM in the core: engines agree, only the encoder leaves, users stay apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import UserError
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.protocols import EmbeddingTask
from model_zoo import registry
from model_zoo.cv_mim.pairs import Pairs
from model_zoo.cv_mim.sizes import Sizes
from model_zoo.cv_mim.task import CrossViewTask
from model_zoo.system import DataFacts, TaskOptions
from simulations.datasets.poses import Motions

FACTS = DataFacts(example_shape=(16, 13, 3), num_classes=32)
ONE_STEP = LocalTraining(learning_rate=0.1, batch_size=8, steps=1)
HEAD_FIRST = LocalTraining(learning_rate=0.01, batch_size=8, steps=3, head_steps=2)
JOINT = LocalTraining(learning_rate=0.01, batch_size=6, steps=2, momentum=0.5)

VARIANTS = {
    "disentangle": {},
    "dropout": {"dropout": 0.3},
    "gaussian": {"gaussian": True},
    "cat": {"fusion": "cat", "view_dim": 6},
    "positives": {"max_mpjpe_2d": 0.05, "max_mpjpe_3d": 0.1},
    "align": {"algorithm": "align"},
    "infomax": {"algorithm": "infomax"},
    "autoencoder": {"algorithm": "autoencoder"},
}


def make(**sizes):
    wanted = {"hidden": 12, "pose_dim": 4, "view_dim": 4, "dropout": 0.0} | sizes
    return CrossViewTask(sizes=Sizes(**wanted), pairs=Pairs(frames=2))


def examples():
    """Three users; the second has few rows, so that batches need padding."""
    rows = Motions(100).fetch(np.arange(3))
    kept = np.r_[0:10, 16:20, 32:48]
    return Examples(rows.take(kept), np.array([0, 10, 14, 30]))


def deltas(task, recipe, engine, data):
    torch.manual_seed(3)
    backbone = task.make_backbone().double()
    layout = FlatLayout.of(backbone)
    theta = layout.flatten(dict(backbone.named_parameters()))
    seeds = np.arange(data.num_groups, dtype=np.uint64) + np.uint64(11)
    work = make_work(task, recipe, data, seeds, dtype=torch.float64)
    model = LocalModel(task, backbone.requires_grad_(False), work.head.double())
    return engine(model, layout, theta, work, recipe)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_engines_equal_the_serial_one(variant):
    task, data = make(**VARIANTS[variant]), examples()
    for recipe, engines in (
        (ONE_STEP, (shared_deltas, vectorized_deltas)),
        (HEAD_FIRST, (shared_deltas, vectorized_deltas)),
        (JOINT, (vectorized_deltas,)),
    ):
        expected = deltas(task, recipe, serial_deltas, data)
        assert expected.abs().amax(1).min() > 0
        for engine in engines:
            found = deltas(task, recipe, engine, data)
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("engine", [serial_deltas, shared_deltas, vectorized_deltas])
def test_changing_one_user_changes_her_own_virtual_client_alone(engine):
    task, data = make(), examples()
    changed = {k: v.copy() for k, v in data.fields.items()}
    changed["pose3d"][10:14] *= 1.5
    changed["keypoints"][10:14] += np.float32(0.1) * changed["keypoints"][9:13]
    before = deltas(task, ONE_STEP, engine, data)
    after = deltas(task, ONE_STEP, engine, Examples(changed, data.offsets))
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]], atol=1e-12, rtol=0)
    assert (before[1] - after[1]).abs().max() > 1e-6


def test_a_user_s_nan_stays_with_her():
    task, data = make(), examples()
    broken = {k: v.copy() for k, v in data.fields.items()}
    broken["pose3d"][10:14] = np.nan
    broken["keypoints"][10:14] = np.nan
    for engine in (shared_deltas, vectorized_deltas):
        found = deltas(task, ONE_STEP, engine, Examples(broken, data.offsets))
        assert torch.isfinite(found[[0, 2]]).all()


def test_only_encoder_keys_are_aggregated_and_estimators_are_absent_in_the_update():
    stage = registry.get("cv_mim").build(data=FACTS)[0]
    layout = FlatLayout.of(stage.task.make_backbone(), stage.trainable)
    assert {name.split(".")[0] for name in layout.names} == {"fc0", "trunk"}
    head = stage.task.make_head(1)
    local = {name.split(".")[0] for name, _ in head.named_parameters()}
    assert local == {"subencoder", "intra", "inter", "discriminator"}
    data = examples()
    found = deltas(stage.task, ONE_STEP, serial_deltas, data)
    assert found.shape == (3, layout.size) == (3, 21_088)


def test_rows_stay_apart_and_nothing_keeps_statistics():
    task = make()
    backbone = task.make_backbone()
    refuse_batch_statistics(backbone)
    refuse_batch_statistics(task.make_head(1))
    assert not list(backbone.buffers())
    poses = torch.randn(5, 13, 2)
    torch.testing.assert_close(backbone(poses)[2:3], backbone(poses[2:3]))


def test_fresh_heads_differ_between_clients_and_public_ones_do_not():
    data, seeds = examples(), np.arange(3, dtype=np.uint64) * np.uint64(1000)
    fresh = make_work(make(), ONE_STEP, data, seeds).heads
    name = "subencoder.embedder.weight"
    assert not torch.equal(fresh[name][0], fresh[name][1])
    recipe = replace(ONE_STEP, head_init="public")
    public = make_work(make(), recipe, data, seeds).heads
    again = make_work(make(), recipe, data, seeds + np.uint64(9)).heads
    for name, values in public.items():
        assert torch.equal(values[0], values[2]), name
        assert torch.equal(values, again[name]), name


def test_the_builder_takes_poses_and_refuses_pictures():
    system = registry.get("cv_mim")
    task = system.build(data=FACTS, options=TaskOptions(embedding_dim=8))[0].task
    assert isinstance(task, EmbeddingTask)
    assert task.embedding_dim == 8
    for shape in ((13, 3), (2, 16, 13, 2)):
        system.build(data=DataFacts(example_shape=shape, num_classes=2))
    with pytest.raises(UserError, match="13 keypoints"):
        system.build(data=DataFacts(example_shape=(32, 32, 3), num_classes=2))


def test_embeddings_have_unit_length_and_forget_scale_and_place():
    task = make()
    backbone, data = task.make_backbone(), examples()
    batch = task.prepare(data, np.zeros(3, np.uint64))
    found = task.embed(backbone, batch)
    assert found.shape == (30, 4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(30))
    moved = task.embed(backbone, {"motion": 3 * batch["motion"] + 7})
    torch.testing.assert_close(found, moved, atol=1e-3, rtol=0)
