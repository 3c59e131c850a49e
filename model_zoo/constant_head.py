"""Local heads that start from public constants, such as temperatures."""

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from fedemb.protocols import Parameters

COLDEST = 0.01
"""No contrast gets colder, or training becomes unstable (Radford et al. 2021, CLIP)."""


class ConstantHead:
    """Gives a task the `fresh_head` of a head in which nothing is random."""

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """The parameters of `head` as it was made, for every client and round alike."""
        del classes, generator
        return {name: p.detach().clone() for name, p in head.named_parameters()}


class Temperature(nn.Module):
    """The temperature of a contrast; it returns the inverse, at most 100.

    Example:
        >>> round(Temperature(0.05)().item(), 4)
        20.0
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_inverse = nn.Parameter(-torch.tensor(initial).log())

    def forward(self) -> Tensor:
        """What multiplies the cosines."""
        return self.log_inverse.exp().clamp(max=1 / COLDEST)


def check_temperature(initial: float) -> None:
    """Refuse a temperature that cannot be trained.

    Raises:
        UserError: if it is below `COLDEST`, or no number.
    """
    if not COLDEST <= initial < float("inf"):
        raise UserError(f"temperature={initial} must be at least {COLDEST} and finite.")
