"""Which runner trains the virtual clients: this process, other processes, or Flower."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from torch import nn

from fedemb.cores import usable_cores
from fedemb.errors import NotAvailable, UserError
from fedemb.persistent_heads import PersistentHeads
from fedemb.protocols import Parameters
from fedemb.randomness import RootKey
from fedemb.round import ClientRunner
from fedemb.runner import EngineChoice
from simulations.assembly import Assembly, client_key, inline_runner
from simulations.kept_heads import NOT_SHARED
from simulations.processes import ProcessRunner
from simulations.worker import WorkerSpecification, arrays_of

Result = TypeVar("Result")
Connect: TypeAlias = Callable[[WorkerSpecification], ClientRunner]
"""Makes a runner on workers that are there already, such as SuperNodes."""


def with_runner(
    assembly: Assembly,
    stage: int,
    backbone: nn.Module,
    key: RootKey,
    engine: EngineChoice,
    go: Callable[[ClientRunner], Result],
    connect: Connect | None = None,
    head: Parameters | None = None,
    kept_heads: PersistentHeads | None = None,
) -> Result:
    """Call `go` with the configured runner, and tidy up after it.

    All runners return the same exact sums for equal deltas. `connect` takes the place
    of the configured runner where the workers are there already. `head` is what public
    heads start from, `kept_heads` those that persist.

    Raises:
        NotAvailable: if Flower is asked for and not installed.
        UserError: if heads persist and workers may be on other machines.
    """
    kind = assembly.configuration.run.runner
    if connect is None and kind == "inline":
        own = client_key(key, stage)
        return go(
            inline_runner(assembly, stage, backbone, own, engine, head, kept_heads)
        )
    described = specification(assembly, stage, backbone, key, engine, head, kept_heads)
    if connect is not None:
        if kept_heads is not None:
            raise UserError(NOT_SHARED)
        return go(connect(described))
    if kind == "processes":
        with ProcessRunner(described.build, workers(assembly), engine.chunk) as runner:
            return go(runner)
    try:
        from simulations.flower.simulation import run_in_flower
    except ImportError as error:
        raise NotAvailable(
            "--runner flower needs Flower: pip install 'fedemb[flower]'."
        ) from error
    return run_in_flower(go, described, workers(assembly))


def specification(
    assembly: Assembly,
    stage: int,
    backbone: nn.Module,
    key: RootKey,
    engine: EngineChoice,
    head: Parameters | None = None,
    kept_heads: PersistentHeads | None = None,
) -> WorkerSpecification:
    """How workers elsewhere build their runners."""
    configuration = assembly.configuration
    kept = {} if kept_heads is None else {"heads": str(kept_heads.path.resolve())}
    fresh = stage == 0 and configuration.model.pretrained == "none"
    return WorkerSpecification(
        factory="simulations.assembly:worker_runner",
        arguments={"configuration": configuration.to_toml(), "stage": stage} | kept,
        client_key=client_key(key, stage),
        engine=engine,
        state={} if fresh else arrays_of(backbone.state_dict()),
        head=arrays_of(head or {}),
    )


def workers(assembly: Assembly) -> int:
    """Processes or Flower nodes: as configured, or one per core."""
    return assembly.configuration.run.workers or usable_cores()
