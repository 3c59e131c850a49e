"""Checks of public numbers: each error names the value, the rule and the way out."""

import math


def finite_at_least(name: str, value: float, lowest: float, hint: str = "") -> None:
    """Raise ValueError unless `lowest <= value < infinity`."""
    if not lowest <= value < math.inf:
        raise ValueError(
            f"{name}={value} must be finite and at least {lowest:g}.{_hint(hint)}"
        )


def positive(name: str, value: float, hint: str = "") -> None:
    """Raise ValueError unless `0 < value < infinity`."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be positive and finite.{_hint(hint)}")


def whole_at_least(name: str, value: float, lowest: int, hint: str = "") -> None:
    """Raise ValueError unless `value` is a whole number, at least `lowest`."""
    if not (math.isfinite(value) and value == int(value) and value >= lowest):
        raise ValueError(
            f"{name}={value} must be a whole number, at least {lowest}.{_hint(hint)}"
        )


def probability(name: str, value: float, hint: str = "") -> None:
    """Raise ValueError unless `0 <= value <= 1`."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must be in [0, 1].{_hint(hint)}")


def open_probability(name: str, value: float, hint: str = "") -> None:
    """Raise ValueError unless `0 < value < 1`."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} must lie strictly in (0, 1).{_hint(hint)}")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}.")


def _hint(hint: str) -> str:
    return f" {hint}" if hint else ""
