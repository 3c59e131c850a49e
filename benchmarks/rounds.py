"""What a round costs besides training: drawing, lattice, durability, memory, data."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

from accounting import PrivacyLedger
from benchmarks.engines import chosen, start
from benchmarks.table import Row, interleave, resident
from benchmarks.workloads import WORKLOADS
from fedemb.budget import LedgerBudget, Unaccounted
from fedemb.checkpoint import Checkpointer
from fedemb.clipping import LatticeSum
from fedemb.cohort import Cohort, PoissonVirtualClients
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.round import privatize, run_round
from fedemb.runner import InlineRunner
from fedemb.server import ServerAdam, ServerState
from fedemb.work import Work

KEY = RootKey.from_seed(0)


def drawing(repeat: int) -> Iterator[Row]:
    """The cohort of a round from a public id universe of ten million."""
    for u in (1, 4):
        sampler = PoissonVirtualClients(
            population=10**7, users_per_round=2000, users_per_virtual_client=u
        )
        seconds = []
        for round_index in range(20 * repeat):
            started = time.perf_counter()
            sampler.draw(KEY, round_index)
            seconds.append(time.perf_counter() - started)
        yield Row(
            f"drawing and grouping 2,000 of 10^7 users, {u} to a virtual client",
            5.0,
            1e3 * median(seconds),
            "ms",
        )


def lattice(repeat: int) -> Iterator[Row]:
    """Rounding, the int64 sum and noise, as a share of the round they belong to."""
    workload = WORKLOADS["W1"]
    runner = chosen(workload)
    theta, grid = start(runner)
    deltas = torch.randn(1, len(theta)) * 1e-3

    def train() -> None:
        total = runner.train(theta, workload.cohort(), grid, 0).total
        privatize(total, 1.0, grid, KEY, 0)

    def clip() -> None:
        own = LatticeSum(grid, deltas.device)
        for _ in range(workload.clients // runner.engine.threads):
            own.add(deltas.clone())
        own.result()

    def noise() -> None:
        privatize(torch.zeros(len(theta), dtype=torch.int64), 1.0, grid, KEY, 0)

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = interleave({"round": train, "clip": clip, "noise": noise}, repeat)
    torch.set_num_threads(torch_threads)
    share = times.ratio("clip", "round") + times.ratio("noise", "round")
    yield Row(
        "rounding, exact sum and noise in W1",
        0.05,
        share,
        "of the round",
        f"{1e3 * times.median('clip'):.0f} ms on each of {runner.engine.threads} "
        f"threads and {1e3 * times.median('noise'):.0f} ms of noise, of "
        f"{times.median('round'):.2f} s",
    )


def durability(repeat: int) -> Iterator[Row]:
    """Checkpoint and ledger, as a share of a W1 round, on the training thread."""
    workload = WORKLOADS["W1"]
    runner = chosen(workload)
    theta, _ = start(runner)
    plan = _plan(workload.clients, rounds=200)
    optimizer = ServerAdam()
    with tempfile.TemporaryDirectory() as folder:
        ledger = PrivacyLedger.create(
            Path(folder) / "ledger.sqlite",
            population_id="benchmark",
            population=plan.mechanism.population,
            budget_epsilon=None,
            delta=plan.delta,
        )
        budget = LedgerBudget(ledger, plan.mechanism, "run", planned=plan.rounds)
        saver = Checkpointer(Path(folder) / "state")
        counted = _Counted(budget, saver)
        seconds = []
        state = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
        for _ in range(repeat + 1):
            started = time.perf_counter()
            state, _ = run_round(
                state, plan, runner, optimizer, KEY, counted, counted.save
            )
            seconds.append(time.perf_counter() - started)
        saver.close()
        ledger.close()
    # The first reservation also works out whether all planned rounds fit.
    own = counted.seconds[1:]
    yield Row(
        "checkpoint and ledger in W1",
        0.02,
        median(own) / median(seconds[1:]),
        "of the round",
        f"{1e3 * median(own):.1f} ms of {median(seconds[1:]):.2f} s on the training "
        "thread; written by another thread",
    )


@dataclass
class _Counted:
    """Counts the seconds that paying and saving keep a round waiting."""

    budget: LedgerBudget
    saver: Checkpointer
    seconds: list[float] = field(default_factory=list)

    def reserve(self, round_index):
        started = time.perf_counter()
        commit = self.budget.reserve(round_index)
        self.seconds.append(time.perf_counter() - started)
        return commit

    def save(self, state, commit):
        started = time.perf_counter()
        self.saver(state, commit)
        self.seconds[-1] += time.perf_counter() - started


def memory(repeat: int) -> Iterator[Row]:
    """Resident memory from round 20 to round 200, new users in every round."""
    del repeat
    workload = WORKLOADS["W2"]
    runner = chosen(workload)
    theta, _ = start(runner)
    plan = _plan(workload.clients, rounds=200)
    optimizer = ServerAdam()
    with tempfile.TemporaryDirectory() as folder:
        saver = Checkpointer(Path(folder) / "state")
        state = ServerState(0, theta, optimizer.init(theta), plan.clip_norm)
        early = 0
        for round_index in range(plan.rounds):
            state, _ = run_round(
                state, plan, runner, optimizer, KEY, Unaccounted(), saver
            )
            if round_index == 19:
                early = resident()
        late = resident()
        saver.close()
    yield Row(
        "growth of resident memory over 200 rounds",
        0.03,
        max(0.0, late / early - 1),
        "",
        f"{early / 2**20:.0f} MiB after 20 rounds, {late / 2**20:.0f} MiB after 200",
    )


def _plan(clients: int, rounds: int) -> PrivacyPlan:
    """Cohorts of about `clients`, of whom all are in the data."""
    sampler = PoissonVirtualClients(population=clients, users_per_round=clients)
    return PrivacyPlan(
        sampler=sampler, rounds=rounds, clip_norm=1.0, noise_multiplier=1.0, delta=1e-5
    )


@dataclass(frozen=True, kw_only=True)
class Cached(InlineRunner):
    """A runner whose data are there already."""

    works: dict[int, list[Work]] = field(default_factory=dict)

    def _works(self, present: Cohort, chunk: int, round_index: int) -> Iterator[Work]:
        if round_index not in self.works:
            made = super()._works(present, chunk, round_index)
            self.works[round_index] = list(made)
        return iter(self.works[round_index])


def waiting(repeat: int) -> Iterator[Row]:
    """How much faster a round were if its data were there already."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jpegs(root / "jpegs")
        for name, options in [
            ("synthetic", {"users": 20000}),
            ("openclipart", {}),
            (f"folder:{root / 'jpegs'}", {"root": str(root / "data")}),
        ]:
            yield from _waiting(name, options, repeat)


def _waiting(name: str, options: dict[str, object], repeat: int) -> Iterator[Row]:
    from simulations.assembly import (
        assemble,
        client_key,
        inline_runner,
        layered,
        make_backbone,
    )
    from simulations.config import Configuration
    from simulations.training import TYPICAL_ROWS

    if name.startswith("folder:"):
        from simulations.datasets.prepare import prepare

        prepare(name, root=Path(str(options["root"])))
    configuration: Configuration = layered(name, None, None, {"data": options})
    assembly = assemble(configuration)
    backbone = make_backbone(assembly, 0)
    runner = inline_runner(assembly, 0, backbone, client_key(KEY, 0), _one())
    theta, grid = start(runner)
    users = assembly.configuration.privacy.users_per_virtual_client
    choice, _ = choose(runner, theta, TYPICAL_ROWS * users)
    runner = runner.with_engine(choice)
    fields = {
        name: getattr(runner, name)
        for name in InlineRunner.__dataclass_fields__
        if not name.startswith("_")
    }
    cached = Cached(**fields)
    sampler = assembly.promise().plan.sampler
    cohort = sampler.draw(KEY, 0)
    times = interleave(
        {
            "read": lambda: runner.train(theta, cohort, grid, 0),
            "there": lambda: cached.train(theta, cohort, grid, 0),
        },
        repeat,
    )
    label = "prepared JPEG shards" if name.startswith("folder:") else name
    yield Row(
        f"waiting for data, {label}",
        0.20,
        max(0.0, 1 - 1 / times.ratio("read", "there")),
        "of the round",
        f"{len(cohort)} virtual clients, {times.median('read'):.2f} s a round, "
        f"{times.median('there'):.2f} s if the data were there; {choice.name}, "
        f"{choice.chunk} at a time",
    )


def _one():
    from fedemb.runner import EngineChoice

    return EngineChoice()


def choose(runner, theta, rows):
    from fedemb.tuning import choose_engine

    return choose_engine(runner, theta, rows)


def jpegs(folder: Path, users: int = 400, own: int = 16, side: int = 64) -> None:
    """A data set of JPEG files: coloured noise, smoothed, of 40 classes."""
    import csv

    from PIL import Image

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "user_id", "label"])
        for user in range(users):
            for i in range(own):
                small = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                picture = Image.fromarray(small).resize((side, side))
                name = f"{user:04}_{i:02}.jpg"
                picture.save(folder / name, quality=90)
                writer.writerow([name, f"u{user}", f"c{(user + i) % 40}"])
