"""Worker threads that live from round to round, and reading ahead of them."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import local
from typing import TypeVar

import torch

Item = TypeVar("Item")


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
        before = torch.get_num_threads()
        _one_core()  # operations of several cores would wait for the busy ones
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
            torch.set_num_threads(before)


def _one_core() -> None:
    torch.set_num_threads(1)
