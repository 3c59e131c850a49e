"""The workloads that engines are measured on, and the plain loop to compare with.

W1: a LeNet of 1.7 million parameters, 32 clients a round, 4 local steps of 32.
W2: a CNN of 91 thousand parameters, 32 clients, 4 steps of 8.
W3: MobileNetV2 at 64 x 64, 8 clients, 1 step of 16.
Local SGD 0.05 with momentum 0.9, clip norm 1; random pixels, 32 classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.cohort import Cohort
from fedemb.data import Examples, InMemoryDataset, Provenance, Source
from fedemb.identity import IdentityTask
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from model_zoo.image.mobilenet_v2 import MobileNetV2

CLASSES = 32
CPU = torch.device("cpu")


class BigLeNet(nn.Module):
    """W1's backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.norm1, self.norm2 = nn.GroupNorm(8, 32), nn.GroupNorm(8, 64)
        self.dense, self.embedding = nn.Linear(64 * 49, 512), nn.Linear(512, 128)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.embedding(F.relu(self.dense(x.flatten(1))))


class Small(nn.Module):
    """W2's backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 2, 1)
        self.conv2 = nn.Conv2d(16, 32, 3, 2, 1)
        self.conv3 = nn.Conv2d(32, 64, 3, 2, 1)
        self.embedding = nn.Linear(64 * 16, 64)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.relu(layer(x))
        return self.embedding(x.flatten(1))


@dataclass(frozen=True)
class Workload:
    """Model, data and recipe of one measurement."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    rows: int
    clients: int
    batch: int
    steps: int
    dim: int

    def runner(self, engine: EngineChoice, device: torch.device = CPU) -> InlineRunner:
        """Our runner on this workload."""
        torch.manual_seed(0)
        backbone = self.make()
        task = IdentityTask(
            name=self.name,
            backbone=self.make,
            embedding_dim=self.dim,
            num_classes=CLASSES,
            head="linear",
            label_space="global",
        )
        recipe = LocalTraining(
            learning_rate=0.05, momentum=0.9, batch_size=self.batch, steps=self.steps
        )
        return InlineRunner(
            task=task,
            dataset=self.data(),
            backbone=backbone,
            layout=FlatLayout.of(backbone),
            recipe=recipe,
            key=RootKey.from_seed(0),
            engine=engine,
            device=device,
        )

    def data(self) -> InMemoryDataset:
        """Random pixels, `rows` of them for each client."""
        draw = np.random.default_rng(1)
        total = self.clients * self.rows
        images = draw.integers(0, 256, (total, *self.shape), dtype=np.uint8)
        labels = draw.integers(0, CLASSES, total)
        offsets = np.arange(self.clients + 1, dtype=np.int64) * self.rows
        examples = Examples({"image": images, "label": labels}, offsets)
        source = Provenance(name="benchmark", source=Source.SYNTHETIC)
        return InMemoryDataset(examples, examples.regroup([self.clients]), source)

    def cohort(self) -> Cohort:
        """All clients."""
        ids = np.arange(self.clients, dtype=np.int64)
        return Cohort(ids, ids, np.ones_like(ids))

    def plain_loop(self, device: torch.device = CPU) -> Callable[[], Tensor]:
        """What one writes by hand: a client after another, `torch.optim.SGD`.

        Data are on the device already.
        """
        runner = self.runner(EngineChoice())
        work = runner.work(self.cohort(), 0).to(device)
        torch.manual_seed(0)
        backbone = self.make().to(device)
        head = nn.Linear(self.dim, CLASSES, bias=False).to(device)
        base = {k: v.clone() for k, v in backbone.state_dict().items()}

        def loop() -> Tensor:
            total = [torch.zeros_like(p) for p in backbone.parameters()]
            for client in range(self.clients):
                backbone.load_state_dict(base)
                with torch.no_grad():
                    head.weight.copy_(work.heads["weight"][client])
                both = [*backbone.parameters(), *head.parameters()]
                optimizer = torch.optim.SGD(both, lr=0.05, momentum=0.9)
                for batch in work.of(client):
                    optimizer.zero_grad()
                    logits = head(backbone(batch["image"]))
                    F.cross_entropy(logits, batch["label"]).backward()
                    optimizer.step()
                with torch.no_grad():
                    delta = [p - base[k] for k, p in backbone.named_parameters()]
                    norm = float(torch.stack([d.norm() for d in delta]).norm())
                    for t, d in zip(total, delta, strict=True):
                        t.add_(d, alpha=min(1.0, 1.0 / norm))
            return torch.cat([t.flatten() for t in total]).cpu()

        return loop


WORKLOADS = {
    "W1": Workload("W1", BigLeNet, (28, 28, 1), 32, 32, 32, 4, 128),
    "W2": Workload("W2", Small, (28, 28, 1), 32, 32, 8, 4, 64),
    "W3": Workload(
        "W3", partial(MobileNetV2, (64, 64, 3), 128), (64, 64, 3), 16, 8, 16, 1, 128
    ),
}
