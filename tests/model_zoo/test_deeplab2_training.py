"""Panoptic-DeepLab in the core: engines, locality, learning, and real pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedemb.cli.main import app
from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import NotAvailable, UserError
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.deeplab2.categories import Categories
from model_zoo.deeplab2.evaluation import score_predictions, segment
from model_zoo.system import DataFacts, TaskOptions
from simulations.datasets import load
from simulations.datasets.scenes import Scenes

COCO = Path(__file__).parents[2] / "../shared/data/coco_panoptic"
SEEDS = np.array([3, 5, 8], np.uint64)


def scenes(side: int = 32) -> Scenes:
    return Scenes(100, 0, side)


def task_of(name: str = "tiny", **options):
    data = scenes()
    facts = DataFacts(
        example_shape=(32, 32, 3), num_classes=9, vocabularies=data.vocabularies
    )
    system = registry.get(f"deeplab2:{name}")
    return system.build(data=facts, options=TaskOptions(**options))[0].task


def three_users(side: int = 32, each: int = 3) -> Examples:
    rows = scenes(side).fetch(np.array([1, 2, 3]))
    kept = np.concatenate([np.arange(16 * k, 16 * k + each) for k in range(3)])
    return Examples(rows.take(kept), np.arange(4) * each)


def deltas(engine, task, examples, recipe, seeds=SEEDS):
    torch.manual_seed(0)
    backbone = task.make_backbone().double()
    with torch.no_grad():  # no branch may be switched off
        for name, value in backbone.named_parameters():
            if name.endswith("norm.weight"):
                value.fill_(1.0)
    layout = FlatLayout.of(backbone)
    theta = layout.flatten(dict(backbone.named_parameters()))
    work = make_work(task, recipe, examples, seeds, dtype=torch.float64)
    model = LocalModel(task, backbone.requires_grad_(False), work.head)
    return engine(model, layout, theta, work, recipe)


STEP = LocalTraining(learning_rate=0.1, batch_size=2, steps=1, head_init="public")


@pytest.mark.parametrize("name", ["tiny", "tiny_encoder", "semantic_tiny"])
def test_engines_equal_the_serial_one(name):
    task, data = task_of(name), three_users()
    expected = deltas(serial_deltas, task, data, STEP)
    assert float(expected.norm()) > 0
    for engine in (vectorized_deltas, shared_deltas):
        found = deltas(engine, task, data, STEP)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_the_vectorised_engine_fits_fresh_heads_first():
    recipe = LocalTraining(learning_rate=0.01, batch_size=2, steps=3, head_steps=1)
    task, data = task_of(), three_users()
    expected = deltas(serial_deltas, task, data, recipe)
    found = deltas(vectorized_deltas, task, data, recipe)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["axial_swidernet_tiny", "mobilenet_tiny"])
def test_axial_and_mobile_encoders_are_vectorised(name):
    task, data = task_of(name), three_users(33, each=1)
    expected = deltas(serial_deltas, task, data, STEP)
    found = deltas(vectorized_deltas, task, data, STEP)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["tiny", "semantic_tiny"])
def test_perturbing_one_user_changes_only_its_own_virtual_client(name):
    task, data = task_of(name), three_users()
    fields = {name: values.copy() for name, values in data.fields.items()}
    middle = slice(int(data.offsets[1]), int(data.offsets[2]))
    fields["image"][middle] = 255 - fields["image"][middle]
    fields["panoptic"][middle] = 256
    before = deltas(serial_deltas, task, data, STEP)
    after = deltas(serial_deltas, task, Examples(fields, data.offsets), STEP)
    moved = (before - after).abs().sum(1)
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


def test_the_aggregate_excludes_head_tensors():
    for name, decoders in (("tiny", True), ("tiny_encoder", False)):
        task = task_of(name)
        names = FlatLayout.of(task.make_backbone()).names
        assert not any("prediction" in n for n in names)
        assert any(n.startswith("decoders.") for n in names) is decoders
        head = [n for n, _ in task.make_head(10).named_parameters()]
        assert any(n.startswith("decoders.") for n in head) is not decoders


def test_permuted_classes_with_a_permuted_head_give_the_same_encoder_delta():
    task = task_of(label_space="global")
    data, seeds = three_users(), np.zeros(1, np.uint64)
    one = Examples(data.fields, np.array([0, len(data)]))
    order = np.array([2, 0, 3, 1, 9, 4, 6, 5, 8, 7])  # stuff and things apart
    renamed = np.concatenate([[0], order + 1])
    panoptic = data.fields["panoptic"]
    moved = {**data.fields, "panoptic": renamed[panoptic // 256] * 256 + panoptic % 256}
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(10)
    gradients = []
    for examples, place in (
        (one, np.arange(10)),
        (Examples(moved, one.offsets), order),
    ):
        other = task.make_head(10)
        state = {k: v.clone() for k, v in head.state_dict().items()}
        for part in ("weight", "bias"):
            name = f"predictions.semantic.predict.{part}"
            state[name][torch.from_numpy(place)] = head.state_dict()[name]
        other.load_state_dict(state)
        batch = task.prepare(examples, seeds)
        batch["weight"] = torch.ones(len(examples))
        loss = task.loss(other, task.features(backbone, batch), batch)
        wanted = list(backbone.encoder.parameters())
        gradients.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_a_head_chooses_among_the_categories_its_client_shows():
    task, data = task_of(), three_users(each=1)
    batch = task.prepare(data, SEEDS)
    for row, panoptic in enumerate(data.fields["panoptic"]):
        shown = np.flatnonzero(batch["shown"][row].numpy()) + 1
        assert set(shown) == set(np.unique(panoptic // 256)) - {0}
    batch["weight"] = torch.ones(3)
    head, features = task.make_head(10), task.features(task.make_backbone(), batch)
    local = task.loss_parts(head, features, batch)["semantic"]
    everywhere = replace(task, classes_of="global")
    assert (everywhere.loss_parts(head, features, batch)["semantic"] > local).all()


def test_rows_of_weight_0_change_nothing():
    task, data = task_of(), three_users(each=1)
    batch = task.prepare(data, SEEDS)
    head, backbone = task.make_head(10), task.make_backbone()
    features = task.features(backbone, batch)
    batch["weight"] = torch.tensor([1.0, 1.0, 0.0])
    before = task.loss(head, features, batch)
    features = {k: v.clone() for k, v in features.items()}
    features["semantic"][2] += 5
    assert torch.equal(task.loss(head, features, batch), before)


def test_augmented_sizes_prepare_a_group_from_its_own_seed():
    task = task_of("axial_swidernet_1")
    data = three_users(each=2)
    together = task.prepare(data, SEEDS)
    alone = task.prepare(
        Examples({k: v[2:4] for k, v in data.fields.items()}, np.array([0, 2])),
        SEEDS[1:2],
    )
    assert together["path"].shape == (6, 3 + 3 + 6 + 3 + 3)
    for name, values in alone.items():
        assert torch.equal(together[name][2:4], values)


def test_200_steps_lower_all_three_losses_and_raise_pq_from_below_5_percent():
    task = task_of(label_space="global")
    rows = scenes().fetch(np.array([5])).take(np.arange(0, 16, 4))
    data = Examples(rows, np.array([0, 4]))
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(10)
    batch = task.prepare(data, SEEDS[:1])
    batch["weight"] = torch.ones(len(data))
    truths = list(data.fields["panoptic"].astype(np.int64))

    def quality() -> float:
        found = segment(task, backbone, head, data)
        return score_predictions(truths, found, task.categories)["pq"]

    first = quality()
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 5e-3)
    history = []
    for _ in range(200):
        parts = task.loss_parts(head, task.features(backbone, batch), batch)
        history.append(
            {name: float(loss.detach().mean()) for name, loss in parts.items()}
        )
        optimizer.zero_grad()
        sum(loss.mean() for loss in parts.values()).backward()
        optimizer.step()
    assert first < 0.05
    assert quality() > 0.5
    assert all(history[-1][name] < 0.7 * history[0][name] for name in history[0])


def test_data_without_maps_and_foreign_options_are_refused():
    system = registry.get("deeplab2")
    plain = DataFacts(example_shape=(32, 32, 3), num_classes=4)
    with pytest.raises(UserError, match="panoptic maps"):
        system.build(data=plain)
    facts = replace(plain, vocabularies=scenes().vocabularies)
    with pytest.raises(UserError, match="head='cosine'"):
        system.build(data=facts, options=TaskOptions(head="cosine"))
    with pytest.raises(UserError, match="pictures"):
        system.build(data=replace(facts, example_shape=(8, 32, 32, 3)))


def run(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)


def test_a_run_shows_segmentation_beside_retrieval(tmp_path):
    out = tmp_path / "run"
    small = ("--users-per-round", 6, "--rounds", 1, "--engine", "shared")
    run(
        *("simulate", "--model", "deeplab2", "--users", 60, *small, "--seed", 1),
        *("--noise-multiplier", 0, "--out", out, "--json"),
    )
    report = json.loads((out / "report.json").read_text())
    assert {"pq", "sq", "rq", "miou", "ap", "recall_at_1"} <= set(
        report["metrics"]["final"]
    )
    assert "data:image/png" in (out / "report.html").read_text()


@pytest.mark.skipif(
    not COCO.exists(), reason="the COCO sample is not beside the project"
)
def test_real_pictures_of_coco_are_segmented(tmp_path):
    name = f"coco-panoptic:{COCO.resolve()}"
    data = load(name, image_size=64)
    assert data.num_users == 13
    assert "ARTIFICIAL USERS" in data.provenance.notices[0]
    rows = data.fetch(np.arange(13)).fields
    categories = Categories.of(data.vocabularies)
    assert len(categories) == 133
    assert len(categories.things) == 80
    assert rows["panoptic"].max() // 256 <= 133
    assert "person" in {
        categories.names[k - 1] for k in np.unique(rows["panoptic"] // 256) if k
    }
    out = tmp_path / "run"
    run(
        *("simulate", "--model", "deeplab2", "--dataset", name, "--rounds", 1),
        *("--users-per-round", 3, "--noise-multiplier", 0, "--engine", "shared"),
        *("--seed", 1, "--out", out, "--json"),
    )
    report = json.loads((out / "report.json").read_text())
    assert report["dataset"]["source"] == "real"
    assert 0 <= report["metrics"]["final"]["pq"] <= 1


def test_a_folder_without_panoptic_files_is_not_available(tmp_path):
    for kind in ("coco-panoptic", "cityscapes"):
        with pytest.raises(NotAvailable):
            load(f"{kind}:{tmp_path}")


def test_cityscapes_pictures_are_read_by_city(tmp_path):
    from PIL import Image

    for split, city in (("train", "aachen"), ("train", "bonn"), ("val", "ulm")):
        for number in range(2):
            maps = tmp_path / "gtFine" / split / city
            pictures = tmp_path / "leftImg8bit" / split / city
            maps.mkdir(parents=True, exist_ok=True)
            pictures.mkdir(parents=True, exist_ok=True)
            ids = np.full((8, 16), 7 if number else 23, np.int32)
            ids[2:4, 2:6] = 26_000
            ids[6:, :4] = 3
            stem = f"{city}_{number}"
            Image.fromarray(ids.astype(np.uint16)).save(
                maps / f"{stem}_gtFine_instanceIds.png"
            )
            Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(
                pictures / f"{stem}_leftImg8bit.png"
            )
    data = load(f"cityscapes:{tmp_path}", image_size=8)
    assert [data.user_id(k) for k in range(data.num_users)] == ["aachen", "bonn"]
    assert len(data.held_out()) == 2
    categories = Categories.of(data.vocabularies)
    found = np.unique(data.held_out().fields["panoptic"])
    names = [categories.names[v // 256 - 1] if v else "void" for v in found]
    assert names == ["void", "road", "sky", "car"]
    assert found[-1] % 256 == 1
