"""Whether an engine computes what the serial one does, tried on a few public rows."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.engines.flat import replays
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import single_backbone_step
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.runner import ENGINES, EngineChoice, InlineRunner
from fedemb.work import Work

_TOLERANCE = 1e-6  # of the norm of the deltas, in double precision
_TURNS = 3  # as it is, recorded, replayed
_FILLED_UP = 4  # clients of a recording: one more than there are


def agrees_with_serial(
    runner: InlineRunner, choice: EngineChoice, theta: Tensor
) -> bool:
    """Whether an engine computes what the serial one does on a few public rows.

    Recordings are compared on the device that they run on, and must have been replayed
    with rows and clients that they were not recorded with.
    """
    device = runner.device if choice.recorded else torch.device("cpu")
    backbone = copy.deepcopy(runner.backbone).to(device, torch.float64)
    model = LocalModel(runner.task, backbone.requires_grad_(False), nn.Identity())
    model.recorded = _FILLED_UP if choice.recorded else 0
    theta = theta.to(device, torch.float64)
    for turn in range(_TURNS if choice.recorded else 1):
        work, recipe = ragged_work(runner, torch.float64, turn)
        if choice.name == "shared" and not single_backbone_step(work, recipe):
            return False
        work = work.to(device)
        model.head = work.head.to(device)
        expected = serial_deltas(model, runner.layout, theta, work, recipe)
        found = ENGINES[choice.name](model, runner.layout, theta, work, recipe)
        if not bool((found - expected).norm() <= _TOLERANCE * expected.norm()):
            return False
    return not choice.recorded or replays(model) > 0


def ragged_work(
    runner: InlineRunner, dtype: torch.dtype = torch.float32, turn: int = 0
) -> tuple[Work, LocalTraining]:
    """Work of three clients made of a few public rows, and its recipe of few steps.

    Every turn takes other rows and other randomness, in the same shapes.
    """
    own = min(4, runner.recipe.batch_size)
    examples = made_up_clients(runner.dataset.held_out(), 3, own, first=3 * own * turn)
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
    seeds = np.arange(3, dtype=np.uint64) + np.uint64(3 * turn)
    return make_work(runner.task, recipe, examples, seeds, dtype), recipe


def made_up_clients(
    public: Examples, clients: int, rows: int, first: int = 0
) -> Examples:
    """Clients of so many rows each, cut from `public` over and over from a row on."""
    wanted = (first + np.arange(clients * rows)) % len(public)
    fields = public.take(wanted)
    if "label" in fields:  # held-out labels lie beyond the training labels
        fields["label"] = np.zeros_like(fields["label"]) + np.arange(len(wanted)) % 2
    return Examples(fields, np.arange(clients + 1, dtype=np.int64) * rows)
