"""Whole processes: start-up, evaluation, Flower's workers, pfl."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.engines import chosen, round_of, start
from benchmarks.pfl_loop import interpreter, pfl_rounds
from benchmarks.table import Row, interleave, tree_memory
from benchmarks.workloads import WORKLOADS
from fedemb.randomness import RootKey
from fedemb.round import privatize
from fedemb.runner import EngineChoice, InlineRunner
from simulations.worker import WorkerSpecification

FORBIDDEN = ("torch._dynamo", "flwr", "ray")


def first_round(repeat: int) -> Iterator[Row]:
    """From the command to the first reservation in the run's ledger."""
    seconds, used = [], []
    for _ in range(max(2, repeat)):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            wall, processor = _until_first_round(out)
        seconds.append(wall)
        used.append(processor)
    imported = _imports()
    yield Row(
        "from `fedemb simulate` to the first round",
        6.0,
        median(seconds),
        "s",
        f"{median(used):.1f} processor seconds; imports of "
        f"{', '.join(FORBIDDEN)}: {', '.join(imported) or 'none'}",
    )


def _until_first_round(out: Path) -> tuple[float, float]:
    command = [
        *(sys.executable, "-m", "fedemb", "simulate", "--dataset", "synthetic"),
        *("--epsilon", "2", "--users", "1000000", "--out", str(out)),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _reserved(out / "ledger.sqlite"):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended early")
            time.sleep(0.02)
        wall = time.perf_counter() - started
        with open(f"/proc/{process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return wall, ticks / os.sysconf("SC_CLK_TCK")


def _reserved(ledger: Path) -> bool:
    if not ledger.exists():
        return False
    try:
        connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        try:
            return bool(connection.execute("SELECT count(*) FROM tally").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:
        return False


def _imports() -> list[str]:
    """Which of the slow packages a short run imports."""
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "import sys; from fedemb.cli.main import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"found = [n for n in {FORBIDDEN} if n in sys.modules]\n"
            "print(*found, file=sys.stderr)"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-c", code, "simulate", "--dataset", "synthetic"),
                *("--users", "200", "--epsilon", "8", "--rounds", "1"),
                *("--out", str(Path(folder) / "run"), "--json"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stderr.splitlines()[-1].split()


def evaluation(repeat: int) -> Iterator[Row]:
    """Recall at a false accept rate over all pairs, and recall@1, in a process."""
    del repeat
    code = (
        "import resource, time, torch\n"
        "from fedemb.metrics import identity_metrics\n"
        "torch.set_num_threads(2)\n"
        "n = 50_000\n"
        "e = torch.nn.functional.normalize(torch.randn(n, 128), dim=1)\n"
        "y = torch.randint(0, 5_000, (n,))\n"
        "s = time.perf_counter(); identity_metrics(e, y)\n"
        "u = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(time.perf_counter() - s, u.ru_maxrss, u.ru_utime + u.ru_stime)"
    )
    environment = dict(os.environ, OMP_NUM_THREADS="2")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seconds, kilobytes, used = map(float, done.stdout.split())
    yield Row(
        "evaluating 50,000 embeddings",
        30.0,
        seconds,
        "s",
        f"1.25e9 pairs, exact; {used:.0f} processor seconds, imports included",
    )
    yield Row("memory of that", 2.0, kilobytes / 2**20, "GiB")


def worker(client_key: RootKey, *, name: str) -> InlineRunner:
    """A worker's runner on a workload."""
    return replace(WORKLOADS[name].runner(EngineChoice()), key=client_key)


def flower(repeat: int) -> Iterator[Row]:
    """Flower's runner over the inline one, two workers each."""
    try:
        from simulations.flower.simulation import flower_simulation
    except ImportError:
        yield Row("Flower runner over inline", 0.15, None, "s", "Flower is missing")
        return
    workload = WORKLOADS["W2"]
    engine = EngineChoice(name="stacked", chunk=4, threads=2)
    inline = workload.runner(engine)
    theta, lattice = start(inline)
    specification = WorkerSpecification(
        factory="benchmarks.whole:worker",
        arguments={"name": "W2"},
        client_key=inline.key,
        engine=engine,
    )
    started = time.perf_counter()
    with flower_simulation(specification, 2) as runner:
        first = runner.train(theta, workload.cohort(), lattice, 0)
        ready = time.perf_counter() - started
        times = interleave(
            {
                "inline": round_of(workload, inline),
                "flower": lambda: runner.train(theta, workload.cohort(), lattice, 0),
            },
            4 * repeat,
        )
        memory = tree_memory()
    same = torch.equal(
        first.total, inline.train(theta, workload.cohort(), lattice, 0).total
    )
    more = [
        a - b for a, b in zip(times.wall["flower"], times.wall["inline"], strict=True)
    ]
    yield Row(
        "Flower runner over inline, two workers, W2",
        0.15,
        median(more),
        "s a round",
        f"first reply after {ready:.0f} s; {'the same' if same else 'ANOTHER'} sum",
    )
    yield Row("memory of all its processes", 2.5, memory / 1e9, "GB")


def pfl(name: str, repeat: int) -> Iterator[Row]:
    """A whole round of ours against one of pfl, in turn: clients, sum and noise."""
    what, target = f"{name} against pfl with 2 processes", {"W1": 1.0, "W2": 0.55}[name]
    python = interpreter()
    if python is None:
        yield Row(what, target, None, note="pfl is not installed; PFL_PYTHON?")
        return
    workload = WORKLOADS[name]
    runner = chosen(workload)
    theta, lattice = start(runner)

    def ours() -> None:
        total = runner.train(theta, workload.cohort(), lattice, 0).total
        privatize(total, 1.0, lattice, runner.key, 0)

    with pfl_rounds(python, name) as theirs:
        times = interleave({"pfl": theirs, "ours": ours}, repeat)
    yield Row(
        what,
        target,
        times.ratio("ours", "pfl"),
        note=f"{times.median('ours'):.4f} s against {times.median('pfl'):.4f} s "
        f"({times.processor_median('ours'):.3f} and "
        f"{times.processor_median('pfl'):.3f} processor seconds); "
        f"{runner.engine.name}, {runner.engine.chunk} at a time; pfl: SimulatedBackend "
        "of federated averaging with the central Gaussian mechanism, torchrun",
    )
