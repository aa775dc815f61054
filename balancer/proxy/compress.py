"""Compressing what goes to clients: gzip by zlib or, where it is there, by ISA-L, which does levels 1 to 3 in a quarter
of the time and no worse; br and zstd by the modules of these names. And what that may cost.

A compressor's window is 256 KiB at the most (gzip's is 32 KiB), so that each costs about a MiB, not eight, here and
at the client (RFC 9659). What goes in comes out in the same turn of the loop, for nobody knows when more will come.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import zlib
from typing import Any, Protocol

from balancer.config import model
from balancer.wire.encoding import Types, accepted, negotiate
from balancer.wire.fields import field_values
from balancer.wire.http1 import Request

__all__ = ["PIECE", "Budget", "Compression", "Encoder", "make_encoder"]

PIECE = 64 * 1024
"""Octets that are compressed in one turn of the loop: one or two milliseconds at the levels that are meant for it."""

_WINDOW = 18
_GZIP = 31
_ISAL = "isal.isal_zlib"
_MOST_OF_ISAL = 3
# Octets that one compressor takes by level, as measured (brotli 1.2, zstandard 0.25), rounded up.
_GZIP_MEMORY = 384 * 1024
_BR_MEMORY = {1: 700, 2: 700, 3: 700, 4: 1700, 5: 2500, 6: 2700, 7: 3200, 8: 4000, 9: 5500}


class Encoder(Protocol):
    """Compresses one body."""

    def feed(self, data: bytes) -> bytes:
        """Take `data` in; what comes out may be less, or nothing."""

    def flush(self) -> bytes:
        """All that is left, so that the other end can read everything up to here."""

    def finish(self) -> bytes:
        """The end."""


class _Gzip:
    __slots__ = ("_flush", "feed", "finish")

    def __init__(self, module: Any, level: int) -> None:
        made = module.compressobj(level, zlib.DEFLATED, _GZIP)
        self.feed = made.compress
        self._flush = self.finish = made.flush

    def flush(self) -> bytes:
        octets: bytes = self._flush(zlib.Z_SYNC_FLUSH)
        return octets


class _Brotli:
    __slots__ = ("feed", "finish", "flush")

    def __init__(self, module: Any, level: int) -> None:
        made = module.Compressor(quality=level, lgwin=_WINDOW)
        self.feed = made.process
        self.flush = made.flush
        self.finish = made.finish


class _Zstd:
    __slots__ = ("_flush_block", "_object", "feed", "finish")

    def __init__(self, module: Any, parameters: Any) -> None:
        self._object = module.ZstdCompressor(compression_params=parameters).compressobj()
        self._flush_block = module.COMPRESSOBJ_FLUSH_BLOCK
        self.feed = self._object.compress
        self.finish = self._object.flush

    def flush(self) -> bytes:
        octets: bytes = self._object.flush(self._flush_block)
        return octets


class _Maker:
    """Makes encoders of one coding. ImportError where its module is not there."""

    __slots__ = ("_coding", "_level", "_module", "_parameters", "memory")

    def __init__(self, coding: bytes, level: int) -> None:
        self._coding = coding
        self._level = level
        self._module: Any = None
        self._parameters: Any = None
        self.memory = _GZIP_MEMORY
        """Octets that one takes."""
        if coding == b"gzip":
            self._module = _zlib(level)
        elif coding == b"br":
            self._module = importlib.import_module("brotli")
            self.memory = _BR_MEMORY[level] * 1024
        elif coding == b"zstd":
            self._module = importlib.import_module("zstandard")
            self._parameters = self._module.ZstdCompressionParameters.from_level(level, window_log=_WINDOW)
            self.memory = self._parameters.estimated_compression_context_size()

    def make(self) -> Encoder:
        if self._coding == b"br":
            return _Brotli(self._module, self._level)
        if self._coding == b"zstd":
            return _Zstd(self._module, self._parameters)
        return _Gzip(self._module, self._level)


def _zlib(level: int) -> Any:
    """The quickest of those that are there."""
    if level <= _MOST_OF_ISAL:
        with contextlib.suppress(ImportError):
            return importlib.import_module(_ISAL)
    return zlib


def make_encoder(coding: str, level: int) -> Encoder:
    """An encoder of `coding` (zstd, br or gzip). ImportError where its module is not there."""
    return _Maker(coding.encode(), level).make()


class Budget:
    """What compressing may cost one worker: octets of memory at one time, and a share of its time."""

    __slots__ = ("_memory", "_share", "_since", "_spent", "used")

    def __init__(self, *, memory: int, share: float) -> None:
        self._memory = memory
        self._share = share
        self.used = 0
        """Octets that compressors take now."""
        self._spent = 0.0
        self._since = 0.0

    def admits(self, memory: int, now: float) -> bool:
        """Whether there is room for another compressor of so many octets. `now` is of the clock of `spend`."""
        if self.used + memory > self._memory:
            return False
        if self._share >= 1.0:
            return True
        # What was spent is paid off at the share's pace; a share of one second may be owed.
        self._spent = max(0.0, self._spent - (now - self._since) * self._share)
        self._since = now
        return self._spent < self._share

    def spend(self, seconds: float) -> None:
        """So long a compressor has worked."""
        self._spent += seconds


class Compression:
    """How the responses of one backend are compressed for the clients of one frontend."""

    __slots__ = ("_makers", "_offered", "budget", "least", "offload", "types")

    def __init__(self, config: model.Compression, budget: Budget) -> None:
        self._offered = tuple(coding.encode() for coding in config.algorithms)
        levels = {each.encode(): config.level.of(each) for each in config.algorithms}
        self._makers = {coding: _Maker(coding, level) for coding, level in levels.items()}
        self.types = Types(config.types)
        self.least = config.min_size
        self.offload = config.offload
        self.budget = budget

    def choose(self, request: Request) -> bytes | None:
        """In which coding the client that asks so wants its answer; None: it is to have it as it is."""
        section = request.section
        if not request.line.minor or request.line.method == b"HEAD":
            return None
        lower = section.lower
        if b"range:" in lower and field_values(lower, lower, b"range"):
            return None
        if b"no-transform" in lower and b"no-transform" in b",".join(field_values(lower, lower, b"cache-control")):
            return None
        value = accepted(section)
        return negotiate(value, self._offered) if value else None

    def encoder(self, coding: bytes) -> tuple[Encoder, int] | None:
        """An encoder and the memory it takes, which is to be given back to the budget; None where that is used up."""
        maker = self._makers[coding]
        if not self.budget.admits(maker.memory, time.perf_counter()):
            return None
        self.budget.used += maker.memory
        return maker.make(), maker.memory
