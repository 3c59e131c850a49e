"""What a person wants trained is trained in every stage, where its loss reaches it."""

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.changes import with_changes
from model_zoo.system import TaskOptions
from simulations.assembly import assemble, facts, layered
from simulations.datasets.registry import load

SYSTEMS = {
    "univrd": ("relation-scenes", {}),
    "univrd in one stage": ("relation-scenes", {"decoupled": False}),
    "univrd of ids": ("relation-scenes", {"classifiers": "ids"}),
    "videoprism": ("clips-plain", {}),
    "video_language_distillation": ("clips-plain", {}),
}


def stages(name, **options):
    source, changes = SYSTEMS[name]
    data = load(source, users=20)
    system = with_changes(registry.get(name.split()[0]), changes)
    return data, system.build(data=facts(data), options=TaskOptions(**options))


def reached(stage, data):
    """Names of the backbone parameters that the loss of a stage depends on."""
    torch.manual_seed(0)
    backbone, head = stage.task.make_backbone(), stage.task.make_head(1)
    rows = data.fetch(np.arange(3))
    rows = Examples(rows.fields, np.array([0, len(rows)]))
    batch = stage.task.prepare(rows, np.array([3], np.uint64))
    batch["weight"] = torch.ones(len(rows))
    named = {k: v.requires_grad_() for k, v in backbone.named_parameters()}
    loss = stage.task.loss(head, stage.task.features(backbone, batch), batch)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return backbone, {
        name for name, g in zip(named, found, strict=True) if g is not None
    }


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("chosen", [None, "all", "norm"])
def test_no_stage_trains_what_its_loss_does_not_reach(name, chosen):
    data, built = stages(name, trainable=chosen)
    for stage in built:
        backbone, depends = reached(stage, data)
        assert {*FlatLayout.of(backbone, stage.trainable).names} <= depends


@pytest.mark.parametrize("name", ["univrd", "videoprism"])
def test_all_is_all_that_the_loss_reaches(name):
    data, built = stages(name, trainable="all")
    for stage in built:
        backbone, depends = reached(stage, data)
        assert {*FlatLayout.of(backbone, stage.trainable).names} == depends


@pytest.mark.parametrize(
    ("system", "chosen", "stage"),
    [
        ("univrd", "names:decoder.*", "detector"),
        ("univrd", "names:class_head.*", "relations"),
        ("univrd", "last", "detector"),
        ("videoprism", "names:text.*", "distillation"),
    ],
)
def test_a_stage_that_is_left_with_nothing_is_named(system, chosen, stage):
    model = {"model": {"name": system, "trainable": chosen}, "data": {"users": 300}}
    made = assemble(layered(None, system, None, model))
    with pytest.raises(UserError, match=f"stage '{stage}' has nothing to train: "):
        _ = made.trained_parameters


def test_one_choice_can_name_something_for_every_stage():
    _, built = stages("univrd", trainable="names:class_head.bias,decoder.relation.*")
    backbone = built[0].task.make_backbone()
    first, second = (FlatLayout.of(backbone, s.trainable).names for s in built)
    assert first == ("class_head.bias",)
    assert all(name.startswith("decoder.relation.") for name in second)
