"""What an adversary sees of a run: every backbone, hence every release."""

from typing import Protocol

import torch
from torch import Tensor

from fedemb.audit.canaries import Canaries, CanaryRunner
from fedemb.budget import Unaccounted
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.round import ClientRunner, run_round
from fedemb.server import ServerSGD, ServerState


class Pipeline(Protocol):
    """The thing that is audited: a whole run, from a key to what it releases."""

    def __call__(
        self, plan: PrivacyPlan, canaries: Canaries, key: RootKey, dimension: int
    ) -> Tensor:
        """Releases `[T, P]` of a run over a population with `canaries`."""
        ...


def release(
    plan: PrivacyPlan,
    canaries: Canaries,
    key: RootKey,
    dimension: int,
    runner: ClientRunner | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Releases of the real pipeline, in units of the clip norm on the sum.

    Sampler, clipping, lattice, noise, divisor and round are those of every run. The
    server takes plain steps of size 1, which hides nothing: release t is the difference
    of two backbones, times the public divisor, over the public clip norm.

    Args:
        plan: what is audited.
        canaries: who is in the population.
        key: root of the run's randomness; every run has its own.
        dimension: P, trained parameters.
        runner: trains the virtual clients; by default `CanaryRunner`.
        dtype: of the backbone; float64 shows releases to the last lattice step.

    Returns:
        float64 `[T, P]`: N(0, z^2) per coordinate, plus what clients contributed.
    """
    runner = runner or CanaryRunner(canaries=canaries)
    optimizer = ServerSGD(learning_rate=1.0, momentum=0.0)
    theta = torch.zeros(dimension, dtype=dtype)
    state = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
    seen = torch.empty(plan.rounds, dimension, dtype=torch.float64)
    for t in range(plan.rounds):
        following, _ = run_round(state, plan, runner, optimizer, key, Unaccounted())
        step = following.backbone - state.backbone
        seen[t] = step * plan.expected_clients / state.clip_norm
        state = following
    return seen
