"""The privacy plan: the public numbers that fix what a run promises.

The plan is the only place where sampler, clip norm and noise meet. The cohort, the
accounted mechanism, the noise and the divisor are all derived from the same fields, so
they cannot disagree.
"""

from dataclasses import dataclass, field, replace

from accounting import (
    EpsilonReport,
    Noise,
    SampledGaussian,
    calibrate_noise_multiplier,
    epsilon,
)
from fedemb.clipping import AdaptiveClipping, check_headroom
from fedemb.cohort import CohortSampler
from fedemb.errors import UserError
from fedemb.mechanisms import GaussianNoise, Mechanism


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What fixes the privacy of a run; everything in it may be published.

    Attributes:
        sampler: draws cohorts and names the mechanism.
        rounds: number of rounds planned, T.
        clip_norm: C (initial value under adaptive clipping), in parameter units.
        noise_multiplier: z, the *accounted* one: the noise on the sum has standard
            deviation z * C, or more under adaptive clipping (`value_noise_multiplier`).
        delta: of (epsilon, delta).
        adaptive_clipping: None keeps C fixed.
        noise: how the noise of different rounds is related; independent by default.

    Raises:
        UserError: if a number is out of range.
    """

    sampler: CohortSampler
    rounds: int
    clip_norm: float
    noise_multiplier: float
    delta: float
    adaptive_clipping: AdaptiveClipping | None = field(default=None)
    noise: Mechanism = field(default_factory=GaussianNoise)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"rounds={self.rounds} must be at least 1.")
        if not 0 < self.clip_norm < float("inf"):
            raise UserError(f"clip_norm={self.clip_norm} must be positive and finite.")
        if not 0 <= self.noise_multiplier < float("inf"):
            raise UserError(
                f"noise_multiplier={self.noise_multiplier} must be at least 0; "
                "0 trains without privacy."
            )
        if not 0 < self.delta < 1:
            raise UserError(f"delta={self.delta} must lie between 0 and 1.")
        correlated = self.mechanism.noise is not Noise.INDEPENDENT
        if correlated and self.adaptive_clipping is not None:
            raise UserError(
                f"adaptive clipping cannot be combined with {self.mechanism.noise} "
                "noise: its noise of different rounds adds up only while the clip norm "
                "stays the same. Use a fixed --clip-norm, or --mechanism gaussian."
            )
        # Poisson cohorts exceed four times their mean with negligible probability.
        largest = self.value_noise_multiplier * self.noise.headroom
        check_headroom(int(4 * self.expected_clients) + 64, largest)

    @property
    def expected_clients(self) -> float:
        """Expected virtual clients per round: the public divisor of every mean."""
        sampler = self.sampler
        return sampler.users_per_round / sampler.users_per_virtual_client

    @property
    def value_noise_multiplier(self) -> float:
        """Noise on the sum of deltas, relative to C; at least `noise_multiplier`."""
        if self.adaptive_clipping is None:
            return self.noise_multiplier
        return self.adaptive_clipping.value_noise_multiplier(
            self.noise_multiplier, self.expected_clients
        )

    @property
    def mechanism(self) -> SampledGaussian:
        """One round, or one period of rounds, as the accountant sees it."""
        return self.noise.accounted(self.sampler.mechanism(self.noise_multiplier))

    def noise_of_round(self, round_index: int) -> float:
        """Standard deviation of a round's noise on the sum, relative to C."""
        return self.value_noise_multiplier * self.noise.gain(round_index)

    def spent(
        self, rounds: int | None = None, accountant: str = "pld"
    ) -> EpsilonReport:
        """The privacy cost of `rounds` rounds (all of them by default)."""
        count = self.rounds if rounds is None else rounds
        return epsilon(
            self.mechanism, rounds=count, delta=self.delta, accountant=accountant
        )

    def calibrate(
        self, target_epsilon: float, accountant: str = "pld"
    ) -> "PrivacyPlan":
        """A plan whose noise is just enough: its epsilon is at most the target."""
        mechanism = calibrate_noise_multiplier(
            self.mechanism,
            rounds=self.rounds,
            target_epsilon=target_epsilon,
            delta=self.delta,
            accountant=accountant,
        )
        return replace(self, noise_multiplier=mechanism.noise_multiplier)
