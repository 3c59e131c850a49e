"""Checks with messages that name the value, the rule and the way out."""

import math


def positive(name: str, value: float) -> None:
    """Raise unless 0 < value < infinity."""
    if not (0 < value < math.inf):
        raise ValueError(f"{name}={value} must be positive and finite.")


def non_negative(name: str, value: float) -> None:
    """Raise unless 0 <= value < infinity."""
    if not (0 <= value < math.inf):
        raise ValueError(f"{name}={value} must be finite and not negative.")


def probability(name: str, value: float) -> None:
    """Raise unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must be in [0, 1].")


def delta(value: float) -> None:
    """Raise unless 0 < delta < 1."""
    if not 0 < value < 1:
        raise ValueError(
            f"delta={value} must lie strictly between 0 and 1; a common choice is "
            "population ** -1.1."
        )


def at_least(name: str, value: int, least: int) -> None:
    """Raise unless value >= least."""
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}.")
