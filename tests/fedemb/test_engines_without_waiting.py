"""Engines read nothing back from a device until a round's sum is complete.

Tensors on the meta device have no values. Whoever asks for one there, where a graphics
card would have to be waited for, gets an error, and so does whoever mixes devices.
"""

import pytest
import torch
from core_toys import rows, runner, theta

from fedemb.clipping import Lattice, LatticeSum
from fedemb.engines.flat import FORMS
from fedemb.engines.serial import serial_deltas
from fedemb.local import LocalModel
from fedemb.make_work import make_work
from fedemb.randomness import RootKey
from fedemb.runner import ENGINES

META = torch.device("meta")
SIZES = [3, 7, 0, 1]  # ragged, and one virtual client without rows

MODES = {
    "joint": {"epochs": 2, "momentum": 0.9},
    "one step": {"steps": 1},
    "head first": {"steps": 3, "head_steps": 2},
    "head first, many steps": {"steps": 4, "head_steps": 2},
}


def there(engine, own):
    """The clipped sum of a chunk that is trained on the meta device."""
    seeds = RootKey.from_seed(1).seeds("client", 0, list(range(len(SIZES))))
    work = make_work(own.task, own.recipe, rows(SIZES), seeds)
    module = own.backbone.requires_grad_(False).to(META)
    model = LocalModel(own.task, module, work.head.to(META))
    deltas = engine(model, own.layout, theta(own).to(META), work.to(META), own.recipe)
    total = LatticeSum(Lattice(1.0, own.layout.size), META)
    total.add(deltas, work.examples)
    return total, deltas


@pytest.mark.parametrize("head", ["linear", "cosine", "class-means"])
@pytest.mark.parametrize("backbone", ["conv", "loose"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENGINES)
def test_engines_read_nothing_back_before_the_sum(name, mode, backbone, head):
    if name == "shared" and "one step" not in mode and mode != "head first":
        pytest.skip("takes one backbone step")
    if name in FORMS and backbone == "loose":
        pytest.skip("has no stacked form")
    own = runner(rows(SIZES), backbone=backbone, head=head, **MODES[mode])
    total, deltas = there(ENGINES[name], own)
    assert deltas.device == META
    assert deltas.shape == (len(SIZES), own.layout.size)
    with pytest.raises((RuntimeError, NotImplementedError)):
        total.result()  # the one place that waits


def test_an_engine_that_reads_a_value_is_noticed():
    def curious(*given):
        deltas = serial_deltas(*given)
        return deltas / max(1.0, float(deltas.norm()))

    with pytest.raises(RuntimeError, match="meta"):
        there(curious, runner(rows(SIZES)))
