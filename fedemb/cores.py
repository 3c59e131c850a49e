"""How many cores there are for this process."""

import os


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has.

    Example:
        >>> 1 <= usable_cores() <= os.cpu_count()
        True
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
