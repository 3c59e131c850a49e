"""G-ViLM as a whole: sizes, privacy of a virtual client, ablations, and metrics."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.engines.heads import fit_heads
from fedemb.errors import UserError
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from model_zoo import registry
from model_zoo.g_vilm.network import DualEncoder, Sizes
from model_zoo.g_vilm.task import GVilmTask
from model_zoo.system import TaskOptions
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.text.transformer import TextShape, TextTower
from model_zoo.video.encoder import VideoEncoder, clip_pixels
from simulations.assembly import facts
from simulations.datasets.clips import PlainClips

SIZES = Sizes(
    clip=(8, 16, 16),
    tube=(2, 8, 8),
    width=16,
    layers=2,
    heads=2,
    mlp=16,
    groups=3,
    grouping=(1, 2),
    shared=8,
    text=TextShape(
        vocab_size=256, length=16, width=16, layers=1, heads=2, mlp=16, pool="mean"
    ),
)
TASK = GVilmTask(
    name="toy",
    backbone=partial(DualEncoder, SIZES),
    num_classes=10,
    tube_frames=2,
    length=16,
    vocab_size=256,
)
DATA = PlainClips(50, 3, 16, classes_per_user=2, repeats=2)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return TASK.make_backbone()


def batch_of(users, task=TASK, seed=7):
    examples = DATA.fetch(np.array(users)).regroup([1] * len(users))
    seeds = np.arange(len(users), dtype=np.uint64) + np.uint64(seed)
    return task.prepare(examples, seeds)


def runner(engine, task=TASK, dtype=torch.float64):
    torch.manual_seed(0)
    backbone = task.make_backbone().to(dtype)
    return InlineRunner(
        task=task,
        dataset=DATA,
        backbone=backbone,
        layout=FlatLayout.of(backbone),
        recipe=LocalTraining(learning_rate=0.1, batch_size=4, steps=1),
        key=RootKey.from_seed(3),
        engine=EngineChoice(name=engine),
    )


def deltas(engine, data, task=TASK, recipe=None):
    made = runner(engine, task)
    recipe = recipe or made.recipe
    seeds = np.arange(data.num_groups, dtype=np.uint64)
    work = make_work(task, recipe, data, seeds, torch.float64)
    theta = made.layout.flatten(dict(made.backbone.named_parameters()))
    return dataclasses.replace(made, recipe=recipe).deltas(theta, work)


def test_sizes_of_the_published_shape_are_ours():
    found = registry.describe("g_vilm")["configurations"]
    with torch.device("meta"):
        bert = TextTower(
            TextShape(**registry.get("g_vilm:paper").configuration().build.text)
        )
    assert sum(p.numel() for p in bert.parameters()) == 108_891_648
    group_part = 32 * 768 + 3 * (4 * (768 * 768 + 768) + 2 * 2 * 768)
    assert group_part == 7_120_896
    text = 108_891_648  # BERT-base without its pooler
    projections = 3 * 768 * 256
    joint, separable = 88_644_864, 86_399_232
    assert found["paper"]["backbone_parameters"] == (
        joint + group_part + text + projections
    )
    assert found["paper-separable"]["backbone_parameters"] == (
        separable + group_part + text + projections
    )


def test_grouping_blocks_sit_at_their_depths_and_merge_nothing(backbone):
    clips = torch.randn(2, 3, 8, 16, 16)
    assert isinstance(backbone.video, VideoEncoder)
    refuse_batch_statistics(backbone)
    with torch.no_grad():
        whole = backbone.video(clips)
        assert whole.tokens.shape == (2, 4, 2, 2, 16)
        assert whole.groups.shape == (2, 3, 16)
        del backbone.video.grouping["2"]
        without = backbone.video(clips)
    assert torch.equal(whole.tokens, without.tokens)
    assert not torch.allclose(whole.groups, without.groups)
    with pytest.raises(UserError, match="ascending depths"):
        dataclasses.replace(SIZES, grouping=(3,))


def test_training_sees_blended_clips_and_embedding_whole_ones(backbone):
    batch = batch_of([1, 2])
    assert not torch.equal(batch["blended"], batch["clip"])
    pasted = batch["mask"].bool().repeat_interleave(2, dim=1)
    for blended, clip, frames in zip(
        batch["blended"], batch["clip"], pasted, strict=True
    ):
        assert torch.equal(blended[:, frames], clip[:, frames])
    # the caption is the foreground's, whatever the host
    told = DATA.fetch(np.array([1, 2])).fields["caption"].astype(str)
    wanted = encode(shipped(256), told, 16)
    assert torch.equal(batch["caption"], torch.from_numpy(wanted))
    seen = []
    backbone.video.tubes.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    TASK.features(backbone, batch)
    TASK.embed(backbone, batch)
    assert torch.equal(seen[0], batch["blended"])
    assert torch.equal(seen[1], batch["clip"])


def test_rows_are_embedded_each_by_itself(backbone):
    batch = batch_of([1, 2])
    with torch.no_grad():
        whole = TASK.features(backbone, batch)
        part = TASK.features(backbone, {k: v[3:4] for k, v in batch.items()})
    for name, values in whole.items():
        torch.testing.assert_close(part[name], values[3:4], rtol=1e-4, atol=1e-5)


def test_total_is_the_sum_of_three_and_switches_leave_terms_out(backbone):
    batch = batch_of([1]) | {"weight": torch.ones(4)}
    features = TASK.features(backbone, batch)

    def loss(*weights):
        task = dataclasses.replace(TASK, weights=weights)
        return task.loss(task.make_head(1), features, batch).item()

    terms = [loss(1, 0, 0), loss(0, 1, 0), loss(0, 0, 1)]
    assert min(terms) > 0
    assert loss(1, 1, 1) == pytest.approx(sum(terms), rel=1e-5)
    assert loss(0, 1, 1) == pytest.approx(terms[1] + terms[2], rel=1e-5)
    assert loss(1, 0, 1) == pytest.approx(terms[0] + terms[2], rel=1e-5)


def test_temporal_grouping_teaches_the_video_tower_alone(backbone):
    task = dataclasses.replace(TASK, weights=(1.0, 0.0, 0.0))
    batch = batch_of([1], task) | {"weight": torch.ones(4)}
    loss = task.loss(task.make_head(1), task.features(backbone, batch), batch)
    loss.backward()
    assert backbone.video.tubes.project.weight.grad.abs().sum() > 0
    assert all(
        p.grad is None or not p.grad.abs().sum() for p in backbone.text.parameters()
    )


@pytest.mark.parametrize("engine", ["vectorized", "shared"])
def test_engines_agree(engine):
    data = DATA.fetch(np.array([1, 2, 3])).regroup([2, 1])
    found, wanted = deltas(engine, data), deltas("serial", data)
    assert wanted.norm() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_another_user_moves_no_other_virtual_client():
    data = DATA.fetch(np.array([1, 2, 3, 4]))
    other = DATA.fetch(np.array([1, 2, 3, 9]))
    found, changed = (deltas("shared", part.regroup([2, 2])) for part in (data, other))
    torch.testing.assert_close(found[0], changed[0], rtol=0, atol=1e-12)
    assert not torch.allclose(found[1], changed[1])


def test_a_lone_clip_teaches_nothing_and_breaks_nothing():
    rows = DATA.fetch(np.array([1]))
    one = Examples(rows.take(np.array([0])), np.array([0, 1]))
    found = deltas("serial", one)
    assert torch.isfinite(found).all()
    assert float(found.norm()) == 0


def test_heads_are_temperatures_and_start_alike():
    head = TASK.make_head(3)
    assert sum(p.numel() for p in head.parameters()) == 3
    values = [v.item() for v in head()]
    assert values == pytest.approx([0.1, 0.05, 0.05])


def test_after_a_round_heads_differ_and_the_backbone_is_one():
    data = DATA.fetch(np.array([1, 2])).regroup([1, 1])
    made = runner("serial")
    recipe = LocalTraining(learning_rate=0.1, batch_size=4, steps=2, head_steps=1)
    seeds = np.arange(2, dtype=np.uint64)
    work = make_work(TASK, recipe, data, seeds, torch.float64)
    model = LocalModel(TASK, made.backbone, work.head)
    theta = made.layout.flatten(dict(made.backbone.named_parameters()))
    (adapted,) = fit_heads(model, made.layout, theta, work, recipe).values()
    assert torch.equal(*work.heads["log_inverse"])  # handed out alike
    assert not torch.allclose(adapted[0], adapted[1])
    # What a round adds up has the backbone's size: heads have no part in it.
    assert made.deltas(theta, work).shape == (2, len(theta))
    assert len(theta) == sum(p.numel() for p in made.backbone.parameters())
    assert not [name for name in made.layout.names if "log_inverse" in name]


def test_metrics_are_there_and_start_near_chance(backbone):
    found = TASK.evaluate(backbone, DATA.held_out())
    assert set(registry.get("g_vilm").watched) <= set(found)
    assert 0 <= found["text_to_video_recall_at_10"] < 0.5
    assert found["grounding_chance"] > 0
    assert 0 <= found["paste_accuracy"] <= 1
    assert {"recall_at_1", "roc_auc", "video_to_text_median_rank"} <= set(found)


def test_pasting_is_not_judged_in_clips_of_two_tubes_where_no_answer_could_be_wrong():
    shown = PlainClips(8, frames=4)
    system = registry.get("g_vilm")
    (stage,) = system.build(data=facts(shown), options=TaskOptions())
    torch.manual_seed(0)
    rows = shown.held_out().only(np.arange(40))
    found = stage.task.evaluate(stage.task.make_backbone(), rows)
    assert math.isnan(found["paste_accuracy"])
    assert "text_to_video_recall_at_10" in found


def test_unknown_sources_are_refused():
    with pytest.raises(UserError, match="same_user"):
        dataclasses.replace(TASK, paste_source="anybody")
    with pytest.raises(UserError, match="needs public_clips"):
        dataclasses.replace(TASK, paste_source="public")
    with pytest.raises(UserError, match="public_clips='x.npy' are used by"):
        dataclasses.replace(TASK, public_clips="x.npy")


@pytest.fixture
def from_public_clips(tmp_path):
    path = tmp_path / "hosts.npy"
    np.save(path, DATA.held_out().fields["clip"][:5])
    return dataclasses.replace(TASK, paste_source="public", public_clips=str(path))


def test_hosts_may_be_public_clips_and_then_are_nobody_else_s(from_public_clips):
    hosts = clip_pixels(DATA.held_out().fields["clip"][:5])
    data = DATA.fetch(np.array([1, 2])).regroup([2])
    seeds = np.array([7], np.uint64)
    batch = from_public_clips.prepare(data, seeds)
    inside = batch["mask"].bool().repeat_interleave(2, dim=1)
    assert (inside.any(1) & ~inside.all(1)).all()
    used = set()
    for blended, clip, frames in zip(
        batch["blended"], batch["clip"], inside, strict=True
    ):
        assert torch.equal(blended[:, frames], clip[:, frames])
        around = (hosts[:, :, ~frames] == blended[:, ~frames]).flatten(1).all(1)
        assert around.sum() == 1
        used.add(int(around.int().argmax()))
    assert len(used) > 1
    # Whoever else is in the virtual client, or another one: a row is blended alike.
    other = DATA.fetch(np.array([1, 9])).regroup([2])
    again = from_public_clips.prepare(other, seeds)["blended"]
    assert torch.equal(again[:4], batch["blended"][:4])
    assert not torch.equal(again[4:], batch["blended"][4:])


def test_a_lone_clip_is_pasted_into_a_public_one(from_public_clips, backbone):
    rows = DATA.fetch(np.array([1]))
    one = Examples(rows.take(np.array([0])), np.array([0, 1]))
    batch = from_public_clips.prepare(one, np.array([7], np.uint64))
    assert not torch.equal(batch["blended"], batch["clip"])
    held_out = DATA.held_out()
    some = Examples(held_out.take(np.arange(40)), np.array([0, 40]))
    assert 0 <= from_public_clips.evaluate(backbone, some)["paste_accuracy"] <= 1


def test_public_clips_of_another_shape_or_missing_are_refused(tmp_path):
    path = tmp_path / "hosts.npy"
    data = DATA.fetch(np.array([1])).regroup([1])

    def prepare(name):
        task = dataclasses.replace(TASK, paste_source="public", public_clips=str(name))
        task.prepare(data, np.array([7], np.uint64))

    np.save(path, np.zeros((3, 4, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="must be shaped as the clips"):
        prepare(path)
    np.save(tmp_path / "flat.npy", np.zeros((3, 4), np.uint8))
    with pytest.raises(UserError, match=r"uint8 \[n, frames, height, width, 3\]"):
        prepare(tmp_path / "flat.npy")
    with pytest.raises(UserError, match="cannot be read"):
        prepare(tmp_path / "none.npy")
