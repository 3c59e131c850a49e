"""The engine is chosen on public rows, and only among engines that agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from core_toys import BACKBONES, everyone, rows, runner, theta
from torch import nn

from fedemb.agreement import agrees_with_serial
from fedemb.clipping import Lattice
from fedemb.engines.flat import FORMS
from fedemb.errors import UserError
from fedemb.parameters import FlatLayout
from fedemb.runner import EngineChoice
from fedemb.tuning import choose_engine


class Mixing(nn.Module):
    """Breaks the rule that rows are independent."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(16, 5)

    def forward(self, images):
        features = self.dense(images.flatten(1))
        return features - features.mean(0)


def mixing(**recipe):
    own, backbone = runner(rows([4, 5, 6]), **recipe), Mixing()
    return replace(own, backbone=backbone, layout=FlatLayout.of(backbone))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["flat", "stacked", "grouped", "vectorized", "shared"])
@pytest.mark.parametrize("head_steps", [None, 1])
def test_every_engine_agrees_on_backbones_that_keep_rows_apart(
    backbone, name, head_steps
):
    steps = 1 if name == "shared" else 3
    own = runner(
        rows([4, 5, 6]),
        backbone=backbone,
        head="linear",
        steps=steps + (head_steps or 0),
        head_steps=head_steps,
    )
    if name in FORMS and backbone == "loose":
        with pytest.raises(UserError, match="use --engine flat"):
            choose_engine(own, theta(own), 4, name)
        return
    assert agrees_with_serial(own, EngineChoice(name=name), theta(own))


@pytest.mark.parametrize("name", ["stacked", "grouped", "shared"])
def test_a_backbone_that_mixes_rows_is_found_out(name):
    own = mixing(steps=1)
    assert not agrees_with_serial(own, EngineChoice(name=name), theta(own))


def test_a_backbone_that_mixes_rows_is_trained_one_client_at_a_time():
    own = mixing(steps=1)
    choice, _ = choose_engine(own, theta(own), 4)
    assert choice.alone


def test_an_engine_that_disagrees_is_refused_by_name():
    own = mixing(steps=1)
    with pytest.raises(UserError, match="use --engine auto or serial"):
        choose_engine(own, theta(own), 4, "shared")


def test_a_name_restricts_the_choice():
    own = runner(rows([4, 5, 6]), steps=2)
    choice, measured = choose_engine(own, theta(own), 4, "flat")
    assert {m.choice.name for m in measured} == {"flat"}
    assert choice in [m.choice for m in measured]


def test_training_alone_gives_the_same_integers_for_any_number_of_threads():
    data = rows([3, 0, 7, 4, 1], seed=3)
    sums = []
    for threads in (1, 3):
        own = runner(data, backbone="conv", epochs=2, momentum=0.5)
        own = own.with_engine(EngineChoice(name="flat", chunk=1, threads=threads))
        vector = theta(own)
        for _ in range(2):  # the second round meets what the first one left behind
            found = own.train(vector, everyone(5), Lattice(1.0, len(vector)), 0)
            sums.append(found.total)
    assert all(torch.equal(total, sums[0]) for total in sums)
    assert np.any(sums[0].numpy())


@pytest.mark.parametrize(("clients", "largest"), [(3, 2), (40, 20), (10**6, 256)])
def test_chunks_leave_a_share_of_the_round_to_every_core(monkeypatch, clients, largest):
    monkeypatch.setattr("fedemb.tuning.usable_cores", lambda: 2)
    own = runner(rows([4, 5, 6]), steps=1)
    _, measured = choose_engine(own, theta(own), 4, clients=clients)
    assert max(m.choice.chunk for m in measured) == largest
