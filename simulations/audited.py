"""The plan of a run that was made, from its folder alone: no data is needed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accounting import SampledGaussian
from fedemb.errors import UserError
from fedemb.plan import PrivacyPlan
from simulations.assembly import configuration_of
from simulations.folder import RunFolder
from simulations.promise import make_promise


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
            return _read(path, statement)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} holds no configuration and privacy statement of this version: "
                f"{error}."
            ) from error


def _read(path: Path, statement: dict[str, Any]) -> AuditedRun:
    claimed = SampledGaussian.from_json(statement["mechanism"])
    configuration = configuration_of(path)
    if configuration.run.baseline == "dp-sgd":
        raise UserError(
            "the DP-SGD baseline was not run by federated rounds, which alone are "
            "audited; choose another run."
        )
    really = statement["really_run"] or statement
    # A claim for a larger population has cohort and noise larger by the same factor.
    noise = really["noise_multiplier"]
    factor = claimed.noise_multiplier / noise if noise else 1.0
    promise = make_promise(configuration, round(claimed.population / factor))
    stated = really["epsilon"]
    return AuditedRun(
        plan=replace(promise.plan, noise_multiplier=noise, delta=really["delta"]),
        extrapolated=promise.extrapolated,
        stated_epsilon=float("inf") if stated is None else stated,
    )
