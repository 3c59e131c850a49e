"""One mechanism of a system can be switched off without touching the library."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.changes import with_changes
from model_zoo.deeplab2.fitting import FitSpec, fit_head
from model_zoo.imagen3.generate import generate
from model_zoo.system import TaskOptions
from model_zoo.univrd import evaluation, objectives
from model_zoo.univrd.inference import best_triplets
from model_zoo.univrd.matching import match
from simulations.assembly import assemble, configuration_from_toml, facts
from simulations.datasets.registry import load
from simulations.layers import parse_setting, resolve


def parameters(backbone):
    return sum(p.numel() for p in backbone.parameters())


def stages(system, changes, data=None):
    """The stages of a system's default configuration with changes."""
    other = with_changes(registry.get(system), changes)
    shown = other.configuration().data if data is None else facts(data)
    return other.build(data=shown, options=TaskOptions())


def built(system, changes):
    """The task of the only stage."""
    (stage,) = stages(system, changes)
    return stage.task


def rows_of(data, users):
    """Rows of a few users as one virtual client."""
    rows = data.fetch(np.arange(users))
    return Examples(rows.fields, np.array([0, len(rows)]))


def trained_on(task, examples):
    """Backbone, head and batch of a task, from the same random start."""
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(task.num_classes)
    fresh = task.fresh_head(head, task.num_classes, torch.Generator().manual_seed(0))
    head.load_state_dict(fresh, strict=False)
    batch = task.prepare(examples, np.array([3], np.uint64))
    batch.setdefault("weight", torch.ones(len(examples)))
    return backbone, head, batch


def test_a_loss_of_the_segmentation_is_switched_off_and_the_others_stay():
    usual = built("deeplab2", {})
    without = built("deeplab2", {"losses": {"center": 0.0}})
    assert without.losses == replace(usual.losses, center=0.0)
    assert usual.losses.center > 0
    assert without.network == usual.network


def test_a_centre_loss_that_is_off_is_zero_on_data_and_the_others_are_as_before():
    data = load("scenes", users=4)
    public = data.held_out()
    rows = Examples(public.take(np.arange(3)), np.array([0, 3]))
    parts = []
    for changes in ({}, {"losses": {"center": 0.0}}):
        task = built("deeplab2", changes)
        torch.manual_seed(0)
        backbone, head = task.make_backbone(), task.make_head(task.num_classes)
        batch = task.prepare(rows, np.zeros(1, np.uint64))
        batch["weight"], batch["classes"] = (
            torch.ones(3),
            torch.tensor(task.num_classes),
        )
        with torch.no_grad():
            found = task.loss_parts(head, task.features(backbone, batch), batch)
        parts.append(found)
    usual, without = parts
    assert float(usual["center"].min()) > 0
    assert not without["center"].any()
    for name in ("semantic", "offset"):
        assert torch.equal(usual[name], without[name])


@pytest.mark.parametrize("name", ["center", "semantic", "offset"])
def test_a_backbone_trained_without_a_loss_is_judged_by_a_head_that_has_it(name):
    rows, fit = SCENES.held_out().only(np.arange(8)), FitSpec(steps=3)
    usual, without = built("deeplab2", {}), built("deeplab2", {"losses": {name: 0.0}})
    torch.manual_seed(0)
    backbone = usual.make_backbone()
    heads = [
        fit_head(task, backbone, rows, fit).state_dict() for task in (usual, without)
    ]
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])


def test_parts_of_networks_are_changed_in_depth():
    usual, pooled = (
        built("deeplab2", changes).make_backbone()
        for changes in ({}, {"network": {"decoder": {"rates": (3,)}}})
    )
    assert parameters(pooled) > parameters(usual)
    shallow, deep = (
        built("imagen3", {"denoiser": {"depth": depth}}).make_backbone()
        for depth in (1, 3)
    )
    assert parameters(deep) > parameters(shallow)


def test_guidance_dropout_of_the_denoiser_is_switched_off():
    assert built("imagen3", {}).drop > 0
    assert built("imagen3", {"drop": 0.0}).drop == 0.0


POSES = load("poses", users=64)
RELATIONS = load("relation-scenes", users=64)
SCENES = load("scenes", users=64, image_size=32)


def pose_terms(changes):
    """The parts of the loss of `cv_mim`, on the same poses from the same start."""
    task = built("cv_mim", {"sizes": changes})
    backbone, head, batch = trained_on(task, rows_of(POSES, 1))
    terms = task.terms(head, task.features(backbone, batch), batch)
    return {name: float(value.detach()) for name, value in terms.items()}


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"representation_weight": 0}, {"representation"}),
        ({"prior_weight": 0}, {"prior", "discriminator"}),
        ({"disentangle_weight": 0}, {"disentangle", "estimators"}),
    ],
)
def test_a_term_of_the_pose_loss_is_left_out_and_the_others_stay(changes, gone):
    usual, without = pose_terms({}), pose_terms(changes)
    assert usual.keys() - without.keys() == gone
    assert all(usual[name] != 0 for name in gone)
    assert without == {name: usual[name] for name in without}


def test_the_cross_view_term_counts_by_its_weight():
    usual, without = pose_terms({}), pose_terms({"view_weight": 0})
    assert without["cross_view"] == 0 != usual["cross_view"]


def test_the_intra_and_the_inter_view_bound_are_switched_off_alone():
    usual = pose_terms({})
    intra, inter = pose_terms({"inter_weight": 0}), pose_terms({"intra_weight": 0})
    none = pose_terms({"inter_weight": 0, "intra_weight": 0})
    for name in ("disentangle", "estimators"):
        assert usual[name] == pytest.approx(intra[name] + inter[name], abs=1e-6)
        assert none[name] == 0
    assert intra["estimators"] != 0 != inter["estimators"]


def test_a_weight_without_its_term_is_refused():
    for algorithm in ("align", "infomax", "autoencoder"):
        with pytest.raises(UserError, match="has no such term; leave it at 1.0"):
            stages("cv_mim", {"sizes": {"algorithm": algorithm, "prior_weight": 0}})
    with pytest.raises(UserError, match="view_weight=-1.0 must be 0 or more"):
        stages("cv_mim", {"sizes": {"view_weight": -1}})


def relation_losses(changes):
    """Losses of the stages of `univrd`, on the same pictures from the same start."""
    found = []
    for stage in stages("univrd", changes, RELATIONS):
        backbone, head, batch = trained_on(stage.task, rows_of(RELATIONS, 3))
        loss = stage.task.loss(head, stage.task.features(backbone, batch), batch)
        found.append(float(loss.detach()))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"focal": {"gamma": 0}},
        {"focal": {"alpha": 0.5}},
        {"name_prompts": False},
        {"classifiers": "ids"},
        {"augmentation": {"mosaics": [1.0]}},
        {"augmentation": {"least_crop": 1}},
        {"augmentation": {"flip": 0}},
    ],
)
def test_a_mechanism_of_the_detector_changes_its_loss(changes):
    usual, without = relation_losses({}), relation_losses(changes)
    assert len(usual) == len(without) == 2
    assert all(math.isfinite(value) for value in without)
    assert abs(usual[0] - without[0]) > 1e-3


def test_phrases_without_a_sentence_around_them_change_the_relations_alone():
    usual, bare = relation_losses({}), relation_losses({"phrase_prompts": False})
    assert usual[0] == bare[0]
    assert usual[1] != bare[1]


def test_bare_names_are_one_prompt_each():
    for changes, prompts in (({}, 7), ({"name_prompts": False}, 1)):
        first, _ = stages("univrd", changes, RELATIONS)
        assert first.task.make_backbone().object_bank.shape[1] == prompts


def test_one_stage_training_has_both_losses_and_trains_both_parts():
    (stage,) = stages("univrd", {"decoupled": False}, RELATIONS)
    first, second = stages("univrd", {}, RELATIONS)
    backbone, head, batch = trained_on(stage.task, rows_of(RELATIONS, 3))
    with torch.no_grad():
        both, *alone = (
            one.task.loss(head, one.task.features(backbone, batch), batch)
            for one in (stage, first, second)
        )
    assert float(both) == pytest.approx(float(sum(alone)), rel=1e-5)
    names = [FlatLayout.of(backbone, s.trainable).names for s in (stage, first, second)]
    assert set(names[0]) == {*names[1], *names[2]}
    assert stage.share_of_rounds == 1


def test_one_stage_training_solves_each_matching_once_and_computes_the_same(
    monkeypatch,
):
    solved = []

    def counted(costs, valid):
        solved.append(tuple(costs.shape))
        return match(costs, valid)

    monkeypatch.setattr(objectives, "match", counted)
    (stage,) = stages("univrd", {"decoupled": False}, RELATIONS)
    first, second = stages("univrd", {}, RELATIONS)
    backbone, head, batch = trained_on(stage.task, rows_of(RELATIONS, 3))
    weights = [p for p in backbone.parameters() if p.requires_grad]
    features = stage.task.features(backbone, batch)

    def loss_and_gradients(*tasks):
        loss = sum(task.loss(head, features, batch) for task in tasks)
        more = {"retain_graph": True, "materialize_grads": True, "allow_unused": True}
        return loss, *torch.autograd.grad(loss, weights, **more)

    both = loss_and_gradients(stage.task)
    assert len(solved) == len(set(solved)) == 2  # objects and relations
    alone = loss_and_gradients(first.task, second.task)
    assert len(solved) == 5
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-7)
    assert torch.equal(both[0], alone[0])


def test_learned_ids_are_trained_where_texts_are_frozen():
    usual, learned = (
        stages("univrd", changes, RELATIONS) for changes in ({}, {"classifiers": "ids"})
    )
    for stage, bank in zip(learned, ("object_bank", "relation_bank"), strict=True):
        backbone = stage.task.make_backbone()
        assert bank in FlatLayout.of(backbone, stage.trainable).names
        backbone, head, batch = trained_on(stage.task, rows_of(RELATIONS, 3))
        stage.task.loss(head, stage.task.features(backbone, batch), batch).backward()
        assert getattr(backbone, bank).grad.abs().sum() > 0
    plain = usual[0].task.make_backbone()
    assert {"object_bank", "relation_bank"} & dict(plain.named_parameters()).keys() == (
        set()
    )
    assert math.isfinite(
        learned[1].task.evaluate(backbone, RELATIONS.held_out())["detection_map"]
    )


def test_suppression_keeps_fewer_triplets_the_lower_its_threshold(monkeypatch):
    kept = []

    def counting(*arguments, **options):
        found = best_triplets(*arguments, **options)
        kept[-1] += len(found)
        return found

    monkeypatch.setattr(evaluation, "best_triplets", counting)
    for changes in ({"suppression": 0.01}, {}, {"suppression": 1}):
        kept.append(0)
        task = stages("univrd", changes, RELATIONS)[1].task
        torch.manual_seed(0)
        backbone = task.make_backbone()
        backbone.box_head.bias[..., 2:] += 2  # boxes that overlap, untrained as it is
        task.evaluate(backbone, RELATIONS.held_out())
    assert kept[0] < kept[1] < kept[2]
    assert kept[2] % 100 == 0


def test_a_text_reaches_the_denoiser_by_the_ways_that_are_left():
    batches = {}
    for ways in (("tokens", "pooled"), ("tokens",), ("pooled",), ()):
        task = built("imagen3", {"text_by": list(ways), "drop": 0})
        batches[ways] = trained_on(task, rows_of(SCENES, 2))[2]
    usual = batches["tokens", "pooled"]
    for ways, batch in batches.items():
        for name, way in (("tokens", "tokens"), ("seen", "tokens"), ("pooled",) * 2):
            assert torch.equal(batch[name], usual[name]) == (way in ways)
            if way not in ways:
                assert torch.equal(batch[name], batch[name][:1].expand_as(batch[name]))


def test_guidance_and_probes_are_those_of_the_task():
    prompts = ["a red ball", "a ring"]
    pictures, inner = [], []
    for changes in ({}, {"guidance": 1}, {"probe_time": 50}, {"layer": 1}):
        (stage,) = stages("imagen3", changes, SCENES)
        task = stage.task
        backbone, _, batch = trained_on(task, rows_of(SCENES, 2))
        torch.manual_seed(1)
        for value in backbone.parameters():  # a new one predicts nothing
            value.data += 0.05 * torch.randn_like(value)
        pictures.append(generate(task, backbone, prompts, steps=2))
        with torch.no_grad():
            inner.append(task.embed(backbone, batch))
    usual = pictures[0]
    assert [torch.equal(usual, other) for other in pictures[1:]] == [False, True, True]
    assert [torch.equal(inner[0], other) for other in inner[1:]] == [True, False, False]


def test_changes_of_a_run_are_settings_like_all_others():
    asked = ("losses.center=0", "losses.offset=0.5", "network.decoder.rates=[3]")
    layers = [parse_setting(f"model.changes.{text}") for text in asked]
    named = {"model": {"name": "deeplab2:tiny"}, "data": {"name": "scenes", "users": 4}}
    found = configuration_from_toml(resolve(named, *layers).to_toml())
    task = assemble(found).stages[0].task
    assert (task.losses.center, task.losses.offset) == (0.0, 0.5)
    assert task.network.decoder.rates == (3,)
    assert "changes" not in resolve(named).to_toml()


def documented_switches():
    """(system, switch) of all switches in the table of the zoo's README."""
    text = Path(registry.__file__).with_name("README.md").read_text(encoding="utf-8")
    table = text.split("## Without one mechanism")[1].split("## ")[0]
    system = ""
    for line in table.splitlines():
        first, switches = (*line.split("|")[1:3], "", "")[:2]
        system = first.strip(" `") or system
        for switch in re.findall(r"`([^`]+=[^`]+)`", switches):
            yield system, switch


def test_every_switch_of_the_table_can_be_set():
    found = list(documented_switches())
    assert {"cv_mim", "univrd", "imagen3", "deeplab2"} <= {name for name, _ in found}
    for system, switch in found:
        changes = parse_setting(f"model.changes.{switch}")["model"]["changes"]
        assert stages(system, changes)


def test_stages_of_other_systems_are_changed_in_the_same_way():
    found = stages("video_language_distillation", {"order": ["dual encoder"]})
    assert [stage.name for stage in found] == ["dual encoder"]


@pytest.mark.parametrize(
    ("system", "changes", "told"),
    [
        ("deeplab2", {"magic": 1}, "has no 'magic' to change; it has "),
        ("imagen3", {"magic": 1}, "has no 'magic' to change; it has "),
        ("univrd", {"magic": 1}, "has no 'magic' to change; it has shape, "),
        ("cv_mim", {"magic": 1}, "has no 'magic' to change; it has sizes, pairs"),
        ("univrd", {"shape": {"magic": 1}}, "shape has no 'magic' to change"),
        ("univrd", {"focal": {"magic": 1}}, "Focal has no 'magic'"),
        ("univrd", {"focal": 3}, "focal=3 must be a table of fields of Focal"),
        ("univrd", {"focal": {"alpha": 1.5}}, "alpha=1.5 must be between 0 and 1"),
        ("univrd", {"focal": {"gamma": -1}}, "gamma=-1.0 must be 0 or more"),
        ("univrd", {"suppression": 0}, "suppression=0.0 must be in"),
        ("univrd", {"classifiers": "words"}, "'words' must be texts or ids"),
        ("univrd", {"decoupled": "no"}, "decoupled='no' must be of type bool"),
        ("imagen3", {"guidance": -1}, "guidance=-1.0 0 or more"),
        ("imagen3", {"probe_time": 1000}, "probe_time=1000.0 must be between"),
        ("imagen3", {"text_by": ["smell"]}, "must name ways of tokens, pooled"),
        ("imagen3", {"drop": "half"}, "drop='half' must be of type float"),
    ],
)
def test_a_change_that_cannot_be_made_names_what_can(system, changes, told):
    with pytest.raises(UserError, match=told):
        stages(system, changes)
