"""Semantic segmentation alone: DeepLabv3 and v3+, their counts, task and metric."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from typer.testing import CliRunner

from fedemb.cli.main import app
from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo import registry
from model_zoo.deeplab2.evaluation import semantic_metrics
from model_zoo.deeplab2.fitting import FitSpec, fit_to_half, predictions
from model_zoo.deeplab2.network import LocalNetwork, NetworkSpec, SharedNetwork
from model_zoo.deeplab2.semantic import SemanticSpec
from model_zoo.deeplab2.sizes import SIZES
from model_zoo.deeplab2.targets import TargetSpec, make_targets
from model_zoo.deeplab2.task import PanopticTask, SemanticTask
from model_zoo.system import DataFacts, TaskOptions
from simulations.datasets.scenes import Scenes

SCENES = Scenes(100, 0, 32)


def task_of(name: str = "semantic_tiny", **vocabularies) -> SemanticTask:
    facts = DataFacts(
        example_shape=(32, 32, 3),
        num_classes=9,
        vocabularies={**SCENES.vocabularies, **vocabularies},
    )
    system = registry.get(f"deeplab2:{name}")
    options = TaskOptions(label_space="global")
    return system.build(data=facts, options=options)[0].task


def pictures(count: int = 4) -> Examples:
    rows = SCENES.fetch(np.array([5])).take(np.arange(count))
    return Examples(rows, np.array([0, count]))


@pytest.mark.parametrize(
    ("name", "total", "encoder"),
    [
        ("deeplabv3", 39_638_355, 23_508_032),
        ("deeplabv3_plus", 39_210_947, 23_508_032),
        ("deeplabv3_mobilenet_v3_large", 11_024_963, 2_971_952),
    ],
)
def test_describe_gives_the_published_counts(name, total, encoder):
    sizes = registry.describe(f"deeplab2:{name}")["configurations"][name]
    assert sizes["total_parameters"] == total
    assert sizes["backbone_parameters"] == encoder
    both = registry.describe(f"deeplab2:{name}_decoder")["configurations"]
    shared = both[f"{name}_decoder"]
    assert shared["total_parameters"] == total
    assert shared["head_parameters"] == 19 * 257


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3_plus"])
def test_logits_have_the_size_of_the_picture(name):
    with torch.device("meta"):
        spec = SIZES[name].with_share("encoder")
        shared = SharedNetwork(spec)
        local = LocalNetwork(spec, shared.encoder.channels, 19)
        features = shared.dense(torch.zeros(2, 3, 65, 129))
        decoded = local.decoders(features)["semantic"]
        logits = local(features, (65, 129))
    assert set(features) == set(spec.decoder.endpoints)
    grid = (17, 33) if spec.decoder.low else (5, 9)
    assert decoded.shape == (2, 256, *grid)
    assert {key: tuple(v.shape) for key, v in logits.items()} == {
        "semantic": (2, 19, 65, 129)
    }


def test_only_deeplabv3_plus_sees_res2():
    for low, sees in ((0, False), (4, True)):
        decoder = SemanticSpec(rates=(1, 2), pyramid=8, channels=8, low=low)
        spec = replace(SIZES["semantic_tiny"].network, decoder=decoder)
        torch.manual_seed(0)
        shared = SharedNetwork(spec)
        local = LocalNetwork(spec, shared.encoder.channels, 3)
        ends = dict(shared.encoder(torch.randn(1, 3, 32, 32)))
        before = local(ends, (32, 32))["semantic"]
        ends["res2"] = ends["res2"] + torch.randn(ends["res2"].shape)
        moved = local(ends, (32, 32))["semantic"] != before
        assert bool(moved.any()) is sees


def test_targets_of_classes_are_those_of_panoptic_segmentation():
    maps = pictures().fields["panoptic"]
    categories = task_of().categories
    every = make_targets(maps, categories, TargetSpec())
    classes = make_targets(maps, categories, TargetSpec(), instances=False)
    assert set(classes) == {"semantic", "semantic_weight"}
    for name, values in classes.items():
        np.testing.assert_array_equal(values, every[name])


def test_the_loss_is_the_semantic_one_of_panoptic_segmentation():
    task, data = task_of(), pictures()
    batch = task.prepare(data, np.array([3], np.uint64))
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(10)
    parts = task.loss_parts(head, task.features(backbone, batch), batch)
    logits = task.predicted(head, task.features(backbone, batch), batch)["semantic"]
    pixelwise = torch.nn.functional.cross_entropy(
        logits, batch["semantic"], ignore_index=-1, reduction="none"
    )
    expected = (pixelwise * batch["semantic_weight"]).mean((1, 2))  # scenes: no void
    assert set(parts) == {"semantic"}
    assert (batch["semantic"] >= 0).all()
    torch.testing.assert_close(parts["semantic"], expected)


def test_maps_without_instances_are_enough():
    task, data = task_of(things=()), pictures()
    fields = dict(data.fields)
    fields["panoptic"] = fields["panoptic"] // 256 * 256
    batch = task.prepare(Examples(fields, data.offsets), np.array([3], np.uint64))
    assert set(np.unique(batch["semantic_weight"])) == {1.0}
    batch["weight"] = torch.ones(len(data))
    loss = task.loss(
        task.make_head(10), task.features(task.make_backbone(), batch), batch
    )
    assert loss > 0


def test_mean_iou_equals_scikit_learn():
    task, data, fit = task_of(), pictures(8), FitSpec(steps=3)
    torch.manual_seed(0)
    backbone = task.make_backbone()
    found = fit_to_half(task, backbone, data, fit)
    told = [
        logits["semantic"].argmax(0).numpy() + 1
        for logits in predictions(task, backbone, found.head, found.judged)
    ]
    truth = found.judged.fields["panoptic"] // 256
    expected = jaccard_score(
        truth.ravel(), np.stack(told).ravel(), average="macro", zero_division=0
    )
    metrics = semantic_metrics(task, backbone, data, fit)
    assert metrics == {"miou": pytest.approx(expected)}
    nothing_to_judge = semantic_metrics(task, backbone, pictures(1), fit)
    assert np.isnan(nothing_to_judge["miou"])


def test_100_steps_lower_the_loss_and_tell_half_of_the_classes_apart():
    task, data = task_of(), pictures()
    batch = task.prepare(data, np.array([3], np.uint64))
    batch["weight"] = torch.ones(len(data))
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(10)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 1e-2)
    history = []
    for _ in range(100):
        loss = task.loss(head, task.features(backbone, batch), batch)
        history.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.5 * history[0]
    told = [p["semantic"].argmax(0) for p in predictions(task, backbone, head, data)]
    truth = batch["semantic"].numpy()
    score = jaccard_score(
        truth.ravel(), torch.stack(told).numpy().ravel(), average="macro"
    )
    assert score > 0.5


def test_a_task_and_a_decoder_that_do_not_fit_are_refused():
    categories = task_of().categories
    with pytest.raises(UserError, match="no instances"):
        PanopticTask(network=NetworkSpec(decoder=SemanticSpec()), categories=categories)
    with pytest.raises(UserError, match="nothing would train"):
        SemanticTask(network=NetworkSpec(), categories=categories)
    with pytest.raises(UserError, match="low=-1"):
        SemanticSpec(low=-1)


def test_its_headline_metric_is_the_mean_iou():
    assert registry.get("deeplab2:semantic_tiny").metric == "miou"
    assert registry.get("deeplab2:deeplabv3_decoder").metric == "miou"
    assert registry.get("deeplab2:tiny").metric == "pq"
    assert registry.get("deeplab2").metric == "pq"


def test_two_rounds_end_in_a_report_of_classes_without_instances(tmp_path):
    out = tmp_path / "run"
    words = (
        *("simulate", "--model", "deeplab2:semantic_tiny", "--users", 60),
        *("--users-per-round", 6, "--rounds", 2, "--noise-multiplier", 0),
        *("--engine", "shared", "--seed", 1, "--out", out, "--json"),
    )
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads((out / "report.json").read_text())
    assert report["rounds_completed"] == 2
    final = report["metrics"]["final"]
    assert 0 < final["miou"] <= 1
    assert "recall_at_1" in final
    assert not {"pq", "ap"} & set(final)
