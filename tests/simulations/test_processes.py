"""Promises of worker specifications and of the process runner."""

import os
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_worker import TinyTask, a_round, same, specification, ten_rounds

from fedemb.cohort import Cohort
from fedemb.errors import UserError
from fedemb.randomness import RootKey
from simulations.processes import ProcessRunner
from simulations.worker import (
    WorkerFailed,
    WorkerSpecification,
    arrays_of,
    deal,
)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@given(
    clients=st.integers(0, 40),
    workers=st.integers(1, 9),
    unit=st.integers(1, 7),
    data=st.data(),
)
def test_dealing_keeps_every_client_once_in_order_and_cuts_no_chunk(
    clients, workers, unit, data
):
    sizes = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=clients, max_size=clients)),
        dtype=np.int64,
    )
    users = np.arange(sizes.sum())
    cohort = Cohort(np.arange(clients), users, sizes)
    parts = deal(cohort, workers, unit)
    assert len(parts) <= workers
    for name in ("ids", "users", "sizes"):
        joined = [x for part in parts for x in getattr(part, name)]
        np.testing.assert_array_equal(joined, getattr(cohort, name))
    assert all(len(part) % unit == 0 for part in parts[:-1])
    chunks = [-(-len(part) // unit) for part in parts]
    assert max(chunks, default=1) <= -(-clients // unit) // workers + 1


class TestSpecification:
    def test_what_is_built_from_json_is_the_same(self):
        one = specification(engine="vectorized", chunk=4, users=30)
        two = WorkerSpecification.from_json(one.to_json())
        assert one.digest == two.digest
        assert same(one.build().train(*a_round()), two.build().train(*a_round()))
        assert two.build().engine == one.engine

    def test_a_worker_uses_one_thread_whatever_was_chosen_elsewhere(self):
        assert specification().build().engine.threads == 1

    def test_state_reaches_parameters_that_the_round_does_not(self):
        module = TinyTask().make_backbone()
        torch.nn.init.constant_(module[0].weight, 0.25)
        plain = specification()
        stated = WorkerSpecification(
            factory=plain.factory,
            arguments={},
            client_key=plain.client_key,
            state=arrays_of(module.state_dict()),
        )
        assert stated.digest != plain.digest
        assert torch.equal(stated.build().backbone[0].weight, module[0].weight)

    def test_mistakes_are_told(self):
        key = RootKey.from_seed(0)
        with pytest.raises(UserError, match="module:function"):
            WorkerSpecification(factory="nothing", arguments={}, client_key=key)
        with pytest.raises(UserError, match="must be JSON"):
            WorkerSpecification(factory="a:b", arguments={"x": {1}}, client_key=key)
        absent = WorkerSpecification(
            factory="no.such:thing", arguments={}, client_key=key
        )
        with pytest.raises(UserError, match=r"cannot import 'no.such:thing'"):
            absent.build()
        wrong = {"nobody.weight": np.zeros(3, np.float32)}
        spec = specification()
        other = WorkerSpecification(
            factory=spec.factory, arguments={}, client_key=key, state=wrong
        )
        with pytest.raises(UserError, match=r"nobody.weight"):
            other.build()


class TestProcessRunner:
    def test_two_workers_give_the_inline_sum_bit_for_bit_and_leave_nothing(self):
        spec = specification("vectorized")
        before = descriptors()
        with ProcessRunner(spec.build, workers=2, unit=spec.engine.chunk) as runner:
            for t in (0, 1):
                theta, cohort, lattice, _ = a_round()
                result = runner.train(theta, cohort, lattice, t)
                expected = spec.build().train(theta, cohort, lattice, t)
                assert same(result, expected)
                assert expected.total.any()
        assert descriptors() <= before + 2  # the resource tracker's pipe stays
        assert not active_children()

    def test_a_killed_worker_changes_nothing_and_a_second_death_is_an_error(
        self, tmp_path
    ):
        trap = tmp_path / "trap"
        expected = specification().build().train(*a_round())
        with ProcessRunner(specification(trap=str(trap)).build, workers=2) as runner:
            trap.write_text("die once")
            assert same(runner.train(*a_round()), expected)
            assert not trap.exists()
            idle = active_children()[0]
            idle.kill()
            idle.join(5)
            assert same(runner.train(*a_round()), expected)
            trap.write_text("die always")
            with pytest.raises(WorkerFailed, match=r"died twice .*exit code -9"):
                runner.train(*a_round())
            assert not active_children()
            trap.write_text("raise")
            with pytest.raises(WorkerFailed, match="OSError: the disk is on fire"):
                runner.train(*a_round())

    def test_workers_do_not_outlive_a_killed_parent(self):
        code = (
            "import os, signal\n"
            "from multiprocessing import active_children\n"
            "from simulations.processes import ProcessRunner\n"
            "from tiny_worker import specification\n"
            "if __name__ == '__main__':\n"
            "    runner = ProcessRunner(specification().build, workers=1)\n"
            "    print(active_children()[0].pid, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        parent = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=found
        )
        worker = int(parent.stdout)
        deadline = time.monotonic() + 60
        while alive(worker):
            assert time.monotonic() < deadline, f"{worker} is an orphan"
            time.sleep(0.1)

    def test_mistakes_are_told(self):
        with pytest.raises(UserError, match="workers=0"):
            ProcessRunner(specification().build, workers=0)


@pytest.mark.slow
def test_a_worker_killed_in_each_of_ten_rounds_changes_nothing(tmp_path):
    trap = tmp_path / "trap"
    expected = ten_rounds(specification().build())
    with ProcessRunner(specification(trap=str(trap)).build, workers=2) as runner:
        found = ten_rounds(runner, lambda: trap.write_text("die once"))
    assert not trap.exists()
    assert found.round_index == 10
    assert torch.equal(found.backbone, expected.backbone)
