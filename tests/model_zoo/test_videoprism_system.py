"""VideoPrism as a whole: sizes, both stages, what is shared, leakage, and metrics."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from fedemb.cli.main import app
from fedemb.errors import UserError
from fedemb.local import LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from model_zoo import registry
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.video.encoder import VideoEncoder
from model_zoo.videoprism.card import VIDEOPRISM
from model_zoo.videoprism.encoder import patchify
from model_zoo.videoprism.network import begin_distillation, without_teacher
from model_zoo.videoprism.stages import EncoderStages, VideoPrismStages
from simulations.datasets.clips import PlainClips
from simulations.judging.contestants import encoder_of

DATA = PlainClips(50, 3, 16, classes_per_user=2, repeats=2)
FACTS = DataFacts(
    example_shape=(8, 16, 16, 3), num_classes=10, class_names=tuple(DATA.class_names)
)
BUILD = VideoPrismStages(
    video={
        **{"patch": 8, "places": (4, 2, 2), "spatial": 1, "temporal": 1},
        **{"heads": 2, "mlp": 16},
    },
    width=16,
    text=VIDEOPRISM.configuration("tiny").build.text | {"mlp": 16, "heads": 2},
    decoders={"width": 8, "layers": 1, "heads": 2, "mlp": 8},
    shares=(0.5, 0.25, 0.25),
    order=("contrastive", "distillation", "alignment"),
    towers={"auxiliary": 1, "pooler": 1},
)
STAGES = BUILD(data=FACTS, options=TaskOptions())
CONTRAST, DISTIL, ALIGN = (stage.task for stage in STAGES)


@pytest.fixture
def student():
    torch.manual_seed(0)
    first, second = CONTRAST.make_backbone(), DISTIL.make_backbone()
    second.load_state_dict(begin_distillation(first.state_dict()))
    return second


def batch_of(users, task, seed=7):
    examples = DATA.fetch(np.array(users)).regroup([len(users)])
    batch = task.prepare(examples, np.array([seed], np.uint64))
    return batch | {"weight": torch.ones(len(examples))}


def fresh(task=DISTIL, seed=0):
    head = task.make_head(1)
    generator = torch.Generator().manual_seed(seed)
    head.load_state_dict(dict(task.fresh_head(head, 1, generator)))
    return head


def runner(engine, stage):
    torch.manual_seed(0)
    backbone = stage.task.make_backbone().double()
    return InlineRunner(
        task=stage.task,
        dataset=DATA,
        backbone=backbone,
        layout=FlatLayout.of(backbone, stage.trainable),
        recipe=LocalTraining(learning_rate=0.1, batch_size=4, steps=1),
        key=RootKey.from_seed(3),
        engine=EngineChoice(name=engine),
    )


def deltas(engine, stage, data):
    made = runner(engine, stage)
    seeds = np.arange(data.num_groups, dtype=np.uint64)
    work = make_work(stage.task, made.recipe, data, seeds, torch.float64)
    theta = made.layout.flatten(dict(made.backbone.named_parameters()))
    return made.deltas(theta, work)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("base", 114_365_184),
        ("large", 353_965_056),
        ("giant", 1_112_755_072),
        ("base-text", 247_623_424),
        ("large-text", 579_877_120),
        ("giant-text", 1_621_074_016),
        ("small-encoder", 314_048),
    ],
)
def test_published_sizes_have_the_published_counts(name, parameters):
    configuration = VIDEOPRISM.configuration(name)
    (stage,) = configuration.build(
        data=configuration.data, options=configuration.options
    )
    with torch.device("meta"):
        backbone = stage.task.make_backbone()
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    if name == "giant":
        half = sum(
            p.numel()
            for n, p in backbone.named_parameters()
            if n.split(".")[1] in ("patches", "space", "spatial", "spatial_norm")
        )
        assert half == 1_011_740_288
    if name == "base":
        half = [
            p for n, p in backbone.named_parameters() if "tempo" in n or "time" in n
        ]
        assert sum(p.numel() for p in half) == 28_365_312


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("base-classifier", 117_037_520),
        ("large-classifier", 358_576_592),
        ("giant-classifier", 1_121_258_472),
    ],
)
def test_classifiers_are_encoder_pooler_and_a_layer_for_400_classes(name, parameters):
    (found,) = registry.describe(f"videoprism:{name}")["configurations"].values()
    assert found["total_parameters"] == parameters
    video = VIDEOPRISM.configuration(name).build.video
    width, heads = video["width"], video["heads"]
    assert found["head_parameters"] == 400 * width + 400
    encoder = name.removesuffix("-classifier")
    (alone,) = registry.describe(f"videoprism:{encoder}")["configurations"].values()
    pooler = found["backbone_parameters"] - alone["backbone_parameters"]
    assert pooler == 4 * width**2 + 7 * width + width // heads


def test_encoders_alone_are_judged_by_what_they_are_measured_by():
    # They read no captions, so that the system's metric would never be there.
    for name, configuration in VIDEOPRISM.configurations.items():
        alone = isinstance(configuration.build, EncoderStages)
        wanted = "recall_at_1" if alone else VIDEOPRISM.metric
        assert registry.get(f"videoprism:{name}").metric == wanted


def test_a_classifier_trains_encoder_and_pooler_and_keeps_its_layer():
    data = DATA.fetch(np.array([1, 2])).regroup([2])
    (stage,) = registry.get("videoprism:small-classifier").build(data=FACTS)
    assert stage.task.label_space == "global"
    batch = stage.task.prepare(data, np.zeros(1, np.uint64))
    batch |= {"weight": torch.ones(len(data)), "classes": torch.tensor(10)}
    batch["label"] = batch["label"] % 10
    torch.manual_seed(0)
    backbone, head = stage.task.make_backbone(), stage.task.make_head(10)
    head.load_state_dict(
        dict(stage.task.fresh_head(head, 10, torch.Generator().manual_seed(0)))
    )
    stage.task.loss(head, stage.task.features(backbone, batch), batch).backward()
    still = [name for name, p in backbone.named_parameters() if not p.grad.any()]
    assert all(name.endswith("key.bias") for name in still)  # a softmax ignores it
    assert head.bias.grad.any()
    assert set(dict(head.named_parameters())) == {"weight", "bias"}
    assert FlatLayout.of(backbone, stage.trainable).size == sum(
        p.numel() for p in backbone.parameters()
    )


def test_stages_can_be_left_out():
    without = dataclasses.replace(BUILD, order=("contrastive", "alignment"))
    first, last = without(data=FACTS, options=TaskOptions())
    assert first.share_of_rounds == pytest.approx(2 / 3)
    assert last.share_of_rounds == pytest.approx(1 / 3)
    kept = last.inherit(first.task.make_backbone().state_dict())
    assert set(kept) == set(last.task.make_backbone().state_dict())
    with pytest.raises(UserError, match="of contrastive, distillation, alignment"):
        dataclasses.replace(BUILD, order=("masking",))(
            data=FACTS, options=TaskOptions()
        )


def test_temperatures_that_are_too_low_are_refused():
    for wrong in (0.005, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="must be at least 0.01"):
            dataclasses.replace(CONTRAST, temperature=wrong)


def test_the_student_and_its_teacher_start_as_the_first_stage(student):
    assert torch.equal(student.video.time, student.teacher.video.time)
    batch = batch_of([1], DISTIL)
    tokens, whole = student.teach(batch["clip"])
    torch.testing.assert_close(tokens, student.video(batch["clip"]).tokens)
    torch.testing.assert_close(whole, student.pool(tokens))
    assert set(without_teacher(student.state_dict())) == set(
        CONTRAST.make_backbone().state_dict()
    )
    assert isinstance(encoder_of(student), VideoEncoder)
    refuse_batch_statistics(student)


def test_the_server_vector_has_exactly_the_encoder_s_size(student):
    encoder = sum(p.numel() for p in student.video.parameters())
    assert FlatLayout.of(student, STAGES[1].trainable).size == encoder
    tuned = FlatLayout.of(CONTRAST.make_backbone(), STAGES[2].trainable).names
    assert {name.split(".")[0] for name in tuned} == {"auxiliary", "pooler", "text"}


def test_decoders_differ_between_virtual_clients_unless_they_are_public():
    data = DATA.fetch(np.array([1, 2])).regroup([1, 1])
    seeds = np.array([2, 9], np.uint64)
    for init, same in (("fresh", False), ("public", True)):
        recipe = LocalTraining(batch_size=4, steps=1, head_init=init)
        heads = make_work(DISTIL, recipe, data, seeds).heads["local.mask"]
        assert torch.equal(heads[0], heads[1]) is same


def test_masked_pixels_reach_the_teacher_and_not_the_student(student):
    batch = batch_of([1], DISTIL)
    hidden = ~batch["seen"]
    changed = torch.rand_like(batch["clip"])
    other = patchify(batch["clip"], 8).flatten(1, 2)
    other[hidden] = patchify(changed, 8).flatten(1, 2)[hidden]
    rows = other.reshape(-1, 4, 2, 2, 8, 8, 3).transpose(3, 4)
    clip = rows.reshape(batch["clip"].shape)
    assert not torch.equal(clip, batch["clip"])
    with torch.no_grad():
        before = DISTIL.features(student, batch)
        after = DISTIL.features(student, batch | {"clip": clip})
    assert torch.equal(before["visible"], after["visible"])
    assert not torch.allclose(before["local"], after["local"])
    assert not torch.allclose(before["global"], after["global"])
    pixels = batch["clip"].clone().requires_grad_()
    found = DISTIL.features(student, batch | {"clip": pixels})
    loss = DISTIL.loss(fresh(), found, batch)
    (gradient,) = torch.autograd.grad(loss, pixels)
    by_token = patchify(gradient, 8).flatten(1, 2).abs().sum(-1)
    assert (by_token[hidden] == 0).all()
    assert (by_token[~hidden] > 0).all()


def test_two_targets_and_a_teacher_that_stands_still(student):
    batch = batch_of([1], DISTIL)
    local = dataclasses.replace(DISTIL, weights=(1.0, 0.0))
    whole = dataclasses.replace(DISTIL, weights=(0.0, 1.0))
    values = [
        task.loss(fresh(task), task.features(student, batch), batch).item()
        for task in (DISTIL, local, whole)
    ]
    assert values[0] == pytest.approx(values[1] + values[2], rel=1e-5)
    head = fresh(local)
    local.loss(head, local.features(student, batch), batch).backward()
    assert all(p.grad is None or not p.grad.any() for p in head.whole.parameters())
    assert all(p.grad is None for p in student.teacher.parameters())
    with torch.no_grad():
        student.teacher.pooler.query.add_(torch.randn_like(student.pooler.query))
        changed = [
            task.loss(fresh(task), task.features(student, batch), batch).item()
            for task in (local, whole)
        ]
    assert changed[0] == pytest.approx(values[1], rel=1e-6)
    assert changed[1] != pytest.approx(values[2], rel=1e-6)


def test_training_moves_the_student_and_leaves_the_teacher():
    made = runner("shared", STAGES[1])
    teacher = {k: v.clone() for k, v in made.backbone.teacher.state_dict().items()}
    data = DATA.fetch(np.array([1, 2])).regroup([1, 1])
    assert (deltas("shared", STAGES[1], data).norm(dim=1) > 0).all()
    work = make_work(
        DISTIL, made.recipe, data, np.arange(2, dtype=np.uint64), torch.float64
    )
    theta = made.layout.flatten(dict(made.backbone.named_parameters()))
    made.deltas(theta, work)
    for name, value in made.backbone.teacher.state_dict().items():
        assert torch.equal(value, teacher[name])


def test_tubes_are_dropped_in_training_alone(student):
    batch = batch_of([1, 2], CONTRAST)
    assert batch["kept"].shape == (8, 2)
    seen = []
    student.video.spatial[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    CONTRAST.features(student, batch)
    CONTRAST.embed(student, batch)
    assert seen == [2, 4]


def test_the_contrast_teaches_both_towers_and_a_lone_clip_nothing(student):
    batch = batch_of([1], CONTRAST)
    head = CONTRAST.make_head(1)
    assert 1 / head().item() == pytest.approx(0.07)
    CONTRAST.loss(head, CONTRAST.features(student, batch), batch).backward()
    for part in (student.video, student.auxiliary, student.pooler, student.text):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    one = DATA.fetch(np.array([1])).only(np.array([0]))
    assert float(deltas("serial", STAGES[0], one).norm()) == 0


def test_captions_are_read_in_canonical_form():
    loud, plain = CONTRAST.ids(np.array(["A Red  ball, spins!", "a red ball spins."]))
    assert torch.equal(loud, plain)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("engine", ["vectorized", "shared"])
def test_engines_agree(engine, stage):
    data = DATA.fetch(np.array([1, 2, 3])).regroup([2, 1])
    found, wanted = (deltas(e, STAGES[stage], data) for e in (engine, "serial"))
    assert wanted.norm() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stage", [0, 1])
def test_another_user_moves_no_other_virtual_client(stage):
    data, other = DATA.fetch(np.array([1, 2, 3, 4])), DATA.fetch(np.array([1, 2, 3, 9]))
    found, changed = (
        deltas("shared", STAGES[stage], part.regroup([2, 2])) for part in (data, other)
    )
    torch.testing.assert_close(found[0], changed[0], rtol=0, atol=1e-12)
    assert not torch.allclose(found[1], changed[1])


@pytest.mark.parametrize("task", [CONTRAST, DISTIL])
def test_rows_are_seen_each_by_itself(task, student):
    batch = batch_of([1, 2], task)
    with torch.no_grad():
        whole = task.features(student, batch)
        part = task.features(student, {k: v[3:4] for k, v in batch.items()})
    for name, values in whole.items():
        torch.testing.assert_close(part[name], values[3:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", [CONTRAST, DISTIL, ALIGN])
def test_every_stage_is_judged_by_the_same_metrics(task, student):
    held_out = DATA.held_out()
    some = held_out.only(np.arange(0, 200, 2))
    found = task.evaluate(student, some)
    assert set(VIDEOPRISM.watched) <= set(found)
    assert {"recall_at_1", "probe_accuracy", "zero_shot_accuracy"} <= set(found)
    assert found["zero_shot_accuracy"] < 0.5
    assert 0 <= found["video_to_text_recall_at_10"] < 0.6


def test_options_that_do_not_apply_are_refused():
    with pytest.raises(UserError, match="does not apply"):
        BUILD(data=FACTS, options=TaskOptions(head="linear"))
    with pytest.raises(UserError, match="clips with captions"):
        BUILD(
            data=DataFacts(example_shape=(8, 8, 3), num_classes=2),
            options=TaskOptions(),
        )
    with pytest.raises(UserError, match="masked=1"):
        dataclasses.replace(DISTIL, masked=1.0)


def test_all_stages_are_paid_from_one_ledger(tmp_path):
    out = tmp_path / "run"
    arguments = [
        "simulate",
        "--model",
        "videoprism",
        "--users",
        "200",
        "--epsilon",
        "8",
    ]
    arguments += ["--users-per-round", "4", "--rounds", "4", "--engine", "serial"]
    arguments += ["--image-size", "16", "--out", str(out), "--seed", "1"]
    arguments += ["--ledger", str(tmp_path / "ledger")]
    app(arguments, standalone_mode=False)
    report = json.loads((out / "report.json").read_text())
    assert report["rounds_completed"] == 4
    assert 0 < report["privacy"]["epsilon_spent"] <= 8
    assert VIDEOPRISM.metric in report["metrics"]["final"]
    names = _names(out / "backbone.safetensors")
    assert "video.time" in names
    assert not any(name.startswith("teacher.") for name in names)  # done with it
    app(["evaluate", str(out)], standalone_mode=False)
    described = registry.describe("videoprism:tiny")
    assert described["stages"][1].startswith("distillation")


def _names(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return set(file.keys())
