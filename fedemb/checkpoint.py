"""Durable server state: written whole or not at all, off the training thread.

A state file is written to a temporary name, synchronised, and renamed over the old one,
so that a kill at any moment leaves the last complete state. Writing happens in the
background; the round is committed to the ledger once its state is durable. Until then
the round counts as spent, so a crash costs budget at worst, never privacy.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread

from safetensors import safe_open
from safetensors.torch import save

from fedemb.errors import UserError
from fedemb.server import ServerState

_FORMAT = "fedemb-server-state-1"


def write_state(
    path: Path, state: ServerState, extra: dict[str, str] | None = None
) -> None:
    """Write `state` to `path`, atomically and durably.

    Args:
        path: the file; its folder must exist.
        state: what to write.
        extra: strings to keep beside it.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    tensors = {"backbone": state.backbone.contiguous()}
    tensors |= {f"moment.{i}": m.contiguous() for i, m in enumerate(state.moments)}
    facts = {"round_index": state.round_index, "clip_norm": state.clip_norm}
    metadata = {"format": _FORMAT, "state": json.dumps(facts)} | (extra or {})
    write_atomically(path, save(tensors, metadata))


def read_state(path: Path) -> tuple[ServerState, dict[str, str]]:
    """The state in `path` and the strings kept beside it.

    Raises:
        UserError: if the file is missing, truncated or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    except Exception as error:  # the reader raises a class of its own for broken files
        raise UserError(f"{path} is not a complete checkpoint: {error}") from error
    if metadata.pop("format", None) != _FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program ({_FORMAT}).")
    facts = json.loads(metadata.pop("state"))
    moments = (tensors[f"moment.{i}"] for i in range(len(tensors) - 1))
    state = ServerState(
        facts["round_index"], tensors["backbone"], tuple(moments), facts["clip_norm"]
    )
    return state, metadata


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a crash leaves the old or the new, whole.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old file
        stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Checkpointer:
    """Writes the newest state in the background and commits the rounds it covers.

    States that are overtaken before their turn are never written; their rounds commit
    with the newer state. An error in the background is raised at the next call.
    """

    def __init__(self, path: Path, extra: dict[str, str] | None = None) -> None:
        self._path, self._extra = path, extra
        self._waiting: list[tuple[ServerState, Callable[[], None]]] = []
        self._busy = self._closing = False
        self._error: BaseException | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="checkpointer", daemon=True)
        self._thread.start()

    def __call__(self, state: ServerState, commit: Callable[[], None]) -> None:
        """Take charge of making `state` durable, and of `commit` after that."""
        with self._changed:
            self._raise()
            self._waiting.append((state, commit))
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything handed in is durable and committed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not (self._waiting or self._busy)
            )
            self._raise()

    def close(self) -> None:
        """Flush and stop."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                taken, self._waiting = self._waiting, []
                self._busy = True
            try:
                write_state(self._path, taken[-1][0], self._extra)
                for _, commit in taken:
                    commit()
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                self._error = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if self._error is not None:
                    return
