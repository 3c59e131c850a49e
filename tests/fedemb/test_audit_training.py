"""The audit through real local training: engines pass, a leaking runner fails."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from accounting import Sampler
from fedemb.audit import AuditReport, AuditSettings, audit, release, trained
from fedemb.audit.canaries import Canaries
from fedemb.audit.planted import PlantedTask, PlantedUsers
from fedemb.clipping import ClippedSum, Lattice, clip_to_lattice
from fedemb.cohort import Cohort
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.runner import ENGINES, EngineChoice, InlineRunner
from fedemb.samplers import make_sampler

QUICK = AuditSettings(runs=200, canaries=16)


def make_plan(u: int, q: float = 1.0) -> PrivacyPlan:
    sampler = Sampler.FULL_PARTICIPATION if q == 1 else Sampler.POISSON_VIRTUAL_CLIENTS
    return PrivacyPlan(
        sampler=make_sampler(
            sampler, population=32, users_per_round=32 * q, users_per_virtual_client=u
        ),
        rounds=1,
        clip_norm=0.3,
        noise_multiplier=1.0,
        delta=1e-5,
    ).calibrate(6.0)


def bound(report: AuditReport, method: str) -> float:
    return next(b.epsilon for b in report.bounds if b.method == method)


@pytest.mark.statistical
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_every_engine_passes_and_the_attack_is_not_blind(engine: str) -> None:
    pipeline = trained(EngineChoice(name=engine, chunk=4))
    report = audit(
        make_plan(2), RootKey.from_seed(1), settings=QUICK, pipeline=pipeline
    )
    assert not report.violated
    assert bound(report, "trade-off") > 1
    assert report.premises[0].observed == pytest.approx(2, abs=1e-3)


def test_sampled_single_users_pass() -> None:
    pipeline = trained(EngineChoice(name="vectorized", chunk=32))
    plan = make_plan(1, q=0.5)
    report = audit(plan, RootKey.from_seed(2), settings=QUICK, pipeline=pipeline)
    assert not report.violated
    assert report.premises[0].observed == pytest.approx(1, abs=1e-3)


@dataclass(frozen=True, kw_only=True)
class ClipsTheMean(InlineRunner):
    """Clips the average over clients trained together, and counts it for each."""

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        deltas = self.deltas(backbone, self.work(cohort, round_index))
        mean = deltas.mean(dim=0).expand(len(cohort), -1)
        return clip_to_lattice(mean.clone(), lattice)


def clips_the_mean(
    plan: PrivacyPlan, canaries: Canaries, key: RootKey, dimension: int
) -> Tensor:
    task = PlantedTask(dimension)
    backbone = task.make_backbone()
    users = PlantedUsers(canaries, 32, dimension, 100.0, partners=False, weight=1.0)
    runner = ClipsTheMean(
        task=task,
        dataset=users,
        backbone=backbone,
        layout=FlatLayout.of(backbone),
        recipe=LocalTraining(learning_rate=1.0, steps=1),
        key=key,
        engine=EngineChoice(name="vectorized"),
    )
    return release(plan, canaries, key, dimension, runner, torch.float32)


@pytest.mark.statistical
def test_one_user_in_everybodys_update_is_caught() -> None:
    report = audit(
        make_plan(1), RootKey.from_seed(3), settings=QUICK, pipeline=clips_the_mean
    )
    assert report.violated
    assert bound(report, "trade-off") > report.claimed.epsilon
    assert not report.premises[0].holds
