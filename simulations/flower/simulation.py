"""Flower's simulation engine with workers as nodes, on this machine.

Flower's engine wants to call us. Here it does so in a thread of its own, which hands
out its `Grid` and waits: the caller keeps its thread, and with it Ctrl-C, its progress
bar and its database connections.
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedemb.errors import NotAvailable, UserError
from simulations.flower.client import client_app
from simulations.flower.runner import FlowerRunner, Patience
from simulations.worker import WorkerFailed, WorkerSpecification

T = TypeVar("T")
_OBJECT_STORE = 256 * 2**20  # bytes; Ray takes a third of the memory if it may


def run_in_flower(
    train_with: Callable[[FlowerRunner], T],
    specification: WorkerSpecification,
    workers: int,
    patience: Patience | None = None,
) -> T:
    """Call `train_with` with a runner on simulated nodes; returns or raises as it does.

    Raises:
        WorkerFailed: if the simulation engine cannot start or breaks down.
    """
    with flower_simulation(specification, workers, patience) as runner:
        return train_with(runner)


@contextmanager
def flower_simulation(
    specification: WorkerSpecification, workers: int, patience: Patience | None = None
) -> Iterator[FlowerRunner]:
    """A simulated federation of `workers` nodes, one process each, while in the block.

    Ray listens on the loopback interface only, without dashboard or usage statistics.
    Worker processes that die are started again.

    Raises:
        UserError: if there is no worker.
        NotAvailable: if Ray is not installed.
        WorkerFailed: if the simulation engine cannot start or breaks down.
    """
    if workers < 1:
        raise UserError(f"workers={workers} must be at least 1.")
    with _ray(workers):
        yield from _federation(specification, workers, patience)


def _federation(
    specification: WorkerSpecification, workers: int, patience: Patience | None
) -> Iterator[FlowerRunner]:
    engine = _Engine(workers)
    thread = threading.Thread(target=engine.run, name="flower-simulation")
    thread.start()
    try:
        engine.ready.wait()
        engine.check()
        yield FlowerRunner(engine.grid, specification, workers, patience, engine.check)
    finally:
        # Ray prints, on the standard output, that actors told to leave have left.
        with redirect_stdout(io.StringIO()):
            engine.finished.set()
            thread.join()


@dataclass
class _Engine:
    """The simulation, run in its own thread until `finished`."""

    workers: int
    ready: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    grid: Grid = field(init=False)

    def run(self) -> None:
        """Start the engine and stay until it ends."""
        server = ServerApp()

        def lend(grid: Grid, context: Context) -> None:
            self.grid = grid
            self.ready.set()
            self.finished.wait()

        server.main()(lend)
        try:
            with _quiet("flwr", logging.CRITICAL), _quiet("ray", logging.ERROR):
                run_simulation(
                    server_app=server,
                    client_app=client_app,
                    num_supernodes=self.workers,
                    backend_config={"client_resources": _actor(self.workers)},
                )
        except BaseException as error:  # handed to the caller's thread by `check`
            self.error = error
        finally:
            if not self.finished.is_set() and self.error is None:
                self.error = RuntimeError("the engine stopped by itself")
            self.finished.set()
            self.ready.set()

    def check(self) -> None:
        """Raise if the engine has broken down."""
        if self.error is not None:
            raise WorkerFailed(
                f"Flower's simulation engine stopped: {self.error}; --runner inline "
                "does without it."
            ) from self.error


@contextmanager
def _quiet(logger: str, level: int) -> Iterator[None]:
    """Failures reach people through `FlowerRunner`, in words of their own."""
    chatter = logging.getLogger(logger)
    before = chatter.level
    chatter.setLevel(level)
    try:
        yield
    finally:
        chatter.setLevel(before)


def _actor(workers: int) -> dict[str, str | int | float | bool]:
    """What Flower hands to Ray as options of its actors.

    A killed actor starts again; a call that meets it dead or starting waits for it,
    once. Graphics cards are shared out evenly: Ray shows each actor its own card only,
    and none to an actor that asked for none.
    """
    return {
        "num_cpus": 1,
        "num_gpus": float(min(1, torch.cuda.device_count() / workers)),
        "max_restarts": -1,
        "max_task_retries": 1,
    }


@contextmanager
def _ray(workers: int) -> Iterator[None]:
    """Ray, started here rather than by Flower, which would not keep it to this machine.

    Ray asks the metadata services of three clouds where it is, statistics or not. A
    proxy that does not exist keeps these questions, and whatever else its processes
    might ask over plain HTTP, on the loopback interface.
    """
    try:
        import ray
    except ImportError as error:
        raise NotAvailable(
            "Flower's simulation engine needs Ray, which is not installed: "
            "pip install 'fedemb[flower]', or use --runner processes."
        ) from error
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "http_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1,localhost",
    }
    try:
        with _quiet("ray", logging.ERROR), _environment(settings):
            ray.init(
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        raise WorkerFailed(f"Ray could not start: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
