"""Canaries: users whose data make the update of their virtual client recognisable.

The adversary of the guarantee chooses everybody's data. This one chooses the worst that
is known: the canary pushes its virtual client far beyond the clip norm in a direction
of its own; where there are partners, their data push the other way as soon as the
canary is absent, so that its presence turns one clipped vector into its antipode. (Data
with this effect exist in principle; the gradient is planted rather than computed.)
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accounting import Adjacency, DominatingPair
from fedemb.clipping import ClippedSum, Lattice, clip_to_lattice
from fedemb.cohort import Cohort
from fedemb.plan import PrivacyPlan
from fedemb.randomness import KeyStream, RootKey

BEYOND_THE_CLIP = 8.0
"""Norm of a malicious update before clipping, in clip norms."""

_GROUPS_TOLD = 16


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Users 0 .. m-1, each in the population or not; all other users are.

    Attributes:
        present: bool `[m]`, what the coins said.
        antipodal: whether an absent canary leaves the opposite vector behind, by its
            partners' data, or nothing.
        replaced: whether an absent canary takes part with other data, even if alone.
        bystanders: users m .. m + bystanders - 1 tell by the direction number m how
            they were grouped, in virtual clients that seat no canary. Nobody's presence
            may change that.
    """

    present: NDArray[np.bool_]
    antipodal: bool
    replaced: bool = False
    bystanders: int = 0

    @staticmethod
    def for_plan(plan: PrivacyPlan, present: NDArray[np.bool_]) -> "Canaries":
        """The worst canaries for the neighbouring relation of `plan`.

        Example:
            >>> from fedemb.cohort import PoissonVirtualClients
            >>> sampler = PoissonVirtualClients(population=64, users_per_round=32,
            ...                                 users_per_virtual_client=2)
            >>> plan = PrivacyPlan(sampler=sampler, rounds=1, clip_norm=1.0,
            ...                    noise_multiplier=1.0, delta=1e-5)
            >>> Canaries.for_plan(plan, np.array([True])).antipodal
            True
        """
        grouped = plan.sampler.users_per_virtual_client > 1
        return Canaries(
            present=present,
            antipodal=antipodal(plan),
            replaced=plan.mechanism.adjacency is Adjacency.REPLACE_ONE,
            bystanders=_bystanders(plan) if grouped else 0,
        )

    def __len__(self) -> int:
        return len(self.present)

    def in_population(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `users` are there, bool `[users]`."""
        canary = users < len(self)
        return ~canary | self.present[np.where(canary, users, 0)]


def antipodal(plan: PrivacyPlan) -> bool:
    """Whether a user's presence can turn a drawn vector into its opposite."""
    return plan.mechanism.dominating_pair is DominatingPair.REPLACE_ONE


def coins(key: RootKey, name: str, count: int) -> NDArray[np.bool_]:
    """Fair coins that the pipeline knows nothing of, bool `[count]`."""
    return KeyStream(key.derive(f"coins of {name}")).uniforms(count) < 0.5


def _bystanders(plan: PrivacyPlan) -> int:
    """So many users that about half the time nobody among them is missing."""
    u, q = plan.sampler.users_per_virtual_client, plan.mechanism.sampling_probability
    most = _GROUPS_TOLD * u
    wanted = most if q == 1 else round(0.5 / (1 - q))
    return min(max(2 * u, wanted), most)


@dataclass(frozen=True, kw_only=True)
class CanaryRunner:
    """Trains virtual clients as the canaries want, and clips them as all are clipped.

    A runner as the round knows it (`fedemb.round.ClientRunner`): only the local
    training is planted.

    Attributes:
        canaries: whose data is malicious.
    """

    canaries: Canaries

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `cohort`."""
        del backbone  # the worst data knows what it wants, whatever the model
        return clip_to_lattice(self.deltas(cohort, lattice, round_index), lattice)

    def deltas(self, cohort: Cohort, lattice: Lattice, round_index: int) -> Tensor:
        """Deltas before clipping, float32 `[clients, P]`, of those that are not zero.

        Directions change sign every round: whatever rounds have in common cancels out
        of the attack, but not the canary.
        """
        clients, directions, signs = self._votes(cohort)
        rows, numbered = np.unique(clients, return_inverse=True)
        votes = np.zeros((len(rows), lattice.dimension), np.float32)
        np.add.at(votes, (numbered, directions), signs)
        norms = np.linalg.norm(votes, axis=1, keepdims=True)
        scale = (-1) ** round_index * BEYOND_THE_CLIP * lattice.clip_norm
        return torch.from_numpy(votes * (scale / np.maximum(norms, 1)))

    def _votes(
        self, cohort: Cohort
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(virtual client, direction, sign) of everything that is pushed."""
        canaries, users = self.canaries, cohort.users
        clients = np.repeat(np.arange(len(cohort)), cohort.sizes)
        is_canary, here = users < len(canaries), canaries.in_population(users)
        # Partners push for an absent canary; where there are none, nobody does.
        alive = np.bincount(clients, weights=here, minlength=len(cohort)) > 0
        absent = is_canary & ~here & (alive[clients] | canaries.replaced)
        pushing = (is_canary & here) | (absent & canaries.antipodal)
        signs = np.where(here, 1, -1).astype(np.float32)

        lowest = np.full(len(cohort), np.iinfo(np.int64).max)
        np.minimum.at(lowest, clients, users)
        order = lowest - len(canaries)
        (groups,) = np.nonzero((order >= 0) & (order < canaries.bystanders))
        # In an undisturbed order, groups would begin at multiples of their size.
        size = max(1, int(cohort.sizes.max(initial=1)))
        told = np.where(order[groups] % size == 0, 1, -1).astype(np.float32)
        return (
            np.concatenate([clients[pushing], groups]),
            np.concatenate([users[pushing], np.full(len(groups), len(canaries))]),
            np.concatenate([signs[pushing], told]),
        )
