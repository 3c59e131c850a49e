"""The audit passes the pipeline that we run, and catches pipelines that are broken."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from accounting import Sampler
from accounting.mechanism import ALLOCATED
from fedemb.audit import AuditReport, AuditSettings, Canaries, CanaryRunner, audit
from fedemb.audit import release as real
from fedemb.clipping import ClippedSum, Lattice
from fedemb.cohort import (
    Cohort,
    PoissonUsers,
    PoissonVirtualClients,
)
from fedemb.mechanisms import TreeNoise, banded_noise
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.samplers import make_sampler

QUICK = AuditSettings(runs=800, canaries=64)


def make_plan(
    sampler: Sampler = Sampler.POISSON_VIRTUAL_CLIENTS,
    *,
    q: float = 0.75,
    u: int = 2,
    rounds: int = 2,
    epsilon: float = 6.0,
) -> PrivacyPlan:
    chosen = make_sampler(
        sampler, population=128, users_per_round=128 * q, users_per_virtual_client=u
    )
    return PrivacyPlan(
        sampler=chosen,
        rounds=rounds,
        clip_norm=0.3,
        noise_multiplier=1.0,
        delta=1e-5,
    ).calibrate(epsilon)


def bounds(report: AuditReport) -> dict[str, float]:
    return {bound.method: bound.epsilon for bound in report.bounds}


@pytest.mark.statistical
@pytest.mark.parametrize("u", [1, 2])
def test_the_real_pipeline_passes_and_the_attack_is_not_blind(u: int) -> None:
    report = audit(make_plan(u=u), RootKey.from_seed(1), settings=QUICK)
    assert not report.violated
    assert bounds(report)["trade-off"] > 0.2 * report.claimed.epsilon
    assert bounds(report)["noise-scale"] > 0.9 * report.claimed.epsilon


@pytest.mark.parametrize("sampler", Sampler)
def test_every_sampler_passes(sampler: Sampler) -> None:
    alone = sampler in ALLOCATED  # proved for single users only
    everybody = sampler is Sampler.FULL_PARTICIPATION
    plan = make_plan(sampler, q=1.0 if everybody else 0.5, u=1 if alone else 2)
    settings = AuditSettings(runs=100, canaries=32)
    report = audit(plan, RootKey.from_seed(2), settings=settings)
    assert not report.violated
    assert report.premises[0].observed > 0.99


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["tree", "banded"])
def test_correlated_noise_passes_and_half_of_it_is_caught(name: str) -> None:
    cyclic = make_sampler(Sampler.CYCLIC, population=128, users_per_round=32)
    tree = TreeNoise(restart_every=8)
    plan = PrivacyPlan(
        sampler=cyclic,
        rounds=8,
        clip_norm=0.3,
        noise_multiplier=1.0,
        delta=1e-5,
        noise=tree
        if name == "tree"
        else banded_noise(cyclic.mechanism(1.0), rounds=8, bands=None),
    ).calibrate(6.0)
    settings = AuditSettings(runs=100, canaries=32)
    key = RootKey.from_seed(8)
    assert not audit(plan, key, settings=settings).violated
    report = audit(plan, key, settings=settings, pipeline=half_the_noise)
    assert bounds(report)["noise-scale"] > report.claimed.epsilon


@pytest.mark.statistical
def test_the_bound_comes_near_the_claim_of_a_plain_gaussian() -> None:
    """Half of epsilon or more, by membership alone."""
    plan = make_plan(Sampler.FULL_PARTICIPATION, q=1.0, u=1, rounds=1, epsilon=4.0)
    settings = AuditSettings(runs=3000, canaries=64, confidence=0.95)
    report = audit(plan, RootKey.from_seed(3), settings=settings)
    found = bounds(report)
    assert 0.5 * report.claimed.epsilon < found["trade-off"] <= report.claimed.epsilon
    assert found["clopper-pearson"] > 0


def half_the_noise(plan, canaries, key, dimension):
    quiet = replace(plan, noise_multiplier=plan.noise_multiplier / 2)
    return real(quiet, canaries, key, dimension)


@dataclass(frozen=True, kw_only=True)
class Unclipped(CanaryRunner):
    """Adds what virtual clients computed, as it is."""

    def train(
        self, backbone: torch.Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        deltas = self.deltas(cohort, lattice, round_index)
        total = (deltas / lattice.spacing).round().sum(dim=0).to(torch.int64)
        return replace(ClippedSum.zero(lattice.dimension), total=total)


def no_clipping(plan, canaries, key, dimension):
    return real(plan, canaries, key, dimension, Unclipped(canaries=canaries))


@dataclass(frozen=True)
class OneNoise(RootKey):
    """A key whose noise is that of the first round in every round."""

    def derive(self, purpose: str, *counters: int) -> bytes:
        first = (0,) if purpose == "noise" else counters
        return super().derive(purpose, *first)


def noise_repeated_each_round(plan, canaries, key, dimension):
    return real(plan, canaries, OneNoise(key.secret, key.seeded), dimension)


@dataclass(frozen=True, kw_only=True)
class PoissonThenChunks(PoissonVirtualClients):
    """Draws users by coins, and is accounted as if it drew virtual clients."""

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        users = PoissonUsers(
            population=self.population, users_per_round=self.users_per_round
        )
        return users.draw(key, round_index)


@dataclass(frozen=True)
class Chunking:
    """Cuts the users who are there into consecutive virtual clients."""

    inner: CanaryRunner
    size: int

    def train(
        self, backbone: torch.Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        here = cohort.users[self.inner.canaries.in_population(cohort.users)]
        ids = np.arange(-(-len(here) // self.size))
        sizes = np.minimum(self.size, len(here) - self.size * ids)
        return self.inner.train(
            backbone, Cohort(ids, here, sizes), lattice, round_index
        )


def a_cohort_cut_into_chunks(plan, canaries, key, dimension):
    sampler = PoissonThenChunks(**vars(plan.sampler))
    runner = Chunking(CanaryRunner(canaries=canaries), sampler.users_per_virtual_client)
    return real(replace(plan, sampler=sampler), canaries, key, dimension, runner)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("broken", "u"),
    [
        (half_the_noise, 1),
        (half_the_noise, 2),
        (no_clipping, 2),
        (noise_repeated_each_round, 1),
        (noise_repeated_each_round, 2),
    ],
)
def test_broken_pipelines_are_caught_by_membership(broken, u: int) -> None:
    report = audit(
        make_plan(u=u), RootKey.from_seed(4), settings=QUICK, pipeline=broken
    )
    assert report.violated
    assert bounds(report)["trade-off"] > report.claimed.epsilon


@pytest.mark.statistical
def test_a_cohort_cut_into_chunks_is_caught() -> None:
    plan = make_plan(q=0.98, epsilon=4.0)
    found = audit(
        plan, RootKey.from_seed(5), settings=QUICK, pipeline=a_cohort_cut_into_chunks
    )
    assert found.violated
    assert bounds(found)["trade-off"] > found.claimed.epsilon
    right = audit(plan, RootKey.from_seed(5), settings=QUICK)
    assert not right.violated


@pytest.mark.statistical
def test_virtual_clients_accounted_as_single_users_are_caught() -> None:
    plan = make_plan()
    as_users = replace(plan.sampler, users_per_virtual_client=1)
    mistaken = replace(plan, sampler=as_users).calibrate(6.0)
    runs = replace(plan, noise_multiplier=mistaken.noise_multiplier)
    report = audit(runs, RootKey.from_seed(6), settings=QUICK, claim=mistaken.mechanism)
    assert report.violated
    assert report.claimed.epsilon <= 6.0


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("u", [1, 2])
def test_the_right_pipeline_passes_seed_after_seed(u: int) -> None:
    """At 95 % each, twenty audits fail once on average if every bound is exact."""
    settings = replace(QUICK, confidence=0.95)
    failures = sum(
        audit(make_plan(u=u), RootKey.from_seed(seed), settings=settings).violated
        for seed in range(20)
    )
    assert failures <= 3


@pytest.mark.slow
@pytest.mark.statistical
def test_a_fifth_less_noise_is_caught_by_membership_with_many_runs() -> None:
    plan = make_plan(Sampler.FULL_PARTICIPATION, q=1.0, u=2, rounds=1, epsilon=4.0)

    def quieter(plan, canaries, key, dimension):
        quiet = replace(plan, noise_multiplier=0.8 * plan.noise_multiplier)
        return real(quiet, canaries, key, dimension)

    settings = AuditSettings(runs=30_000, canaries=64, confidence=0.95)
    key = RootKey.from_seed(7)
    found = bounds(audit(plan, key, settings=settings, pipeline=quieter))
    assert found["trade-off"] > 4.0
    assert not audit(plan, key, settings=settings).violated


def test_absent_canaries_push_only_through_their_partners() -> None:
    canaries = Canaries(present=np.array([True, False]), antipodal=True)
    seats = np.array([0, 1, 2, 3])
    assert canaries.in_population(seats).tolist() == [True, False, True, True]
    lattice = Lattice(1.0, 4)
    pairs = Cohort(np.arange(2), np.array([0, 2, 1, 3]), np.array([2, 2]))
    pushed = CanaryRunner(canaries=canaries).deltas(pairs, lattice, 0)
    assert torch.sign(pushed).tolist() == [[1, 0, 0, 0], [0, -1, 0, 0]]
    alone = Cohort(np.arange(1), np.array([1]), np.array([1]))
    assert CanaryRunner(canaries=canaries).train(
        torch.zeros(4), alone, lattice, 0
    ).total.tolist() == [0, 0, 0, 0]
