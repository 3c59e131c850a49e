"""Central DP-SGD at example level, through Opacus: the other baseline.

Abadi et al. (2016), arXiv:1607.00133. All users' examples are pooled; what is protected
is one *example*, not one user, which is a much weaker promise, and every output says
so.
A round is one step over a Poisson-sampled batch of `privacy.users_per_round` examples.
"""

import time
from dataclasses import replace
from typing import cast

import numpy as np
import torch
import torch.utils.data
from torch import nn

from accounting import BudgetExhausted, PrivacyUnit, Sampler
from fedemb.budget import LedgerBudget
from fedemb.clipping import Diagnostics
from fedemb.cohort import PoissonUsers
from fedemb.errors import UserError
from fedemb.heads import LinearHead
from fedemb.identity import IdentityTask
from fedemb.randomness import RootKey
from fedemb.round import RoundReport
from simulations.assembly import Assembly
from simulations.config import Configuration
from simulations.listener import Listener
from simulations.promise import Promise, make_promise
from simulations.training import Progress, evaluate

_MOST_EXAMPLES = 2_000_000  # pooled examples are held in memory


def pooled_examples(assembly: Assembly) -> int:
    """Number of training examples of all users together.

    Raises:
        UserError: if there are too many to hold in memory.
    """
    dataset = assembly.dataset
    first = dataset.fetch(np.arange(min(dataset.num_users, 64), dtype=np.int64))
    guess = len(first) / first.num_groups * dataset.num_users
    if guess > _MOST_EXAMPLES:
        raise UserError(
            f"about {guess:,.0f} examples are too many to pool in memory (limit "
            f"{_MOST_EXAMPLES:,}); use fewer --users for --baseline dp-sgd."
        )
    return len(dataset.fetch(np.arange(dataset.num_users, dtype=np.int64)))


def example_level(configuration: Configuration, examples: int) -> Promise:
    """The promise of DP-SGD: examples are drawn by independent coins, one by one.

    `privacy.users_per_round` is the expected number of *examples* in a batch.
    """
    privacy = replace(
        configuration.privacy,
        sampler=Sampler.POISSON_USERS,
        users_per_virtual_client=1,
        population=None,
        adaptive_clipping=False,
    )
    promise = make_promise(replace(configuration, privacy=privacy), examples)
    sampler = replace(
        cast(PoissonUsers, promise.plan.sampler), unit=PrivacyUnit.EXAMPLE
    )
    plan = replace(promise.plan, sampler=sampler)
    return replace(promise, plan=plan, claimed=plan.mechanism)


def train_dp_sgd(
    assembly: Assembly,
    promise: Promise,
    backbone: nn.Module,
    key: RootKey,
    budget: LedgerBudget,
    listener: Listener,
    progress: Progress,
) -> None:
    """Train `backbone` by DP-SGD with a softmax head over all training classes.

    Every step is reserved in the ledger before its batch is drawn and committed after.

    Raises:
        UserError: if the system is not an image classifier.
    """
    from opacus import PrivacyEngine

    task = assembly.stages[0].task
    if not isinstance(task, IdentityTask):
        raise UserError(
            f"--baseline dp-sgd needs an image classifier; {task.name} is none."
        )
    plan, rounds = promise.plan, assembly.configuration.run.rounds
    pooled = assembly.dataset.fetch(
        np.arange(assembly.dataset.num_users, dtype=np.int64)
    )
    batch = task.prepare(pooled, np.zeros(pooled.num_groups, np.uint64))
    data = torch.utils.data.TensorDataset(batch["image"], batch["label"])
    head = nn.Linear(task.embedding_dim, task.num_classes, bias=False)
    glorot = LinearHead(task.embedding_dim, task.num_classes)
    head.load_state_dict(
        dict(task.fresh_head(glorot, task.num_classes, _generator(key, "head")))
    )
    layout = assembly.layout(0, backbone)
    backbone.requires_grad_(False)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in layout.names)
    model = nn.Sequential(backbone, head)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad],
        lr=assembly.configuration.server.learning_rate,
    )
    size = round(plan.sampler.users_per_round)
    loader = torch.utils.data.DataLoader(data, batch_size=size)
    private, private_optimizer, private_loader = PrivacyEngine().make_private(
        module=model.train(),
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip_norm,
        poisson_sampling=True,
        batch_first=True,
        noise_generator=_generator(key, "noise"),
    )
    # Opacus samples with 1 / len(loader), which must not exceed what is accounted.
    private_loader.batch_sampler.sample_rate = plan.mechanism.sampling_probability
    private_loader.batch_sampler.generator = _generator(key, "batches")
    private_optimizer.expected_batch_size = plan.sampler.users_per_round
    listener.begin("dp-sgd, example level", rounds, 0)
    step = 0
    while step < rounds:
        for images, labels in private_loader:
            if step == rounds:
                break
            started = time.perf_counter()
            try:
                commit = budget.reserve(step)
            except BudgetExhausted as error:
                progress.exhausted = str(error)
                return
            private_optimizer.zero_grad()  # an empty batch still gets its noise
            loss = nn.functional.cross_entropy(private(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            private_optimizer.step()
            commit()
            step += 1
            _report(
                assembly,
                backbone,
                listener,
                progress,
                step,
                rounds,
                started,
                len(labels),
            )


def _report(
    assembly: Assembly,
    backbone: nn.Module,
    listener: Listener,
    progress: Progress,
    step: int,
    rounds: int,
    started: float,
    examples: int,
) -> None:
    seconds = time.perf_counter() - started
    progress.rounds += 1
    progress.seconds += seconds
    progress.diagnostics += Diagnostics(examples=examples)
    clip = assembly.configuration.privacy.clip_norm
    report = RoundReport(
        step - 1, clip, float("nan"), float("nan"), progress.diagnostics
    )
    listener.round("dp-sgd", report, seconds)
    every = assembly.configuration.run.evaluate_every
    if step == rounds or (every and step % every == 0):
        row = {"round": float(step), "stage": 0.0} | evaluate(assembly, 0, backbone)
        backbone.train()
        progress.rows.append(row)
        listener.evaluation(row, assembly.system.watched)


def _generator(key: RootKey, purpose: str) -> torch.Generator:
    seed = int.from_bytes(key.derive(f"dp-sgd {purpose}")[:7], "little")
    return torch.Generator().manual_seed(seed)
