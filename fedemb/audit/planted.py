"""Canaries in the data: the same attack through real local training.

`CanaryRunner` plants updates. Here data set and task are planted instead: a row of the
canary is the update that it asks for, and a linear loss makes one step of local
training take exactly that step. Everything between is what every run uses: fetching
and grouping rows, heads, the engine, clipping client by client.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.audit.canaries import BEYOND_THE_CLIP, Canaries, antipodal
from fedemb.audit.releases import Pipeline, release
from fedemb.data import Examples, Provenance, Source
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.protocols import Batch, Features, Parameters
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner


@dataclass(frozen=True)
class PlantedUsers:
    """Users whose rows are updates `[P]`; a canary that is absent has no rows.

    Attributes:
        canaries: who is there.
        num_users: canaries and all others.
        dimension: P.
        norm: of a row, in parameter units.
        partners: whether all others push against the first canary. She cannot tell them
            who sits where, so this helps her only if all take part in every round.
        weight: of a canary's row, so that it prevails over its partners.
    """

    canaries: Canaries
    num_users: int
    dimension: int
    norm: float
    partners: bool
    weight: float

    provenance = Provenance(name="audit canaries", source=Source.SYNTHETIC)
    num_classes = 1
    class_names = ()

    def user_id(self, index: int) -> str:
        """The index."""
        return str(index)

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """At most one row per user."""
        canary = users < len(self.canaries)
        pushing = self.canaries.in_population(users) & (canary | self.partners)
        direction = np.where(canary, users, 0)[pushing]
        amount = np.where(canary, self.weight, -1.0)[pushing] * self.norm
        rows = np.zeros((len(direction), self.dimension), np.float32)
        rows[np.arange(len(rows)), direction] = amount
        offsets = np.concatenate([[0], np.cumsum(pushing)]).astype(np.int64)
        return Examples({"push": rows}, offsets)

    def held_out(self) -> Examples:
        """Nothing is evaluated."""
        empty = np.zeros((0, self.dimension), np.float32)
        return Examples({"push": empty}, np.array([0, 0]))


@dataclass(frozen=True)
class PlantedTask:
    """A backbone of one linear layer, whose gradient is what the rows ask for."""

    dimension: int
    name = "audit canaries"
    label_space = "global"
    num_classes = 1

    def make_backbone(self) -> nn.Module:
        """One weight per direction."""
        return nn.Linear(self.dimension, 1, bias=False)

    def make_head(self, capacity: int) -> nn.Module:
        """No head."""
        del capacity
        return nn.Identity()

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """No parameters."""
        del head, classes, generator
        return {}

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """The rows, as they are."""
        del seeds
        return {"push": torch.from_numpy(np.asarray(examples.fields["push"]))}

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Inner products of rows and weights `[B, 1]`."""
        products: Tensor = backbone(batch["push"])
        return products

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Minus their mean: a step of size 1 adds the mean row to the weights."""
        del head
        weight = batch["weight"]
        products = torch.as_tensor(features)[:, 0]
        return -(products * weight).sum() / weight.sum().clamp(min=1)

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """The features."""
        return torch.as_tensor(self.features(backbone, batch))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Nothing is evaluated."""
        del backbone, examples
        return {}


def trained(engine: EngineChoice) -> Pipeline:
    """A pipeline whose canaries are trained by `InlineRunner` with `engine`.

    Several users per virtual client are attacked at their full sensitivity only if
    everybody takes part in every round.
    """

    def pipeline(
        plan: PrivacyPlan, canaries: Canaries, key: RootKey, dimension: int
    ) -> Tensor:
        task, u = PlantedTask(dimension), plan.sampler.users_per_virtual_client
        backbone = task.make_backbone()
        everybody = plan.mechanism.sampling_probability == 1
        data = PlantedUsers(
            canaries,
            plan.sampler.population,
            dimension,
            BEYOND_THE_CLIP * plan.clip_norm,
            partners=everybody and antipodal(plan) and len(canaries) == 1,
            weight=2.0 * u,
        )
        runner = InlineRunner(
            task=task,
            dataset=data,
            backbone=backbone,
            layout=FlatLayout.of(backbone),
            recipe=LocalTraining(learning_rate=1.0, batch_size=u, steps=1),
            key=RootKey(key.derive("clients"), key.seeded),
            engine=engine,
        )
        seen = release(plan, canaries, key, dimension, runner, torch.float32)
        # Data cannot know the round, so these canaries do not alternate.
        return seen * ((-1.0) ** torch.arange(plan.rounds))[:, None]

    return pipeline
