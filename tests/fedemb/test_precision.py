"""Less precision in the backbone's products moves updates a little, no more."""

from dataclasses import replace

import pytest
import torch
from core_toys import everyone, rows, runner, theta

from fedemb.clipping import Lattice
from fedemb.errors import UserError
from fedemb.tuning import choose_engine
from simulations.config import RunConfig

SIZES = [8, 5, 8, 3]


def rounded(own):
    return replace(own, precision=torch.bfloat16)


def deltas(own):
    return own.deltas(theta(own), own.work(everyone(len(SIZES)), 0))


@pytest.mark.parametrize("backbone", ["dense", "conv", "loose"])
@pytest.mark.parametrize("head_steps", [None, 3])
@pytest.mark.parametrize("engine", ["serial", "flat", "vectorized", "shared"])
def test_every_engine_rounds_products_and_nothing_else(backbone, head_steps, engine):
    recipe = {"batch_size": 8, "steps": 1 + (head_steps or 0)}
    own = runner(
        rows(SIZES),
        backbone=backbone,
        head="linear",
        engine=engine,
        head_steps=head_steps,
        **recipe,
    )
    exact, found = deltas(own), deltas(rounded(own))
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    off = (found - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(off.max()) < 0.05


def test_clipping_binds_rounded_updates_as_well():
    own = rounded(runner(rows([8]), engine="flat", batch_size=8, learning_rate=50.0))
    lattice = Lattice(0.1, len(theta(own)))
    clipped = own.train(theta(own), everyone(1), lattice, 0)
    assert float(lattice.decode(clipped.total).norm()) <= 0.1


@pytest.mark.parametrize("name", ["stacked", "grouped"])
def test_engines_of_layers_with_a_form_are_not_offered(name):
    own = rounded(runner(rows(SIZES)))
    _, measured = choose_engine(own, theta(own), 4)
    assert name not in {m.choice.name for m in measured}
    with pytest.raises(UserError, match="full precision"):
        choose_engine(own, theta(own), 4, name=name)


def test_configurations_that_cannot_be():
    with pytest.raises(UserError, match=r"run\.precision='float16'"):
        RunConfig(precision="float16")
    with pytest.raises(UserError, match="dp-sgd trains in float32"):
        RunConfig(precision="bfloat16", baseline="dp-sgd")
