"""What an audit found, and its verdict."""

from dataclasses import dataclass
from typing import Any

from accounting import EpsilonReport


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """A lower bound of epsilon that holds with its confidence.

    Attributes:
        method: how it was found.
        epsilon: the bound; 0 if nothing was shown.
        confidence: of this bound alone.
        detail: what it rests on.
    """

    method: str
    epsilon: float
    confidence: float
    detail: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure without confidence; it never decides."""

    method: str
    epsilon: float
    detail: str


@dataclass(frozen=True, kw_only=True)
class Premise:
    """A fact that the proof of the claim rests on, put to the test.

    Attributes:
        name: of the fact.
        observed: what was seen.
        allowed: what the accounting allows.
        holds: whether nothing was seen against it.
        detail: in words.
    """

    name: str
    observed: float
    allowed: float
    holds: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """Lower bounds beside the claim.

    Guarantee: if the pipeline does what the plan says, `violated` is false with
    probability `confidence` or more, all bounds taken together (union bound).

    Attributes:
        claimed: epsilon of the audited rounds.
        bounds: lower bounds.
        estimates: figures that are no bounds.
        premises: facts that the claim's proof rests on.
        confidence: of all bounds together.
        rounds_of_plan: rounds of the plan, of which `claimed.rounds` were audited.
        runs: independent runs of the pipeline with one canary.
        canaries: in the one run with many.
        seeded: whether randomness came from a seed.
    """

    claimed: EpsilonReport
    bounds: tuple[LowerBound, ...]
    estimates: tuple[Estimate, ...]
    premises: tuple[Premise, ...]
    confidence: float
    rounds_of_plan: int
    runs: int
    canaries: int
    seeded: bool

    @property
    def epsilon_lower_bound(self) -> float:
        """The largest of the bounds."""
        return max(bound.epsilon for bound in self.bounds)

    @property
    def violated(self) -> bool:
        """Whether a lower bound is above the claim, or its proof's premise failed."""
        above = self.epsilon_lower_bound > self.claimed.epsilon
        return above or not all(premise.holds for premise in self.premises)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        facts = self.claimed.to_dict()
        claimed = facts.pop("epsilon")
        facts.pop("epsilon_rdp"), facts.pop("epsilon_pld")
        return {
            "verdict": "fail" if self.violated else "pass",
            "claimed_epsilon": claimed,
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "confidence": self.confidence,
            "lower_bounds": [vars(bound) for bound in self.bounds],
            "estimates": [vars(estimate) for estimate in self.estimates],
            "premises": [vars(premise) for premise in self.premises],
            **facts,
            "population": self.claimed.mechanism.population,
            "users_per_round": self.claimed.mechanism.users_per_round,
            "rounds_of_plan": self.rounds_of_plan,
            "runs": self.runs,
            "canaries": self.canaries,
            "seeded": self.seeded,
        }
