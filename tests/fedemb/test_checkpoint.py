"""A checkpoint is the old state or the new one, whole, and commits come after it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from threading import Event

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedemb import checkpoint
from fedemb.checkpoint import Checkpointer, read_state, write_atomically, write_state
from fedemb.errors import UserError
from fedemb.server import ServerState


def state(t=3, value=0.5):
    moments = (torch.full((4,), -value), torch.arange(4.0))
    return ServerState(t, torch.full((4,), value), moments, 0.1 + 0.2)


def same(one, two):
    return (
        (one.round_index, one.clip_norm) == (two.round_index, two.clip_norm)
        and torch.equal(one.backbone, two.backbone)
        and all(map(torch.equal, one.moments, two.moments))
    )


def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path):
    path = tmp_path / "state.safetensors"
    write_state(path, state(), {"run": "a"})
    found, extra = read_state(path)
    assert same(found, state())
    assert extra == {"run": "a"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@given(st.data())
def test_truncated_files_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "state"
    write_state(path, state())
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(UserError, match="state"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", bytes(500)])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(UserError, match="checkpoint"):
        read_state(path)
    assert path.read_bytes() == content


def test_other_tensors_and_missing_files_are_refused(tmp_path):
    save_file({"backbone": torch.zeros(3)}, tmp_path / "weights")
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        read_state(tmp_path / "weights")
    with pytest.raises(UserError, match="cannot be read"):
        read_state(tmp_path / "nothing")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from fedemb.checkpoint import write_atomically
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    write_atomically(Path(sys.argv[1]), b"new")
"""


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(checkpoint.__file__).parents[1]),
    }
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "not bytes")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(OSError, match="missing"):
        write_atomically(tmp_path / "missing" / "file", b"new")


def test_rounds_commit_after_a_state_that_covers_them_is_durable(tmp_path):
    path, committed = tmp_path / "state", []
    writer = Checkpointer(path)
    for t in range(1, 30):

        def commit(t=t):
            durable, _ = read_state(path)
            assert durable.round_index >= t
            committed.append(t)

        writer(state(t), commit)
    writer.flush()
    assert committed == list(range(1, 30))
    assert read_state(path)[0].round_index == 29
    writer.close()


def test_states_that_are_overtaken_commit_with_the_newer_one(tmp_path):
    path, go, order = tmp_path / "state", Event(), []
    writer = Checkpointer(path)
    writer(state(1), lambda: go.wait(10))
    for t in (2, 3):
        writer(state(t), lambda t=t: order.append((t, read_state(path)[0].round_index)))
    go.set()
    writer.close()
    assert order in ([(2, 3), (3, 3)], [(2, 2), (3, 3)])


def test_an_error_in_the_background_stops_the_next_round(tmp_path):
    committed = []
    writer = Checkpointer(tmp_path / "missing" / "state")
    writer(state(1), lambda: committed.append(1))
    with pytest.raises(FileNotFoundError):
        writer.flush()
    with pytest.raises(FileNotFoundError):
        writer(state(2), lambda: committed.append(2))
    with pytest.raises(FileNotFoundError):
        writer.close()
    assert committed == []
