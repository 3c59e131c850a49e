"""What a graphics card did for a step, done again without the interpreter.

A step of a small backbone is some hundred kernels that take a few microseconds each,
less than Python needs to launch them. A CUDA graph launches all of them at once.

A graph repeats the same kernels on the same memory. So a function may be recorded if
all it reads is given to it or stays where it is, if its results are added to tensors
that stay, and if what the host computes for it depends on shapes alone. Recordings are
kept apart by shapes, and `fedemb.agreement` compares them with the serial engine, on
rows that they were not recorded with, before they may train anything.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from fedemb.protocols import Batch

_MOST = 64  # recordings of a model; other shapes are computed as they come

_Shapes: TypeAlias = tuple[tuple[str, torch.dtype, torch.Size], ...]


class Recorded:
    """A function of a batch that adds its results to tensors that stay.

    What it meets for the first time it computes as it is, which warms libraries up; the
    second time it records it; then it replays that. What cannot be recorded, because
    something waits for the card, is computed as it comes.

    Attributes:
        replays: how often a recording was replayed with another batch.
    """

    def __init__(self, function: Callable[[Batch], None], graphs: "CudaGraphs") -> None:
        self.replays = 0
        self._function = function
        self._met: set[_Shapes] = set()
        self._recordings: dict[_Shapes, _Recording] = {}
        self._graphs = graphs
        self._refused = False

    def __call__(self, batch: Batch) -> None:
        """Compute the function of `batch`, from a recording if there is one."""
        shapes = tuple((name, v.dtype, v.shape) for name, v in batch.items())
        known = self._recordings.get(shapes)
        if known is not None:
            known.of(batch)
            self.replays += 1
        elif self._refused or shapes not in self._met or self._graphs.full:
            self._met.add(shapes)
            self._function(batch)
        else:
            self._record(shapes, batch)

    def _record(self, shapes: _Shapes, batch: Batch) -> None:
        read = {name: values.clone() for name, values in batch.items()}
        try:
            replay = self._graphs.record(self._function, read)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # something waited for the card, and will again
            self._refused = True
            self._function(batch)
            return
        self._recordings[shapes] = _Recording(replay, read)
        replay()


@dataclass(frozen=True)
class _Recording:
    """A recorded function, and the memory that it reads a batch from."""

    replay: Callable[[], None]
    read: Batch

    def of(self, batch: Batch) -> None:
        for name, values in batch.items():
            self.read[name].copy_(values)
        self.replay()


class CudaGraphs:
    """Records functions as CUDA graphs.

    They share their memory: what one leaves there is not read again, and they run one
    after another. And they are recorded on one stream, for which libraries set memory
    aside once.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._aside: Any = None
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether there are so many that others had better not be recorded."""
        return self._count >= _MOST

    def record(
        self, function: Callable[[Batch], None], read: Batch
    ) -> Callable[[], None]:
        """Record `function` of the tensors in `read`, and compute nothing yet.

        What lies in `read` when the result is called counts.

        Raises:
            RuntimeError: if something cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        if self._aside is None:
            self._aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        with torch.cuda.stream(self._aside):
            # Other threads may go on: they have streams of their own.
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                function(read)
            except BaseException:
                with suppress(RuntimeError):  # that it failed is known
                    graph.capture_end()
                raise
            graph.capture_end()
        self._pool = self._pool or graph.pool()
        self._count += 1
        return graph.replay
