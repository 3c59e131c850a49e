"""Which runner trains the virtual clients."""

import os
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from fedemb.randomness import RootKey
from fedemb.round import ClientRunner
from fedemb.runner import EngineChoice
from simulations.assembly import Assembly, inline_runner

Result = TypeVar("Result")


def with_runner(
    assembly: Assembly,
    stage: int,
    backbone: nn.Module,
    key: RootKey,
    engine: EngineChoice,
    go: Callable[[ClientRunner], Result],
) -> Result:
    """Call `go` with the configured runner, and tidy up after it.

    All runners return the same exact sums for equal deltas.
    """
    kind = assembly.configuration.run.runner
    if kind == "inline":
        return go(inline_runner(assembly, stage, backbone, key, engine))
    raise NotImplementedError(kind)


def workers(assembly: Assembly) -> int:
    """Processes or Flower nodes: as configured, or one per core."""
    return assembly.configuration.run.workers or os.cpu_count() or 1
