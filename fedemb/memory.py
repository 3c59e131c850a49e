"""Keeping freed memory, so that training does not fault its pages in again and again.

A chunk's activations are freed and allocated anew every few milliseconds. By default
glibc hands such large blocks back to the system at once; every new one is then zeroed
and mapped page by page, under a lock that threads share. Measured on two cores, a small
convolutional backbone trains a fifth faster when they are kept. Threads get arenas of
their own, whose memory, but for the first one's, lies in pieces of 64 MiB that are
given back whatever one asks for; so there are no more arenas than cores, not eight for
each.
"""

import ctypes
import sys

from fedemb.cores import usable_cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt
_KEEP = 1 << 30  # bytes; the most that the parameters of mallopt can say is 2^31 - 1


def keep_freed_memory() -> bool:
    """Ask the allocator of this process to keep freed blocks; whether it agreed.

    Resident memory then stays at its peak instead of falling between chunks. Does
    nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    arenas = usable_cores()
    asked = {_TRIM_THRESHOLD: _KEEP, _MMAP_THRESHOLD: _KEEP, _ARENA_MAX: arenas}
    agreed = [mallopt(option, value) for option, value in asked.items()]
    return all(agreed)


def give_back_freed_memory() -> bool:
    """Return what is free to the system, once, and whether there was any.

    After the engines were measured, say: most of them needed more than the one that
    was chosen.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False
