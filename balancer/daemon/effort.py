"""How idle the workers are: the part of the time in which each had nothing to do.

A worker that wants to run and may not, since others have the processors, is not idle: what it waits for them counts as
what it runs does (/proc/self/schedstat, the kernel's sched-stats.rst).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

__all__ = ["Effort", "Idleness"]


class Effort:
    """In a worker: microseconds that its thread ran, or waited for a processor."""

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._at_start = 0
        self._at_start = self.spent

    @property
    def spent(self) -> int:
        """Since this was made. Where the kernel does not tell, what it ran."""
        if self._fd is not None:
            with contextlib.suppress(OSError, ValueError):
                ran, waited, *_ = os.pread(self._fd, 128, 0).split()
                return (int(ran) + int(waited)) // 1000 - self._at_start
        return int(time.process_time() * 1e6) - self._at_start

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Idleness:
    """In control: puts together what workers have counted. `percent` is over about the last second, of all."""

    def __init__(self) -> None:
        self.percent = 100
        self._last: dict[int, tuple[int, int]] = {}

    def feed(self, seen: Mapping[int, tuple[int, int]]) -> None:
        """By worker, what it had spent and when that was, in microseconds."""
        parts = []
        for number, (busy, at) in seen.items():
            before, since = self._last.get(number, (busy, at))
            if at > since and busy >= before:
                parts.append(max(0.0, 1.0 - (busy - before) / (at - since)))
        self._last = dict(seen)
        if parts:
            self.percent = round(100 * sum(parts) / len(parts))
