"""One mechanism of a system can be switched off without touching the library."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo import registry
from simulations.datasets.registry import load


def parameters(backbone):
    return sum(p.numel() for p in backbone.parameters())


def built(system, changes):
    """The task of a system's tiny configuration with changes."""
    configuration = registry.get(system).configurations["tiny"]
    build = replace(configuration.build, changes=changes)
    (stage,) = build(data=configuration.data, options=configuration.options)
    return stage.task


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


@pytest.mark.parametrize("system", ["deeplab2", "imagen3"])
def test_a_change_of_what_is_not_there_names_what_is(system):
    with pytest.raises(UserError, match="has no 'magic' to change; it has "):
        built(system, {"magic": 1})
