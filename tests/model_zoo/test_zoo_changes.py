"""One mechanism of a system can be switched off without touching the library."""

from dataclasses import replace

import pytest

from fedemb.errors import UserError
from model_zoo import registry


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


def test_guidance_dropout_of_the_denoiser_is_switched_off():
    assert built("imagen3", {}).drop > 0
    assert built("imagen3", {"drop": 0.0}).drop == 0.0


@pytest.mark.parametrize("system", ["deeplab2", "imagen3"])
def test_a_change_of_what_is_not_there_names_what_is(system):
    with pytest.raises(UserError, match="has no 'magic' to change; it has "):
        built(system, {"magic": 1})
