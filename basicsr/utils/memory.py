"""Memory of the process: allocator settings, and how much it holds."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from pathlib import Path

# Parameters of mallopt in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST = 2**31 - 1
_kept = False


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library, where it is glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == 'glibc' else None


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next request, whatever its size, instead of giving it back.

    It changes the whole process, so that only commands call it, never the library. Tensors of tens of megabytes are
    otherwise mapped, filled with zeros by the system page by page, and unmapped by every operation of a network on the
    CPU, which takes as long as many an operation itself. Does nothing where the C library is not glibc.
    """
    global _kept
    libc = _glibc()
    if libc is not None:
        _kept = True
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, MOST)


def give_back_freed_memory() -> None:
    """Give what `keep_freed_memory` kept back to the system, where it is not worth keeping because sizes change.

    Does nothing in a process that did not call `keep_freed_memory`.
    """
    libc = _glibc()
    if libc is not None and _kept:
        libc.malloc_trim(0)


def peak_memory() -> int:
    """Return the most memory that this process held so far, in bytes."""
    status = Path('/proc/self/status')
    if status.is_file():  # the other way counts what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith('VmHWM'))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
