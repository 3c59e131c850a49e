"""Training through the real round lifts verification of classes it never saw."""

import pytest
import torch

from fedemb.budget import Unaccounted
from fedemb.cohort import PoissonVirtualClients
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.server import ServerAdam, ServerState
from fedemb.train import train
from model_zoo import registry
from simulations.datasets.registry import load

USERS = 20_000


def auc_before_and_after(name: str, *, noise_multiplier: float) -> tuple[float, float]:
    data = load("synthetic", users=USERS)
    shape = data.held_out().fields["image"].shape[1:]
    stage = registry.get(name).build(
        data=registry.DataFacts(example_shape=shape, num_classes=data.num_classes)
    )[0]
    torch.manual_seed(0)
    backbone = stage.task.make_backbone()
    layout = FlatLayout.of(backbone, stage.trainable)
    key = RootKey.from_seed(1)
    runner = InlineRunner(
        task=stage.task,
        dataset=data,
        backbone=backbone,
        layout=layout,
        recipe=LocalTraining(learning_rate=1.0, batch_size=32, steps=1),
        key=key,
        engine=EngineChoice(name="shared", chunk=32),
    )
    plan = PrivacyPlan(
        sampler=PoissonVirtualClients(population=USERS, users_per_round=64),
        rounds=15,
        clip_norm=0.3,
        noise_multiplier=noise_multiplier,
        delta=1e-5,
    )
    theta = layout.flatten(dict(backbone.named_parameters()))
    optimizer = ServerAdam()
    state = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
    before = stage.task.evaluate(backbone, data.held_out())["roc_auc"]
    state = train(state, plan, runner, optimizer, key, Unaccounted())
    layout.load(backbone, state.backbone)
    return before, stage.task.evaluate(backbone, data.held_out())["roc_auc"]


@pytest.mark.statistical
def test_a_small_run_without_noise_beats_random_initialisation_by_0_15_auc():
    before, after = auc_before_and_after("small_cnn:tiny", noise_multiplier=0.0)
    assert after >= before + 0.15


@pytest.mark.statistical
def test_a_run_whose_noise_drowns_the_update_learns_next_to_nothing():
    before, after = auc_before_and_after("small_cnn:tiny", noise_multiplier=30.0)
    assert after < before + 0.05
