"""What is free and is not given back: by the collector of cycles, and by malloc(3).

Connections that have ended leave cycles. A worker has them collected by the ten thousand, for that costs time; where
few come they would lie there for minutes, each with what its connection had.

Buffers of all sizes come and go, small ones that stay between them, and glibc gives back what is free at the end of
its heap alone: a worker that has passed large bodies for a while keeps several MiB that nobody uses.
"""

from __future__ import annotations

import ctypes
import gc

__all__ = ["trim"]

# malloc_trim(3): glibc's, in no other C library.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim() -> None:
    """Collect the youngest cycles, a millisecond at most, and give whole pages that are free back to the system, 0.3 ms
    for a worker that passes large bodies."""
    gc.collect(0)
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))
