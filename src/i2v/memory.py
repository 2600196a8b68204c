"""How this process takes memory from the system: `limit_malloc_arenas`. Linux with glibc; elsewhere nothing changes."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_ARENA_MAX = -8
"""From glibc's malloc.h."""


def limit_malloc_arenas() -> None:
    """Let new threads use the heaps that are there, unless MALLOC_ARENA_MAX says otherwise.

    glibc gives each thread a heap of its own, up to eight a core, and what is free in one is of no use to another.
    Python's threads seldom take memory at the same time, so nobody waits.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError, TypeError):  # there is no such library, or no such function in it
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
