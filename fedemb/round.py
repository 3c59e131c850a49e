"""One round of DP-FedEmb. Read this first.

DP-FedEmb (Xu et al. 2023, arXiv:2211.10844) trains an embedding *backbone* on
user-partitioned data with user-level differential privacy. A round is

 1. pay: the ledger reserves the round's cost; no budget, no round;
 2. draw the virtual clients of this round, by default each an independent coin;
 3. look up the users seated in them;
 4. hand out the backbone;
 5. every virtual client trains alone: a fresh head, private fine-tuning of that head,
    then the backbone; the head is thrown away, or kept for its user's next round
    (`fedemb.persistent_heads` has the proof for that);
 6. clip every virtual client's backbone delta to norm C and round it to a lattice;
 7. add, exactly, in 64-bit integers;
 8. add Gaussian lattice noise of standard deviation z C, once, or noise correlated with
    that of earlier rounds;
 9. divide by the *expected* number of virtual clients and take a server step;
10. save the new state and commit the round to the ledger.

Formal guarantee. Steps 2 to 8 are the sampled Gaussian mechanism
`plan.mechanism`: a user's whole data influences the sum of step 7 through one virtual
client only, by a vector of norm at most C where an absent client gives zero, or by the
difference of two such vectors where the client has other users as well. `accounting`
holds the dominating pair for either case, of a round or, where rounds hang together
by their sampler or noise, of a period of rounds. `fedemb.mechanisms` shows that step 8
is post-processing of a Gaussian mechanism; so is everything after it.
Neither the number of virtual clients drawn nor any loss, norm or head leaves the round;
`Diagnostics` does, for the operator, and is marked non-private.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fedemb.clipping import ClippedSum, Diagnostics, Lattice
from fedemb.cohort import Cohort
from fedemb.mechanisms import GaussianNoise, Mechanism
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey, lattice_normals
from fedemb.server import ServerOptimizer, ServerState

INDEPENDENT = GaussianNoise()


class ClientRunner(Protocol):
    """Where virtual clients are trained: in this process, in others, or in Flower."""

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `cohort`, trained from `backbone`."""
        ...


class Budget(Protocol):
    """The right to run rounds; `accounting.PrivacyLedger` behind a run's name."""

    def reserve(self, round_index: int) -> Callable[[], None]:
        """Pay for a round before any data is read; returns its commit.

        Raises:
            BudgetExhausted: if the round would exceed the budget.
        """
        ...


@dataclass(frozen=True)
class RoundReport:
    """What may be shown of a round: public numbers and post-processed releases.

    Attributes:
        round_index: the round, from 0.
        clip_norm: C used in this round.
        update_norm: norm of the noisy mean delta, in parameter units.
        expected_noise_norm: what the noise alone contributes to it; z C sqrt(P) / m
            if it is independent.
        diagnostics: *non-private* sums, for the operator only.
    """

    round_index: int
    clip_norm: float
    update_norm: float
    expected_noise_norm: float
    diagnostics: Diagnostics


def run_round(
    state: ServerState,
    plan: PrivacyPlan,
    runner: ClientRunner,
    optimizer: ServerOptimizer,
    key: RootKey,
    budget: Budget,
    save: Callable[[ServerState, Callable[[], None]], None] = lambda _, commit: (
        commit()
    ),
) -> tuple[ServerState, RoundReport]:
    """Run round `state.round_index`; returns the next state and what may be shown.

    Args:
        state: backbone, optimizer moments and clip norm before the round.
        plan: everything that matters for privacy.
        runner: trains virtual clients and returns their exact clipped sum.
        optimizer: consumes the privatised mean.
        key: root of all randomness; the same key repeats the round bit for bit.
        budget: pays for the round.
        save: makes the next state durable and then commits the round, so that a crash
            costs budget at worst, never privacy. By default nothing is saved.

    Raises:
        BudgetExhausted: before any data is read.
    """
    t = state.round_index
    commit = budget.reserve(t)
    cohort = plan.sampler.draw(key, t)
    lattice = Lattice(state.clip_norm, len(state.backbone))
    clipped = runner.train(state.backbone, cohort, lattice, t)
    z = plan.value_noise_multiplier
    released = privatize(clipped.total, z, lattice, key, t, plan.noise)
    mean = (released / plan.expected_clients).to(state.backbone.dtype)
    following = optimizer.step(state, mean)
    following = replace(following, clip_norm=_next_clip(state, plan, clipped, key))
    save(following, commit)
    noise = plan.noise_of_round(t) * lattice.clip_norm / plan.expected_clients
    report = RoundReport(
        round_index=t,
        clip_norm=state.clip_norm,
        update_norm=float(mean.norm()),
        expected_noise_norm=noise * lattice.dimension**0.5,
        diagnostics=clipped.diagnostics,
    )
    return following, report


def privatize(
    total: Tensor,
    noise_multiplier: float,
    lattice: Lattice,
    key: RootKey,
    round_index: int,
    mechanism: Mechanism = INDEPENDENT,
) -> Tensor:
    """The Gaussian mechanism: an exact lattice sum plus lattice noise, float64 `[P]`.

    A draw of noise has standard deviation noise_multiplier * C per coordinate. Unless
    the mechanism says otherwise it comes from a key of this round alone, and no two
    rounds share noise.
    """
    if noise_multiplier > 0:
        scale = noise_multiplier * lattice.clip_norm / lattice.spacing
        noise = mechanism.draw(key, round_index, len(total), scale)
        total = total + torch.from_numpy(noise)
    return lattice.decode(total)


def _next_clip(
    state: ServerState, plan: PrivacyPlan, clipped: ClippedSum, key: RootKey
) -> float:
    """C of the next round, from a noisy count of the clients within the clip."""
    adaptive = plan.adaptive_clipping
    if adaptive is None:
        return state.clip_norm
    m = plan.expected_clients
    one = 2**20  # votes are +-1/2 per client, on a lattice of their own
    noise = 0
    if plan.noise_multiplier > 0:
        count_key = key.derive("count", state.round_index)
        noise = int(lattice_normals(count_key, 1, adaptive.stddev(m) * one)[0])
    votes = (clipped.unclipped * (one // 2) + noise) / one
    return adaptive.next_clip_norm(state.clip_norm, votes, m)
