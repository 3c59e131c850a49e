"""Video-language distillation as a whole: stages, privacy, and sizes."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import NotAvailable, UserError
from fedemb.local import LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from model_zoo import registry
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.text.tokenizer import BOS
from model_zoo.text.transformer import TextShape
from model_zoo.video.encoder import VideoEncoder
from model_zoo.vld.language import LanguageShape
from model_zoo.vld.network import (
    LANGUAGE,
    STUDENT,
    VISUAL,
    Sizes,
    VideoLanguage,
    student_sees_as_teacher,
)
from model_zoo.vld.pseudo import (
    best_captions,
    best_texts,
    load_captions,
    save_captions,
    write_captions,
)
from model_zoo.vld.tasks import CaptionTask, DistillationTask, InstructionTask
from model_zoo.vld.visual import VitShape
from simulations.datasets.clips import PlainClips

VIT = VitShape(patch=8, width=8, layers=1, heads=2, mlp=8)
SIZES = Sizes(
    clip=(8, 16, 16),
    teacher=VIT,
    language=LanguageShape(
        vocab_size=256,
        length=12,
        width=8,
        encoder_layers=1,
        decoder_layers=1,
        heads=2,
        mlp=8,
    ),
    student=VIT,
    temporal_layers=1,
    text=TextShape(
        vocab_size=256, length=12, width=8, layers=1, heads=2, mlp=8, pool="mean"
    ),
    shared=8,
)
COMMON = {
    "backbone": partial(VideoLanguage, SIZES),
    "num_classes": 10,
    "length": 12,
    "vocab_size": 256,
}
CAPTION = CaptionTask(name="visual", **COMMON)
INSTRUCT = InstructionTask(name="language", **COMMON)
DISTIL = DistillationTask(name="dual", **COMMON)
STAGES = {"visual": (CAPTION, VISUAL), "language": (INSTRUCT, LANGUAGE)}
STAGES |= {
    captions: (dataclasses.replace(DISTIL, captions=captions), STUDENT)
    for captions in ("sampled", "beam", "original")
}
DATA = PlainClips(50, 3, 16, classes_per_user=2, repeats=2)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return VideoLanguage(SIZES)


def batch_of(task, users, seed=7):
    examples = DATA.fetch(np.array(users)).regroup([1] * len(users))
    seeds = np.arange(len(users), dtype=np.uint64) + np.uint64(seed)
    return task.prepare(examples, seeds)


def deltas(engine, data, stage, seeds=None):
    task, trainable = STAGES[stage]
    torch.manual_seed(0)
    backbone = task.make_backbone().double()
    made = InlineRunner(
        task=task,
        dataset=DATA,
        backbone=backbone,
        layout=FlatLayout.of(backbone, trainable),
        recipe=LocalTraining(learning_rate=0.1, batch_size=4, steps=1),
        key=RootKey.from_seed(3),
        engine=EngineChoice(name=engine),
    )
    if seeds is None:
        seeds = np.arange(data.num_groups, dtype=np.uint64)
    work = make_work(task, made.recipe, data, seeds, torch.float64)
    theta = made.layout.flatten(dict(backbone.named_parameters()))
    return made.deltas(theta, work)


def trained(backbone, task, trainable, batch):
    """One step of Adam on what a stage trains; returns the optimizer."""
    layout = FlatLayout.of(backbone, trainable)
    own = dict(backbone.named_parameters())
    optimizer = torch.optim.Adam([own[name] for name in layout.names], lr=0.01)
    batch = batch | {"weight": torch.ones(len(batch["clip"]))}
    task.loss(task.make_head(1), task.features(backbone, batch), batch).backward()
    optimizer.step()
    return optimizer


# Stage 1: every LM parameter bitwise unchanged, visual parameters changed; stage 2: the
# reverse. Optimizer state exists only for trainable halves.


@pytest.mark.parametrize("stage", ["visual", "language"])
def test_the_frozen_half_stays_bit_for_bit(backbone, stage):
    task, trainable = STAGES[stage]
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = trained(backbone, task, trainable, batch_of(task, [1, 2]))
    changed = {
        name
        for name, value in backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    half = f"captioner.{stage}."
    assert changed
    assert all(name.startswith(half) for name in changed)
    own = dict(backbone.named_parameters())
    mine = {id(p) for name, p in own.items() if name.startswith(half)}
    assert {id(p) for p in optimizer.state} <= mine


def test_only_towers_are_in_the_vector_of_the_last_stage(backbone):
    names = FlatLayout.of(backbone, STUDENT).names
    assert not any(name.startswith("captioner.") for name in names)
    rest = {n for n, _ in backbone.named_parameters() if not n.startswith("captioner.")}
    assert set(names) == rest
    assert isinstance(backbone.video, VideoEncoder)
    refuse_batch_statistics(backbone)


def test_prompts_carry_no_loss(backbone):
    batch = batch_of(INSTRUCT, [1]) | {"weight": torch.ones(4)}
    logits = INSTRUCT.features(backbone, batch)
    loss = INSTRUCT.loss(INSTRUCT.make_head(1), logits, batch)
    relabelled = batch | {"prompt": batch["prompt"].flip(1)}
    assert torch.equal(INSTRUCT.loss(INSTRUCT.make_head(1), logits, relabelled), loss)
    # ... and yet they are read
    assert not torch.allclose(INSTRUCT.features(backbone, relabelled), logits)


def test_reversed_frames_change_what_is_said_unless_frames_have_no_place(backbone):
    batch = batch_of(CAPTION, [1, 2])
    back = batch | {"clip": batch["clip"].flip(2)}
    with torch.no_grad():
        first, other = (CAPTION.features(backbone, b) for b in (batch, back))
        assert (first - other).abs().max() > 1e-4
        backbone.captioner.visual.frames.table.weight.zero_()  # an image model's view
        first, other = (CAPTION.features(backbone, b) for b in (batch, back))
    torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-5)


def test_all_texts_open_as_those_that_are_written(backbone):
    """Else the first word is never learned, and the student reads two kinds of text."""
    batch = batch_of(DISTIL, [1, 2])
    ids = [DISTIL.written(backbone, batch)]
    ids += [batch_of(INSTRUCT, [1])[name] for name in ("prompt", "answer")]
    people = dataclasses.replace(DISTIL, captions="original")
    ids.append(people.written(backbone, batch_of(people, [1])))
    for rows in ids:
        assert (rows[:, 0] == BOS).all()
        assert (rows[:, 1:] != BOS).all()
    shown = batch_of(CAPTION, [1]) | {"weight": torch.ones(4)}
    logits = CAPTION.features(backbone, shown)
    head = CAPTION.make_head(1)
    answer = shown["answer"].clone()
    answer[:, 1] = 77  # another first word
    other = CAPTION.loss(head, logits, shown | {"answer": answer})
    assert not torch.equal(other, CAPTION.loss(head, logits, shown))


# Pseudo-captions


def test_the_trainer_cannot_reach_people_s_captions(backbone):
    examples = DATA.fetch(np.array([1]))
    fields = {k: v for k, v in examples.fields.items() if k == "clip"}
    bare = Examples(fields, examples.offsets)
    seeds = np.ones(1, np.uint64)
    for captions in ("sampled", "beam"):
        task = dataclasses.replace(DISTIL, captions=captions)
        whole, guarded = task.prepare(examples, seeds), task.prepare(bare, seeds)
        assert "caption" not in whole
        assert set(whole) == set(guarded)
        assert all(torch.equal(whole[name], guarded[name]) for name in whole)
    original = dataclasses.replace(DISTIL, captions="original")
    with pytest.raises(UserError, match="field `caption`"):
        original.features(backbone, original.prepare(bare, seeds))


def test_captions_are_the_adapted_model_s(backbone):
    batch = batch_of(DISTIL, [1, 2])
    written = DISTIL.written(backbone, batch)
    assert torch.equal(DISTIL.written(backbone, batch), written)
    with torch.no_grad():
        for value in backbone.video.parameters():
            value.add_(1.0)
    assert torch.equal(DISTIL.written(backbone, batch), written)
    with torch.no_grad():
        for value in backbone.captioner.parameters():
            value.add_(torch.randn_like(value))
    assert not torch.equal(DISTIL.written(backbone, batch), written)


def test_files_of_captions_say_who_wrote_them(backbone, tmp_path):
    clips = DATA.fetch(np.array([1, 2])).fields["clip"]
    names = [f"clip-{i}" for i in range(len(clips))]
    write = partial(write_captions, backbone.captioner, clips, names)
    rows = write(samples=3, seed=4)
    save_captions(tmp_path / "pseudo.jsonl", rows)
    assert load_captions(tmp_path / "pseudo.jsonl") == rows == write(samples=3, seed=4)
    assert [row.captions for row in write(seed=5)] != [row.captions for row in rows]
    assert sum(len(set(row.captions)) >= 2 for row in rows) > len(rows) / 2
    alone = write_captions(backbone.captioner, clips[3:4], names[3:4], seed=4)
    assert alone == rows[3:4]
    best = best_captions(backbone.captioner, clips, names, beams=2)
    assert [row.captions for row in best] == [
        (text,) for text in best_texts(backbone.captioner, clips, 2)
    ]
    assert {(row.model_hash, row.seed) for row in best} == {(rows[0].model_hash, None)}
    save_captions(tmp_path / "best.jsonl", best)
    assert load_captions(tmp_path / "best.jsonl") == best
    with torch.no_grad():
        backbone.captioner.language.decoder_norm.weight.mul_(3)
    others = write(samples=3, seed=4)
    assert others[0].model_hash != rows[0].model_hash
    assert [row.captions for row in others] != [row.captions for row in rows]
    with pytest.raises(UserError, match="already exists"):
        save_captions(tmp_path / "pseudo.jsonl", rows)
    (tmp_path / "bad.jsonl").write_text('{"video_id": "a", "captions": []}\n')
    with pytest.raises(UserError, match="bad.jsonl:1"):
        load_captions(tmp_path / "bad.jsonl")


# Privacy of a virtual client


@pytest.mark.parametrize("engine", ["vectorized", "shared", "flat"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_engines_agree(engine, stage):
    data = DATA.fetch(np.array([1, 2, 3])).regroup([2, 1])
    found, wanted = deltas(engine, data, stage), deltas("serial", data, stage)
    assert wanted.norm() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stage", list(STAGES))
def test_another_user_moves_no_other_virtual_client(stage):
    data = DATA.fetch(np.array([1, 2, 3, 4]))
    other = DATA.fetch(np.array([1, 2, 3, 9]))
    found, changed = (
        deltas("shared", part.regroup([2, 2]), stage) for part in (data, other)
    )
    torch.testing.assert_close(found[0], changed[0], rtol=0, atol=1e-12)
    assert not torch.allclose(found[1], changed[1])


def test_people_s_captions_move_nothing_in_the_last_stage():
    data = DATA.fetch(np.array([1, 2])).regroup([1, 1])
    fields = dict(data.fields)
    fields["caption"] = fields["caption"][::-1].copy()
    other = Examples(fields, data.offsets)
    for captions, same in (("sampled", True), ("beam", True), ("original", False)):
        found = deltas("shared", data, captions), deltas("shared", other, captions)
        assert torch.equal(*found) == same


def test_captions_are_drawn_anew_by_each_virtual_client_s_own_seed():
    data = DATA.fetch(np.array([1, 2])).regroup([1, 1])
    seeds = np.array([4, 5], np.uint64)
    first = deltas("shared", data, "sampled", seeds)
    second = deltas("shared", data, "sampled", np.array([4, 6], np.uint64))
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=1e-12)
    assert not torch.allclose(first[1], second[1])


def test_a_lone_clip_teaches_the_dual_encoder_nothing():
    rows = DATA.fetch(np.array([1]))
    one = rows.only(np.array([0]))
    assert float(deltas("serial", one, "sampled").norm()) == 0


def test_rows_are_read_each_by_itself(backbone):
    for task, _ in STAGES.values():
        batch = batch_of(task, [1, 2])
        with torch.no_grad():
            whole = task.features(backbone, batch)
            part = task.features(backbone, {k: v[3:4] for k, v in batch.items()})
        if isinstance(whole, torch.Tensor):
            whole, part = {"logits": whole}, {"logits": part}
        for name, values in whole.items():
            torch.testing.assert_close(part[name], values[3:4], rtol=1e-4, atol=1e-5)


# Sizes, stages, metrics


def test_embeddings_have_unit_length_and_the_head_is_a_temperature(backbone):
    batch = batch_of(DISTIL, [1, 2])
    features = DISTIL.features(backbone, batch)
    for rows in (*features.values(), DISTIL.embed(backbone, batch)):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    head = DISTIL.make_head(1)
    assert [name for name, _ in head.named_parameters()] == ["log_inverse"]
    assert float(head().detach()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        head.log_inverse.fill_(9.0)
    assert float(head().detach()) == 100
    assert not list(CAPTION.make_head(1).parameters())


def test_the_student_starts_with_the_adapted_eyes_of_the_teacher(backbone):
    state = backbone.state_dict()
    found = student_sees_as_teacher(state)
    assert set(found) == set(state)
    name = "vit.blocks.0.mlp.0.weight"
    assert torch.equal(found[f"video.{name}"], state[f"captioner.visual.{name}"])
    assert not torch.equal(state[f"video.{name}"], state[f"captioner.visual.{name}"])


def test_published_and_own_sizes():
    found = registry.describe("video_language_distillation")["configurations"]
    assert found["tiny"]["backbone_parameters"] == 117_648
    assert found["small"]["backbone_parameters"] == 843_264
    assert found["paper"]["backbone_parameters"] == 5_421_414_144
    configuration = registry.get("video_language_distillation:paper").configuration()
    stages = configuration.build(data=configuration.data, options=configuration.options)
    with torch.device("meta"):
        model = stages[0].task.make_backbone()

    def count(module):
        return sum(p.numel() for p in module.parameters())

    # "a ViT-L/14 224 tower with 24 layers x 1024, patch 14, is about 304M"
    assert count(model.video.vit) == 303_176_704
    # PaLI-3: an image encoder of 2 billion, 5 billion in all
    assert round(count(model.captioner.visual) / 1e9) == 2
    assert round(count(model.captioner) / 1e9) == 5
    sizes = [FlatLayout.of(model, stage.trainable).size for stage in stages]
    assert sum(sizes) == count(model)


def test_stages_of_a_run_share_one_backbone_and_its_rounds():
    system = registry.get("video_language_distillation")
    stages = system.build(data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=4))
    assert [stage.name for stage in stages] == ["visual", "language", "dual encoder"]
    assert sum(stage.share_of_rounds for stage in stages) == pytest.approx(1)
    assert stages[-1].task.captions == "sampled"
    with pytest.raises(UserError, match="frames, height, width"):
        system.build(data=DataFacts(example_shape=(32, 32, 3), num_classes=4))
    with pytest.raises(NotAvailable, match="fit clips of 4 x 32 x 32: .*--frames 8"):
        system.build(data=DataFacts(example_shape=(4, 32, 32, 3), num_classes=4))[
            0
        ].task.make_backbone()


def test_configurations_say_what_public_weights_they_start_from():
    found = registry.get("video_language_distillation").configurations
    starts = {name for name, one in found.items() if one.public}
    assert starts == {"tiny", "tiny-beam", "tiny-original"}
    assert "stand-in" in found["tiny"].public[0]
    assert "stand-in" in found["tiny"].note


def test_metrics_are_there_and_start_near_chance(backbone):
    held_out = DATA.held_out()
    rows = np.arange(80)
    few = held_out.only(rows)
    found = DISTIL.evaluate(backbone, few)
    assert set(registry.get("video_language_distillation").watched) <= set(found)
    assert 0 <= found["text_to_video_recall_at_10"] < 0.5
    assert 0 <= found["cider"] < 1
    assert found["caption_log_likelihood"] < -3
    assert 0 <= found["before_after_accuracy"] < 0.6
    assert {"recall_at_1", "roc_auc", "video_to_text_median_rank"} <= set(found)
    bare = Examples(
        {k: v for k, v in few.fields.items() if k in ("clip", "label")}, few.offsets
    )
    assert "roc_auc" in DISTIL.evaluate(backbone, bare)


def test_unknown_sources_of_captions_are_refused():
    with pytest.raises(UserError, match="sampled, beam, original"):
        dataclasses.replace(DISTIL, captions="somebody's")
    with pytest.raises(UserError, match="must read what"):
        dataclasses.replace(SIZES, text=dataclasses.replace(SIZES.text, length=8))


def in_order(*order, **options):
    system = registry.get("video_language_distillation")
    configuration = system.configurations["tiny"]
    build = dataclasses.replace(configuration.build, order=order)
    return build(data=configuration.data, options=TaskOptions(**options))


def test_a_choice_of_what_is_trained_leaves_the_adapted_halves_alone():
    """Otherwise adaptation trained towers that its loss does not reach: only noise."""
    stages = in_order("visual", "language", "dual encoder", trainable="last")
    assert [s.trainable for s in stages] == [VISUAL, LANGUAGE, f"last of {STUDENT}"]
    with pytest.raises(UserError, match="trainable='last' does not apply"):
        in_order("visual", "language", trainable="last")


def test_stages_can_be_left_out_or_run_in_another_order():
    usual = in_order("visual", "language", "dual encoder")
    other = in_order("language", "visual", "dual encoder")
    assert [stage.name for stage in other] == ["language", "visual", "dual encoder"]
    assert {s.name: s.share_of_rounds for s in other} == {
        s.name: s.share_of_rounds for s in usual
    }
    (alone,) = in_order("dual encoder")
    assert alone.share_of_rounds == 1.0
    for wrong in ((), ("visual", "visual"), ("sound",)):
        with pytest.raises(UserError, match="must name stages once each, of visual"):
            in_order(*wrong)
