"""Worker threads that live from round to round, and cores that operations take."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import local
from typing import TypeVar

import torch
from torch import nn

Item = TypeVar("Item")

_SMALL = 1 << 21  # parameters
_FEW = 10_000  # rows


class Threads:
    """A few threads, one core each, and the thread that reads for them.

    The first use starts the threads; they end with this object. One thread is none: the
    caller then does the work itself, with as many cores as torch was given.

    Attributes:
        own: what each thread keeps for itself.
    """

    def __init__(self, count: int) -> None:
        self.own = local()
        self._count = count
        self._pool: ThreadPoolExecutor | None = None

    def each(self, function: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call `function` with every item, in no order, and wait for all.

        The calling thread makes the items, on one core, while the others work, at most
        two for each thread ahead.

        Raises:
            Exception: the first that `function` or `items` raised; no call is running
                any more then.
        """
        if self._count == 1:
            for item in items:
                function(item)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, initializer=_one_core)
        running: deque[Future[None]] = deque()
        with one_core():  # operations of several cores would wait for the busy ones
            try:
                for item in items:
                    while len(running) >= 2 * self._count:
                        running.popleft().result()
                    running.append(self._pool.submit(function, item))
                while running:
                    running.popleft().result()
            finally:
                for future in running:
                    future.cancel()
                wait(running)


@contextmanager
def one_core() -> Iterator[None]:
    """Let operations that this thread starts take one core each, meanwhile."""
    before = torch.get_num_threads()
    _one_core()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def suited_to(backbone: nn.Module, rows: int) -> AbstractContextManager[None]:
    """Let operations on a small backbone and few rows take one core each, meanwhile.

    They are over in microseconds. Spread over cores they gain nothing, and where the
    machine has other work each of them waits until that gives a core back. Measured on
    two cores, a run that mostly evaluates a backbone of 21,088 parameters takes 27
    seconds either way; beside two busy processes 92 on one core, 220 and 255 spread.

    Example:
        >>> with suited_to(nn.Linear(2, 2), rows=100):
        ...     torch.get_num_threads()
        1
    """
    size = sum(parameter.numel() for parameter in backbone.parameters())
    return one_core() if size < _SMALL and rows < _FEW else nullcontext()


def _one_core() -> None:
    torch.set_num_threads(1)
