"""The constants of focal losses; importing this imports no torch."""

from dataclasses import dataclass

from fedemb.errors import UserError


@dataclass(frozen=True)
class Focal:
    """How little easy and negative examples count (Lin et al. 2017, arXiv:1708.02002).

    Attributes:
        alpha: weight of positives, 1 - alpha of negatives; None weighs all alike.
        gamma: how little easy examples count; 0 is plain cross-entropy.

    Raises:
        UserError: for numbers out of range.
    """

    alpha: float | None = 0.3
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise UserError(
                f"alpha={self.alpha} must be between 0 and 1: the share of weight that "
                "positives have; 0.5 weighs them like negatives."
            )
        if not 0 <= self.gamma < float("inf"):
            raise UserError(
                f"gamma={self.gamma} must be 0 or more; 0 is plain cross-entropy."
            )
