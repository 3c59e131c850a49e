"""Local heads that start from public constants, such as temperatures."""

import torch
from torch import nn

from fedemb.protocols import Parameters


class ConstantHead:
    """Gives a task the `fresh_head` of a head in which nothing is random."""

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """The parameters of `head` as it was made, for every client and round alike."""
        del classes, generator
        return {name: p.detach().clone() for name, p in head.named_parameters()}
