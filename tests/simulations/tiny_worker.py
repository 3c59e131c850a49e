"""A tiny training task that worker processes can import by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedemb.budget import Unaccounted
from fedemb.clipping import Lattice
from fedemb.cohort import Cohort, FullParticipation
from fedemb.data import Examples
from fedemb.heads import LinearHead
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.server import ServerSGD, ServerState
from fedemb.train import train
from simulations.worker import WorkerSpecification

DIM, CLASSES = 6, 3
LATE = 6.0  # seconds that a late worker takes


@dataclass(frozen=True)
class TinyTask:
    name: str = "tiny"
    label_space: str = "global"
    num_classes: int = CLASSES

    def make_backbone(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(DIM, 8), nn.Tanh(), nn.Linear(8, 4))

    def make_head(self, capacity):
        return LinearHead(4, capacity)

    def fresh_head(self, head, classes, generator):
        return {"weight": torch.randn(head.weight.shape, generator=generator)}

    def prepare(self, examples, seeds):
        return {name: torch.from_numpy(rows) for name, rows in examples.fields.items()}

    def features(self, backbone, batch):
        return backbone(batch["x"])

    def loss(self, head, features, batch):
        return head(features, batch)

    def embed(self, backbone, batch):
        return nn.functional.normalize(backbone(batch["x"]))

    def evaluate(self, backbone, examples):
        return {}


@dataclass(frozen=True)
class TinyUsers:
    """Users with 1 to 4 rows; reading them kills the process, or fails, if told to."""

    num_users: int = 40
    num_classes: int = CLASSES
    trap: str = ""

    def fetch(self, users):
        self._spring(users)
        sizes = 1 + users % 4
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        own = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        rows = np.repeat(users, sizes) * 7 + own
        x = np.sin(rows[:, None] * (1.0 + np.arange(DIM))).astype(np.float32)
        return Examples({"x": x, "label": rows % CLASSES}, offsets)

    def _spring(self, users):
        trap = Path(self.trap)
        if not self.trap or not trap.exists() or 0 not in users:
            return
        kind = trap.read_text()
        if kind != "die always":
            trap.unlink()
        if kind.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "late":
            time.sleep(LATE)
            return
        raise OSError("the disk is on fire")


def worker(client_key, *, trap="", users=40):
    task = TinyTask()
    backbone = task.make_backbone()
    return InlineRunner(
        task=task,
        dataset=TinyUsers(num_users=users, trap=trap),
        backbone=backbone,
        layout=FlatLayout.of(backbone),
        recipe=LocalTraining(learning_rate=0.3, batch_size=2, epochs=2),
        key=client_key,
    )


def specification(engine="serial", chunk=2, **arguments):
    return WorkerSpecification(
        factory="tiny_worker:worker",
        arguments=arguments,
        client_key=RootKey(RootKey.from_seed(3).derive("clients"), seeded=True),
        engine=EngineChoice(name=engine, chunk=chunk),
    )


def a_round(clients=11, seats=3, clip_norm=0.5):
    """Arguments of `train`: backbone, cohort, lattice, round."""
    backbone = TinyTask().make_backbone()
    theta = FlatLayout.of(backbone).flatten(dict(backbone.named_parameters()))
    users = np.arange(clients * seats, dtype=np.int64)
    ids = np.arange(clients, dtype=np.int64) * 2
    cohort = Cohort(ids, users, np.full(clients, seats, np.int64))
    return theta, cohort, Lattice(clip_norm, len(theta)), 5


def same(a, b):
    """Whether two sums agree bit for bit, up to the order of adding diagnostics."""
    return (
        torch.equal(a.total, b.total)
        and (a.unclipped, a.clients) == (b.unclipped, b.clients)
        and np.isclose(a.diagnostics.norm_sum, b.diagnostics.norm_sum)
        and a.diagnostics.examples == b.diagnostics.examples
    )


def ten_rounds(runner, before_round=lambda: None):
    """The state after ten private rounds in which everybody takes part."""
    sampler = FullParticipation(
        population=33, users_per_round=33, users_per_virtual_client=3
    )
    plan = PrivacyPlan(
        sampler=sampler, rounds=10, clip_norm=0.5, noise_multiplier=0.3, delta=1e-5
    )

    class Runner:
        def train(self, *arguments):
            before_round()
            return runner.train(*arguments)

    theta, *_ = a_round()
    optimizer = ServerSGD()
    state = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
    key = RootKey.from_seed(8)
    return train(state, plan, Runner(), optimizer, key, Unaccounted())


def train_and_write(connect, *, out, trap=""):
    """What the ServerApp is told to run: a few rounds, their sums kept in a file."""
    runner = connect(specification(trap=trap))
    theta, cohort, lattice, _ = a_round()
    totals = [runner.train(theta, cohort, lattice, t).total for t in range(2)]
    np.save(out, torch.stack(totals).numpy())


def ten_deaths_and_write(connect, *, out, trap, reply):
    """What the ServerApp is told to run: ten rounds, a worker killed in each."""
    from simulations.flower.runner import Patience

    runner = connect(specification(trap=trap))
    runner.train(*a_round())  # all workers are there and warm
    runner._patience = Patience(reply=reply)
    state = ten_rounds(runner, lambda: Path(trap).write_text("die once"))
    np.save(out, state.backbone.numpy())
