"""A notice board for one message: written by one process, read by any, in shared memory and without a lock.

    version   odd while it is being written; 0: nothing was ever written
    length    octets of the message
    checksum  CRC-32 of the message
    message

A reader that meets a writer at work (a seqlock, Linux's seqlock.h) looks again a few times. The checksum finds what the
order of memory accesses of some processors lets through, and a writer that died in the middle.
"""

from __future__ import annotations

import zlib

__all__ = ["Notice"]

# Octets of a native signed 64-bit integer.
_NUMBER = 8
_VERSION, _LENGTH, _CHECKSUM = range(3)
_HEAD = 3 * _NUMBER
# A writer is done within some microseconds.
_TRIES = 10


class Notice:
    """`block` is the memory, `Notice.size` octets of it, zero at first and beginning at a multiple of 8."""

    def __init__(self, block: memoryview) -> None:
        self._head = block[:_HEAD].cast("q")
        self._room = block[_HEAD:]

    @staticmethod
    def size(longest: int) -> int:
        """Octets that a message of up to `longest` octets needs."""
        return _HEAD + -(-longest // _NUMBER) * _NUMBER

    @property
    def longest(self) -> int:
        """Octets that fit."""
        return len(self._room)

    def write(self, message: bytes) -> None:
        """Put a message in the place of the one before. ValueError where it does not fit."""
        if len(message) > self.longest:
            raise ValueError(f"{len(message)} octets do not fit into {self.longest}")
        head = self._head
        version = head[_VERSION] | 1
        head[_VERSION] = version
        head[_LENGTH], head[_CHECKSUM] = len(message), zlib.crc32(message)
        self._room[: len(message)] = message
        head[_VERSION] = version + 1

    def read(self) -> bytes | None:
        """The message; None while there is none, or none that is whole."""
        head = self._head
        for _ in range(_TRIES):
            version = head[_VERSION]
            if version == 0:
                return None
            length, checksum = head[_LENGTH], head[_CHECKSUM]
            message = bytes(self._room[: max(length, 0)])
            if version % 2 == 0 and head[_VERSION] == version and zlib.crc32(message) == checksum:
                return message
        return None
