"""Calibrate, train and account from Python: private rounds on generated characters.

Run with: python examples/quickstart.py
"""

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
from model_zoo.system import DataFacts
from simulations import datasets

data = datasets.load("synthetic", users=1_000_000)
(stage,) = registry.get("small_cnn:tiny").build(
    data=DataFacts(example_shape=(28, 28, 1), num_classes=data.num_classes)
)
torch.manual_seed(0)
backbone = stage.task.make_backbone()
layout = FlatLayout.of(backbone)

plan = PrivacyPlan(
    sampler=PoissonVirtualClients(population=data.num_users, users_per_round=256),
    rounds=5,
    clip_norm=0.3,
    noise_multiplier=1.0,
    delta=1e-7,
).calibrate(target_epsilon=2.0)
q = plan.mechanism.sampling_probability
print(f"q = {q:g}, z = {plan.noise_multiplier:.3f}, epsilon <= 2")

key = RootKey.from_system()
runner = InlineRunner(
    task=stage.task,
    dataset=data,
    backbone=backbone,
    layout=layout,
    recipe=LocalTraining(learning_rate=1.0, batch_size=16, steps=1),
    key=RootKey(key.derive("clients"), key.seeded),  # never the key of the noise
    engine=EngineChoice(name="shared", chunk=16),
)
optimizer = ServerAdam(learning_rate=0.005)
theta = layout.flatten(dict(backbone.named_parameters()))
start = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
# A real run pays from a ledger: fedemb.budget.LedgerBudget in place of Unaccounted.
end = train(start, plan, runner, optimizer, key, Unaccounted())
layout.load(backbone, end.backbone)

spent = plan.spent(end.round_index).epsilon
recall = stage.task.evaluate(backbone, data.held_out())["recall_at_1"]
print(f"epsilon spent {spent:.3f}, recall@1 {recall:.3f}")
