"""The systems that the zoo's README shows are what it says they are."""

import re
from pathlib import Path

import numpy as np
import torch

from fedemb.data import Examples
from model_zoo import registry
from model_zoo.system import DataFacts, TaskOptions

TEXT = Path(registry.__file__).with_name("README.md").read_text(encoding="utf-8")
SYSTEM, LOSS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
IMPORTS = """
from dataclasses import dataclass
import torch
from torch.nn import functional as F
from fedemb.heads import unit_rows, weighted_mean
from fedemb.protocols import Batch, Parameters
"""
FACTS = DataFacts(example_shape=(16, 16, 3), num_classes=4)


def rows(count):
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (count, 16, 16, 3), np.uint8)
    fields = {"image": image, "label": np.arange(count) % 4}
    return Examples(fields, np.array([0, count]))


def test_the_whole_system_is_built_and_counted():
    shown = {}
    exec(SYSTEM, shown)
    (stage,) = shown["SYSTEM"].build(data=FACTS, options=TaskOptions())
    backbone = stage.task.make_backbone()
    assert sum(p.numel() for p in backbone.parameters()) == 3 * 16 + 16


def test_a_loss_of_ones_own_by_inheritance_does_not_see_padding():
    shown = {}
    exec(SYSTEM + IMPORTS + LOSS, shown)
    (stage,) = shown["SYSTEM"].build(data=FACTS, options=TaskOptions())
    usual = stage.task
    task = shown["SimCLR"](
        name="simclr", backbone=usual.backbone, embedding_dim=16, num_classes=4
    )
    backbone, head = task.make_backbone(), task.make_head(4)
    head.load_state_dict(task.fresh_head(head, 4, torch.Generator().manual_seed(0)))
    batch = task.prepare(rows(6), np.zeros(1, np.uint64))
    batch["weight"] = torch.tensor([1.0, 1, 1, 1, 0, 0])
    losses = []
    for padding in (0, 9):
        batch["views"][4:] = padding
        loss = task.loss(head, task.features(backbone, batch), batch)
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1] > 0
    assert task.embed(backbone, batch).shape == (6, 16)
