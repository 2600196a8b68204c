"""Memory of a process with many threads: `limit_malloc_arenas`. Has an effect on Linux with glibc only."""

import ctypes
import os
from contextlib import suppress

M_ARENA_MAX = -8
"""From glibc's malloc.h."""


def limit_malloc_arenas() -> None:
    """Make threads share one malloc arena, unless MALLOC_ARENA_MAX is set.

    glibc creates up to eight arenas per core, and memory that is free in one cannot be used by another. Python's
    threads rarely allocate at the same time, so they do not wait for each other.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError, TypeError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
