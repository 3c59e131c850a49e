"""One engine trains all stages of a run, and must be right in every one."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedemb.errors import UserError
from fedemb.identity import IdentityTask
from fedemb.randomness import RootKey
from simulations.assembly import assemble, layered
from simulations.listener import Logged
from simulations.training import pick_engine


class Towers(nn.Module):
    """A linear embedding; with `mixes`, rows are centred on those beside them."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.linear = nn.Linear(28 * 28, 4)

    def forward(self, images):
        found = self.linear(images.flatten(1))
        return found - found.mean(0) if self.mixes else found


def run_of(*mixes, engine="auto"):
    """A run whose stages have such towers; the last has most rounds."""
    small = {"data": {"users": 400}, "model": {"name": "small_cnn:tiny"}}
    more = {"run": {"rounds": 10, "engine": engine}}
    assembly = assemble(layered("synthetic", None, None, small, more))
    stages = [
        replace(
            assembly.stages[0],
            name=f"mixes={mixed}",
            share_of_rounds=share,
            task=IdentityTask(
                name="toy",
                backbone=lambda mixed=mixed: Towers(mixed),
                embedding_dim=4,
                num_classes=10,
            ),
        )
        for mixed, share in zip(mixes, (0.2, 0.8), strict=True)
    ]
    return replace(assembly, stages=tuple(stages))


def picked(*mixes, engine="auto"):
    torch.manual_seed(0)
    return pick_engine(run_of(*mixes, engine=engine), RootKey.from_seed(1), Logged())


@pytest.mark.parametrize("mixes", [(True, False), (False, True)])
def test_an_engine_that_one_stage_forbids_trains_none(mixes):
    assert picked(*mixes).alone


def test_an_engine_that_was_asked_for_is_refused_by_the_stage_it_cannot_train():
    assert picked(False, False, engine="vectorized").name == "vectorized"
    with pytest.raises(UserError, match="mixes=True"):
        picked(True, False, engine="vectorized")
