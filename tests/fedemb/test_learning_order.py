"""Which of two private trainings learns more, where the paper says which must.

Xu et al. (2023), arXiv:2211.10844. Every number comes from training with the real round
on 32 values per example: 6 tell the classes apart, 26 louder ones are the same for all.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from fedemb.baselines import AggregatedHeadTask
from fedemb.budget import Unaccounted
from fedemb.cohort import PoissonVirtualClients
from fedemb.data import Examples, InMemoryDataset, Provenance, Source
from fedemb.identity import IdentityTask
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.server import ServerAdam, ServerState
from fedemb.train import train

USERS, VALUES, TELLING, DIM = 400, 32, 6, 6
HELD_OUT, SHOTS = 40, 6


def world(classes: int, per_user: int, seed: int = 0) -> InMemoryDataset:
    """Users who know `per_user` of `classes` classes each; 40 other classes unseen."""
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(VALUES, VALUES)))[0]
    means = draw.normal(size=(classes + HELD_OUT, TELLING))

    def examples(labels: np.ndarray, offsets: np.ndarray) -> Examples:
        telling = means[labels] + draw.normal(0, 0.3, (len(labels), TELLING))
        loud = draw.normal(0, 1.5, (len(labels), VALUES - TELLING))
        values = np.concatenate([telling, loud], axis=1) @ turn
        image = ((values + 1) * 128 / 255).astype(np.float32)  # undone by the task
        return Examples({"image": image[:, None, :, None], "label": labels}, offsets)

    known = [draw.choice(classes, per_user, replace=False) for _ in range(USERS)]
    labels = np.concatenate([np.repeat(own, 4) for own in known])
    sizes = np.full(USERS, 4 * per_user).cumsum()
    unseen = np.repeat(np.arange(classes, classes + HELD_OUT), SHOTS)
    return InMemoryDataset(
        examples(labels, np.concatenate([[0], sizes])),
        examples(unseen, np.array([0, len(unseen)])),
        Provenance(name="toy", source=Source.SYNTHETIC),
    )


def small_backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(VALUES, DIM, bias=False))


def task_of(data: InMemoryDataset, space: str) -> IdentityTask:
    return IdentityTask(
        name="toy",
        backbone=small_backbone,
        embedding_dim=DIM,
        num_classes=data.num_classes,
        head="linear",
        label_space=space,
    )


@dataclass(frozen=True)
class Trained:
    """ROC-AUC on unseen classes, and the weights behind it."""

    auc: float
    state: dict


def trained(
    data: InMemoryDataset,
    *,
    z: float,
    aggregate_head: bool = False,
    start: dict | None = None,
    rounds: int = 30,
    seed: int = 1,
) -> Trained:
    """Train a backbone on `data` privately; DP-FedAvg with `aggregate_head`."""
    task = task_of(data, "global" if aggregate_head else "client")
    torch.manual_seed(seed)
    whole = AggregatedHeadTask(task) if aggregate_head else task
    backbone = whole.make_backbone()
    if start is not None:
        backbone.load_state_dict(start)
    layout, key = FlatLayout.of(backbone), RootKey.from_seed(seed)
    local = LocalTraining(learning_rate=0.5, batch_size=16, steps=4, head_steps=3)
    runner = InlineRunner(
        task=whole,
        dataset=data,
        backbone=backbone,
        layout=layout,
        recipe=replace(local, head_steps=None) if aggregate_head else local,
        key=key,
        engine=EngineChoice(name="vectorized", chunk=128),
    )
    plan = PrivacyPlan(
        sampler=PoissonVirtualClients(population=USERS, users_per_round=100),
        rounds=rounds,
        clip_norm=0.3,
        noise_multiplier=z,
        delta=1e-5,
    )
    theta = layout.flatten(dict(backbone.named_parameters()))
    optimizer = ServerAdam(learning_rate=0.02)
    state = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
    state = train(state, plan, runner, optimizer, key, Unaccounted())
    layout.load(backbone, state.backbone)
    score = whole.evaluate(backbone, data.held_out())["roc_auc"]
    return Trained(score, backbone.state_dict())


def shuffled(state: dict) -> dict:
    """The same weights in places that mean nothing."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: values.flatten()[torch.randperm(values.numel(), generator=draw)].view_as(
            values
        )
        for name, values in state.items()
    }


@pytest.mark.statistical
def test_dp_fedemb_beats_dp_fedavg_at_equal_noise_where_classes_are_many():
    """A client knows 3 of 200 classes; the aggregated head carries noise for all."""
    data = world(classes=200, per_user=3)
    local = trained(data, z=1.0)
    aggregated = trained(data, z=1.0, aggregate_head=True)
    assert local.auc >= aggregated.auc + 0.05


@pytest.mark.statistical
def test_dp_fedavg_is_no_worse_where_every_client_knows_every_class():
    """The control: no order is built into the comparison."""
    data = world(classes=8, per_user=8)
    local = trained(data, z=1.0)
    aggregated = trained(data, z=1.0, aggregate_head=True)
    assert aggregated.auc >= local.auc


@pytest.mark.statistical
def test_a_pretrained_backbone_ends_above_one_from_scratch_at_noise_multiplier_2():
    """The control is a backbone of the same weights, shuffled: it knows nothing."""
    data = world(classes=200, per_user=3)
    public = trained(world(classes=200, per_user=3, seed=7), z=0.0, rounds=6, seed=5)
    scratch, known, control = (
        trained(data, z=2.0, rounds=10, start=start).auc
        for start in (None, public.state, shuffled(public.state))
    )
    assert known >= scratch + 0.1
    assert control < scratch + 0.1
