"""Whether an engine computes what the serial one does, tried on a few public rows."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import single_backbone_step
from fedemb.local import LocalModel, LocalTraining, Work, make_work
from fedemb.runner import ENGINES, InlineRunner

_TOLERANCE = 1e-6  # of the norm of the deltas, in double precision


def agrees_with_serial(runner: InlineRunner, name: str, theta: Tensor) -> bool:
    """Whether an engine computes what the serial one does on a few public rows."""
    work, recipe = ragged_work(runner, torch.float64)
    backbone = copy.deepcopy(runner.backbone).double().requires_grad_(False)
    model = LocalModel(runner.task, backbone, work.head)
    theta = theta.to("cpu", torch.float64)
    if name == "shared" and not single_backbone_step(work, recipe):
        return False
    expected = serial_deltas(model, runner.layout, theta, work, recipe)
    found = ENGINES[name](model, runner.layout, theta, work, recipe)
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


def ragged_work(
    runner: InlineRunner, dtype: torch.dtype = torch.float32
) -> tuple[Work, LocalTraining]:
    """Work of three clients made of a few public rows, and its recipe of few steps."""
    own = min(4, runner.recipe.batch_size)
    examples = made_up_clients(runner.dataset.held_out(), 3, own)
    examples = Examples(
        {k: v[: 3 * own - 1] for k, v in examples.fields.items()},
        np.minimum(examples.offsets, 3 * own - 1),  # ragged: the last has one row less
    )
    steps = runner.recipe.reads(own) and -(-runner.recipe.reads(own) // own)
    recipe = replace(
        runner.recipe,
        batch_size=own,
        steps=max(1, min(steps, (runner.recipe.head_steps or 0) + 2)),
    )
    seeds = np.arange(3, dtype=np.uint64)
    return make_work(runner.task, recipe, examples, seeds, dtype), recipe


def made_up_clients(public: Examples, clients: int, rows: int) -> Examples:
    """Clients of so many rows each, cut from `public` over and over."""
    wanted = np.arange(clients * rows) % len(public)
    fields = public.take(wanted)
    if "label" in fields:  # held-out labels lie beyond the training labels
        fields["label"] = np.zeros_like(fields["label"]) + np.arange(len(wanted)) % 2
    return Examples(fields, np.arange(clients + 1, dtype=np.int64) * rows)
