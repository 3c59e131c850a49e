"""What a worker has to know, and how a round's virtual clients are dealt to workers.

A worker is a process that trains virtual clients and returns one exact sum: a spawned
process of this machine, an actor of Flower's simulation or a Flower SuperNode. Any of
them is described by a `WorkerSpecification`, which says where the same data, model and
recipe come from rather than carrying them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedemb.cohort import Cohort
from fedemb.errors import FedembError, UserError
from fedemb.memory import keep_freed_memory
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner


class WorkerFailed(FedembError):
    """A worker raised an error, or was lost and so was its replacement."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpecification:
    """How a worker builds its `InlineRunner`.

    The key is that of the clients' local randomness and nothing else. A worker that
    knew the key of the noise could subtract it, so `RootKey.derive("clients", ...)`
    goes in here, never the run's own key.

    Attributes:
        factory: `module:function`, importable on the worker; called as
            `function(client_key, **arguments)`, it returns an `InlineRunner`. It must
            build the same thing everywhere.
        arguments: what JSON can hold.
        client_key: root of the clients' local randomness.
        engine: how virtual clients are computed; a worker uses one thread.
        state: values of backbone parameters and buffers by name, where the factory
            alone would not give them (pre-trained, or left by an earlier stage).
            Trained parameters among them do not matter: they arrive with every round.
        head: public constants that heads start from, by name.

    Raises:
        UserError: if the factory is not of the form `module:function`, or the arguments
            are not JSON.

    Example:
        >>> specification = WorkerSpecification(
        ...     factory="simulations.assembly:worker_runner",
        ...     arguments={"stage": 0},
        ...     client_key=RootKey.from_seed(0),
        ... )
        >>> again = WorkerSpecification.from_json(specification.to_json())
        >>> again.arguments, again.digest == specification.digest
        ({'stage': 0}, True)
    """

    factory: str
    arguments: Mapping[str, Any]
    client_key: RootKey = field(repr=False)
    engine: EngineChoice = EngineChoice()
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    head: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _split(self.factory)
        try:
            json.dumps(dict(self.arguments), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the arguments of worker factory {self.factory} must be JSON: {error}."
            ) from error

    def build(self) -> InlineRunner:
        """The runner of a worker, on one thread.

        Raises:
            UserError: if the factory cannot be imported; and whatever it raises.
        """
        keep_freed_memory()
        runner = resolve(self.factory)(self.client_key, **self.arguments)
        if not isinstance(runner, InlineRunner):
            raise UserError(
                f"worker factory {self.factory} returned {type(runner).__name__}; it "
                "must return an InlineRunner."
            )
        strangers = runner.backbone.load_state_dict(
            _tensors(self.state), strict=False
        ).unexpected_keys
        if strangers:
            raise UserError(
                f"the backbone of {self.factory} has no {', '.join(strangers)}; its "
                "state was taken from another model."
            )
        runner = replace(runner, public_head=_tensors(self.head))
        return runner.with_engine(replace(self.engine, threads=1))

    def to_json(self) -> str:
        """All but the arrays of `state` and `head`. Contains the clients' key."""
        record = {
            "factory": self.factory,
            "arguments": dict(self.arguments),
            "client_key": self.client_key.secret.hex(),
            "seeded": self.client_key.seeded,
            "engine": [self.engine.name, self.engine.chunk, self.engine.recorded],
        }
        return json.dumps(record, sort_keys=True)

    @staticmethod
    def from_json(
        text: str,
        state: Mapping[str, NDArray[Any]] | None = None,
        head: Mapping[str, NDArray[Any]] | None = None,
    ) -> "WorkerSpecification":
        """The inverse of `to_json`."""
        record = json.loads(text)
        name, chunk, recorded = record["engine"]
        return WorkerSpecification(
            factory=record["factory"],
            arguments=record["arguments"],
            client_key=RootKey(bytes.fromhex(record["client_key"]), record["seeded"]),
            engine=EngineChoice(name=name, chunk=chunk, recorded=recorded),
            state=state or {},
            head=head or {},
        )

    @cached_property
    def digest(self) -> str:
        """Names this specification; equal digests build equal runners."""
        hashed = hashlib.blake2b(self.to_json().encode(), digest_size=16)
        for part, arrays in (("state", self.state), ("head", self.head)):
            for name in sorted(arrays):
                values = np.ascontiguousarray(arrays[name])
                hashed.update(f"{part} {name} {values.dtype} {values.shape} ".encode())
                hashed.update(values.tobytes())
        return hashed.hexdigest()


def arrays_of(values: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """Copies of tensors by name, for `state` and `head`."""
    return {name: value.detach().cpu().numpy().copy() for name, value in values.items()}


def resolve(reference: str) -> Callable[..., Any]:
    """Import `module:function`.

    Raises:
        UserError: if the reference is malformed or names nothing on this machine.
    """
    module, function = _split(reference)
    try:
        found: Callable[..., Any] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot import {reference!r}: {error}; every worker needs the packages of "
            "the machine that started the run."
        ) from error
    return found


def deal(cohort: Cohort, workers: int, unit: int = 1) -> list[Cohort]:
    """Cut a cohort into at most `workers` contiguous, non-empty parts of equal length.

    With `unit`, every part but the last is a multiple of that many virtual clients: a
    chunk that an engine trains together is then never cut, and the floating-point
    result of every virtual client does not depend on the number of workers either.

    Example:
        >>> ids = np.arange(5)
        >>> [len(part) for part in deal(Cohort(ids, ids, np.ones_like(ids)), 2, unit=2)]
        [4, 1]
    """
    chunks = -(-len(cohort) // unit)
    ends = [-(-chunks * i // workers) * unit for i in range(workers + 1)]
    parts = [cohort.part(a, b) for a, b in zip(ends, ends[1:], strict=False) if a < b]
    return [part for part in parts if len(part)]


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}


def _split(reference: str) -> tuple[str, str]:
    module, _, function = reference.partition(":")
    if not module or not function.isidentifier():
        raise UserError(f"{reference!r} must have the form 'module:function'.")
    return module, function
