"""Small users, backbones and runners that the tests of the core share."""

from functools import partial

import numpy as np
import torch
from torch import nn

from fedemb.budget import Unaccounted
from fedemb.cohort import Cohort, PoissonVirtualClients
from fedemb.data import Examples, InMemoryDataset, Provenance, Source
from fedemb.identity import IdentityTask
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.server import ServerSGD, ServerState

SIDE, DIM, CLASSES = 4, 5, 6
KEY = RootKey.from_seed(11)


def dense_backbone() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE * SIDE, 7), nn.Tanh(), nn.Linear(7, DIM)
    )


def conv_backbone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, DIM),
    )


class LooseBackbone(nn.Module):
    """Has a trained parameter outside every layer that has a gradient rule."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(SIDE * SIDE, DIM)
        self.gain = nn.Parameter(torch.full((DIM,), 1.5))

    def forward(self, images):
        return torch.tanh(self.dense(images.flatten(1))) * self.gain


MODES = {
    "joint": {"epochs": 2, "momentum": 0.9},
    "one step": {"steps": 1},
    "head first": {"steps": 3, "head_steps": 2},
    "head first, many steps": {"steps": 5, "head_steps": 2},
}

BACKBONES = {"dense": dense_backbone, "conv": conv_backbone, "loose": LooseBackbone}


def rows(sizes, seed=0, classes=CLASSES):
    """Ragged users: float images in [0, 1] and labels."""
    draw = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(offsets[-1])
    images = draw.random((n, SIDE, SIDE, 1), dtype=np.float32)
    labels = draw.integers(0, classes, n)
    if n:
        labels[0] = classes - 1
    return Examples({"image": images, "label": labels}, offsets)


def dataset(examples):
    source = Provenance(name="toy", source=Source.SYNTHETIC)
    return InMemoryDataset(examples, examples, source)


def task(backbone="dense", head="class-means", space="client"):
    return IdentityTask(
        name="toy",
        backbone=BACKBONES[backbone],
        embedding_dim=DIM,
        num_classes=CLASSES,
        head=head,
        label_space=space,
    )


def module(kind="dense", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BACKBONES[kind]()


def runner(
    examples,
    *,
    backbone="dense",
    head="class-means",
    space="client",
    engine="serial",
    chunk=16,
    threads=1,
    key=KEY,
    **recipe,
):
    own = module(backbone)
    return InlineRunner(
        task=task(backbone, head, space),
        dataset=dataset(examples),
        backbone=own,
        layout=FlatLayout.of(own),
        recipe=LocalTraining(**{"learning_rate": 0.5, "batch_size": 4, **recipe}),
        key=key,
        engine=EngineChoice(name=engine, chunk=chunk, threads=threads),
    )


def theta(own):
    return own.layout.flatten(dict(own.backbone.named_parameters()))


def plan(population=40, cohort=20, u=1, **more):
    sampler = PoissonVirtualClients(
        population=population, users_per_round=cohort, users_per_virtual_client=u
    )
    values = {"rounds": 3, "clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-5}
    return PrivacyPlan(sampler=sampler, **values | more)


def start(vector, clip_norm=0.5, optimizer=None):
    optimizer = optimizer or ServerSGD()
    return ServerState(0, vector, optimizer.init(vector), clip_norm)


def everyone(num_users, u=1):
    """A cohort of all users, u to a virtual client."""
    users = np.arange(num_users, dtype=np.int64)
    sizes = np.array([min(u, num_users - i) for i in range(0, num_users, u)])
    return Cohort(np.arange(len(sizes), dtype=np.int64), users, sizes.astype(np.int64))


free = partial(Unaccounted)
