"""A federation on this machine: a SuperLink and two SuperNodes, a process each."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def federation(folder, nodes=2):
    """Yields `run(training, arguments)`, which hands a run to the federation.

    The processes write their logs to `folder` and are gone after the block.
    """
    port, *node_ports = free_ports(1 + nodes)
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder / "flwr"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    (folder / "flwr").mkdir()
    connection = f'[superlink.loop]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (folder / "flwr" / "config.toml").write_text(connection)

    def run(training, arguments):
        written = folder / "run.toml"
        written.write_text(
            f"training = '{training}'\narguments = '{json.dumps(arguments)}'\n"
            f"workers = {nodes}\n"
        )
        app = ROOT / "simulations" / "flower" / "app"
        command = ["flwr", "run", str(app), "loop", "--run-config", str(written)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    here = ["--insecure", "--host", "127.0.0.1", "--port"]
    link = ["flower-superlink", "--disable-runtime-dependency-installation", *here]
    node = ["flower-supernode", "--superlink", f"127.0.0.1:{port}", *here]
    with ExitStack() as running:
        start(running, [*link, str(port)], environment, folder / "superlink.log")
        wait_until(lambda: listens(port), 60, folder)
        for i, own in enumerate(node_ports):
            start(
                running, [*node, str(own)], environment, folder / f"supernode-{i}.log"
            )
        yield run


def free_ports(count):
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def start(running, command, environment, log):
    """Start a process in a group of its own, which is killed in the end."""
    file = running.enter_context(log.open("wb"))
    process = subprocess.Popen(
        command, env=environment, stdout=file, stderr=file, start_new_session=True
    )

    def stop():
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    running.callback(stop)


def wait_until(condition, seconds, logs):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            told = "\n".join(p.read_text()[-3000:] for p in sorted(logs.glob("*.log")))
            pytest.fail(f"waited {seconds} seconds in vain:\n{told}")
        time.sleep(0.1)
