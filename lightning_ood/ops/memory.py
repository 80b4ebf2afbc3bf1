"""Where the memory of a freed tensor goes: back to the system, or to the next layer."""

from __future__ import annotations

import ctypes
import os
import sys

# malloc.h; all three reach the whole process
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Keeps the memory of freed tensors in this process, where its C library is glibc.

    glibc maps a large block from the system and gives it back when it is freed, so each layer of a network on the CPU
    waits for the system to clear the same pages anew: on photographs about half of a pass (``docs/scaling.md``). What
    the process holds stays at its peak from then on. Whoever sets one of glibc's variables (``MALLOC_TRIM_THRESHOLD_``
    and its like) is left with that choice.

    Returns:
        Whether it is kept.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # only glibc has it
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 2**28)])


def most_held() -> int:
    """Bytes of memory that this process has held at most so far."""
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
