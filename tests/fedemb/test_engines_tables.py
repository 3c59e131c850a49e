"""The shared engine knows look-up tables; it equals the serial one on them."""

import numpy as np
import pytest
import torch
from torch import nn

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.weight_gradients import rule_of
from fedemb.identity import IdentityTask
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout

DIM, SIDE, SHADES = 8, 3, 6


class Shades(nn.Module):
    """Pixels as ids with places; one of the ids occurs again and again."""

    def __init__(self):
        super().__init__()
        self.shade = nn.Embedding(SHADES, DIM)
        self.place = nn.Embedding(SIDE * SIDE, DIM)
        self.mix = nn.Linear(DIM, DIM)

    def forward(self, images):
        ids = (images.flatten(1).abs() * 50).long() % SHADES
        places = torch.arange(SIDE * SIDE).expand(len(ids), -1)
        tokens = self.shade(ids) + self.place(places)
        return torch.tanh(self.mix(torch.tanh(tokens))).mean(1)


@pytest.mark.parametrize("trainable", ["all", "names:shade.*"])
def test_shared_equals_serial_on_tables(trainable):
    torch.manual_seed(0)
    net = Shades().double()
    own = IdentityTask(
        name="shades",
        backbone=Shades,
        embedding_dim=DIM,
        num_classes=5,
        head="linear",
        label_space="global",
    )
    draw = np.random.default_rng(0)
    fields = {
        "image": draw.integers(0, 256, (14, SIDE, SIDE, 1), dtype=np.uint8),
        "label": draw.integers(0, 5, 14),
    }
    data = Examples(fields, np.array([0, 9, 13, 14]))
    recipe = LocalTraining(learning_rate=0.2, batch_size=9, steps=1)
    layout = FlatLayout.of(net, trainable)
    theta = layout.flatten(dict(net.named_parameters()))
    seeds = np.arange(3, dtype=np.uint64)
    work = make_work(own, recipe, data, seeds, dtype=torch.float64)
    model = LocalModel(own, net.requires_grad_(False), work.head)
    expected = serial_deltas(model, layout, theta, work, recipe)
    assert float(expected.norm()) > 0
    found = shared_deltas(model, layout, theta, work, recipe)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


class Tied(nn.Embedding):
    """A table whose weights may be used without calling it."""


@pytest.mark.parametrize(
    "table",
    [
        nn.Embedding(4, 2, padding_idx=0),
        nn.Embedding(4, 2, max_norm=1.0),
        nn.Embedding(4, 2, scale_grad_by_freq=True),
        Tied(4, 2),
    ],
)
def test_tables_with_gradients_of_their_own_have_no_rule(table):
    assert rule_of(table) is None
    assert rule_of(nn.Embedding(4, 2)) is not None
