"""What the noise will do to training, said before anything is spent.

The averaged update of a round carries Gaussian noise of standard deviation z C / m in
each of d trained coordinates, so noise of norm close to z C sqrt(d) / m (its relative
spread is about 1 / sqrt(2 d)), while the signal has norm C at most. Their ratio
z sqrt(d) / m depends on public numbers alone. Where it is well above `THRESHOLD` a
round moves the backbone mostly at random.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

THRESHOLD = 0.3
"""Ratio of noise norm to clip norm above which little is learned (rule of thumb)."""

_PRECISION = 1.02
_MOST_DOUBLINGS = 40


@dataclass(frozen=True, kw_only=True)
class NoiseForecast:
    """The noise on the averaged update of one round.

    Attributes:
        trained_parameters: d, coordinates that get noise.
        clip_norm: C, in parameter units.
        noise_multiplier: z; the noise on the sum has standard deviation z * C.
        expected_virtual_clients: m, the divisor of the mean.
        cohort_factor: how many times larger a cohort brings the ratio to `THRESHOLD`;
            1 if it is not above; None if no cohort does.
        recalibrated: whether `cohort_factor` counts that a larger cohort needs more
            noise for the same epsilon; if not, it is a lower bound.
    """

    trained_parameters: int
    clip_norm: float
    noise_multiplier: float
    expected_virtual_clients: float
    cohort_factor: float | None
    recalibrated: bool

    @property
    def noise_norm(self) -> float:
        """Norm of the noise on the averaged update, in parameter units."""
        return self.relative_noise * self.clip_norm

    @property
    def relative_noise(self) -> float:
        """Noise norm relative to the clip norm, the most the signal can measure."""
        return _ratio(
            self.noise_multiplier,
            self.trained_parameters,
            self.expected_virtual_clients,
        )

    @property
    def warns(self) -> bool:
        """Whether little will be learned."""
        return self.relative_noise > THRESHOLD

    @property
    def sentence(self) -> str:
        """The forecast, in one plain sentence."""
        if self.noise_multiplier == 0:
            return "No noise is added: nothing about this run is private."
        return (
            f"The noise on each averaged update is {self.relative_noise:.2g} times the "
            f"clip norm ({self.noise_norm:.2g} against {self.clip_norm:g}; "
            f"{self.trained_parameters:,} trained parameters, "
            f"{self.expected_virtual_clients:,.6g} virtual clients a round, noise "
            f"multiplier {self.noise_multiplier:.3g})."
        )

    @property
    def advice(self) -> str:
        """The sentence, and what follows: which knobs would help, if help is needed."""
        if self.noise_multiplier == 0:
            return self.sentence
        if not self.warns:
            return f"{self.sentence} That is small enough to learn from."
        fewer = self.trained_parameters * (THRESHOLD / self.relative_noise) ** 2
        return (
            f"{self.sentence} Above {THRESHOLD:g}, little will be learned. What helps "
            f"at the same epsilon: {self._cohort_advice()}; fewer trained parameters "
            f"(--trainable norm, last or names:...; {max(1, math.floor(fewer)):,} "
            "would do); fewer rounds (--rounds); fewer users per virtual client, if "
            "several (--users-per-virtual-client); a larger population of real users. "
            "Or a larger --epsilon."
        )

    def _cohort_advice(self) -> str:
        if self.cohort_factor is None:
            return (
                "no cohort of this population is large enough by itself "
                "(--users-per-round)"
            )
        least = "" if self.recalibrated else "at least "
        return (
            f"a cohort {least}{self.cohort_factor:.3g} times larger (--users-per-round)"
        )


def noise_forecast(
    *,
    trained_parameters: int,
    clip_norm: float,
    noise_multiplier: float,
    expected_virtual_clients: float,
    calibrate: Callable[[float], float] | None = None,
    most_virtual_clients: float = math.inf,
) -> NoiseForecast:
    """What the noise will do; a pure function of public numbers.

    Args:
        trained_parameters: d, coordinates of the backbone that are trained.
        clip_norm: C, in parameter units.
        noise_multiplier: z on the deltas (with adaptive clipping, the value's own).
        expected_virtual_clients: m, the public divisor of the mean.
        calibrate: the noise multiplier that a given number of expected virtual clients
            needs for the same epsilon; must not fall. Called a few dozen times at most,
            and only if a warning is due. Without it z is taken to stay as it is.
        most_virtual_clients: the whole population, in virtual clients.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> forecast = noise_forecast(
        ...     trained_parameters=40_000,
        ...     clip_norm=0.5,
        ...     noise_multiplier=0.6,
        ...     expected_virtual_clients=100,
        ... )
        >>> round(forecast.relative_noise, 3), forecast.warns
        (1.2, True)
        >>> round(forecast.cohort_factor, 3)  # at the same noise multiplier
        4.0
    """
    if trained_parameters < 1:
        raise ValueError(
            f"trained_parameters={trained_parameters} must be at least 1; widen "
            "--trainable."
        )
    for name, value in (
        ("clip_norm", clip_norm),
        ("expected_virtual_clients", expected_virtual_clients),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite.")
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier={noise_multiplier} must be at least 0.")
    noise_at = calibrate or (lambda _: noise_multiplier)

    def ratio_at(factor: float) -> float:
        clients = expected_virtual_clients * factor
        return _ratio(noise_at(clients), trained_parameters, clients)

    ratio = _ratio(noise_multiplier, trained_parameters, expected_virtual_clients)
    factor: float | None = 1.0
    if ratio > THRESHOLD and calibrate is None:
        factor = ratio / THRESHOLD
    elif ratio > THRESHOLD:
        factor = _least_factor(
            ratio_at, most_virtual_clients / expected_virtual_clients
        )
    if factor is not None and factor * expected_virtual_clients > most_virtual_clients:
        factor = None
    return NoiseForecast(
        trained_parameters=trained_parameters,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        expected_virtual_clients=expected_virtual_clients,
        cohort_factor=factor,
        recalibrated=calibrate is not None,
    )


def _ratio(noise_multiplier: float, parameters: int, clients: float) -> float:
    return noise_multiplier * math.sqrt(parameters) / clients


def _least_factor(ratio_at: Callable[[float], float], most: float) -> float | None:
    """The least factor, within 2 % from above, at which the ratio is low enough."""
    low = high = 1.0
    for _ in range(_MOST_DOUBLINGS):
        low, high = high, min(2 * high, most)
        if ratio_at(high) <= THRESHOLD:
            break
        if high == most:
            return None
    else:
        return None
    while high / low > _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if ratio_at(middle) <= THRESHOLD else (middle, high)
    return high
