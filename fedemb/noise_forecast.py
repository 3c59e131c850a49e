"""What the noise will do to learning, before anything is spent.

The mean of m clipped updates has norm at most C. Noise of standard deviation z C on
each of d coordinates of the sum adds a vector of norm about z C sqrt(d) / m to it. Where
that is more than a fraction of C, the update is mostly noise.
"""

import math
from dataclasses import dataclass

THRESHOLD = 0.3


@dataclass(frozen=True, kw_only=True)
class NoiseForecast:
    """The noise on the averaged update, for public numbers of a plan.

    Attributes:
        trained_parameters: d.
        clip_norm: C, in parameter units.
        noise_multiplier: z of the noise that is added.
        expected_virtual_clients: m, the divisor of the mean.
    """

    trained_parameters: int
    clip_norm: float
    noise_multiplier: float
    expected_virtual_clients: float

    @property
    def noise_norm(self) -> float:
        """Expected norm of the noise on the averaged update, in parameter units."""
        return self.relative_noise * self.clip_norm

    @property
    def relative_noise(self) -> float:
        """The same, relative to the clip norm: z sqrt(d) / m."""
        d, z = self.trained_parameters, self.noise_multiplier
        return z * math.sqrt(d) / self.expected_virtual_clients

    @property
    def warns(self) -> bool:
        """Whether little will be learned."""
        return self.relative_noise > THRESHOLD

    @property
    def advice(self) -> str:
        """What the noise does, and which knobs help."""
        share = f"{self.relative_noise:.2g} times the clip norm"
        if not self.warns:
            return (
                f"The noise on the averaged update is {share}: small enough to learn."
            )
        factor = self.relative_noise / THRESHOLD
        return (
            f"The noise on the averaged update is {share}; above {THRESHOLD:g} little is "
            f"learned. What helps: a cohort {factor:.2g} times larger "
            "(--users-per-round, which costs epsilon unless the population grows with "
            f"it), {factor**2:.2g} times fewer trained parameters (--trainable, a "
            "smaller --model), fewer rounds (--rounds), one user per virtual client "
            "(--users-per-virtual-client 1), a larger population, or a larger epsilon."
        )


def noise_forecast(
    *,
    trained_parameters: int,
    clip_norm: float,
    noise_multiplier: float,
    expected_virtual_clients: float,
) -> NoiseForecast:
    """What noise of these public numbers does to the averaged update.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> f = noise_forecast(trained_parameters=90_000, clip_norm=1.0,
        ...                    noise_multiplier=2.0, expected_virtual_clients=1000)
        >>> f.relative_noise, f.warns
        (0.6, True)
    """
    if trained_parameters < 1 or clip_norm <= 0 or noise_multiplier < 0:
        raise ValueError(
            f"trained_parameters={trained_parameters}, clip_norm={clip_norm} and "
            f"noise_multiplier={noise_multiplier} must be positive."
        )
    if expected_virtual_clients <= 0:
        raise ValueError(
            f"expected_virtual_clients={expected_virtual_clients} must be positive."
        )
    return NoiseForecast(
        trained_parameters=trained_parameters,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        expected_virtual_clients=expected_virtual_clients,
    )
