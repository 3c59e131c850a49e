"""The plan of a run that was made, from its statement alone: no data is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accounting import SampledGaussian
from fedemb.clipping import AdaptiveClipping
from fedemb.cohort import SAMPLERS
from fedemb.errors import UserError
from fedemb.plan import PrivacyPlan
from simulations.folder import RunFolder


@dataclass(frozen=True)
class AuditedRun:
    """What a run did, and what it said of it.

    Attributes:
        plan: of the run.
        extrapolated: whether its statement claims something of a larger population;
            the plan is that of the population it really sampled from.
        stated_epsilon: what the statement says of the rounds of `plan`; infinite for
            a run without noise.
    """

    plan: PrivacyPlan
    extrapolated: bool
    stated_epsilon: float

    @staticmethod
    def open(path: Path) -> "AuditedRun":
        """The run in the folder `path`.

        Raises:
            UserError: if there is no statement, or it is not of a federated run.
        """
        folder = RunFolder.open(path)
        statement = folder.read_json("privacy_statement.json")
        try:
            return _read(statement)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path / 'privacy_statement.json'} is not a privacy statement of "
                f"this version: {error}."
            ) from error


def _read(statement: dict[str, Any]) -> AuditedRun:
    claimed = SampledGaussian.from_json(statement["mechanism"])
    if claimed.unit.value != "user" or claimed.sampler not in SAMPLERS:
        raise UserError(
            f"unit={claimed.unit.value!r} with sampler={claimed.sampler.value!r} was "
            "not run by federated rounds; the audit attacks those alone."
        )
    really = statement["really_run"] or statement
    # A claim for a larger population has cohort and noise larger by the same factor.
    noise = really["noise_multiplier"]
    factor = claimed.noise_multiplier / noise if noise else 1.0
    sampler = SAMPLERS[claimed.sampler](
        population=round(claimed.population / factor),
        users_per_round=claimed.users_per_round / factor,
        users_per_virtual_client=claimed.users_per_virtual_client,
    )
    stated = really["epsilon"]
    return AuditedRun(
        plan=PrivacyPlan(
            sampler=sampler,
            rounds=really["rounds"],
            clip_norm=statement["clip_norm"],
            noise_multiplier=noise,
            delta=really["delta"],
            adaptive_clipping=(
                AdaptiveClipping() if statement["adaptive_clipping"] else None
            ),
        ),
        extrapolated=statement["really_run"] is not None,
        stated_epsilon=float("inf") if stated is None else stated,
    )
