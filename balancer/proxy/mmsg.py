"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module does not have.

A query through the balancer is two datagrams in and two out. Taken singly, a third of the time goes to entering
the kernel, making objects of socket addresses and reading them back; here addresses stay octets.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence

__all__ = ["LARGEST", "Batch"]

LARGEST = 65536
"""More than any datagram holds (65 507 octets over IPv4, 65 527 over IPv6): nothing is ever cut."""


class _IoVec(ctypes.Structure):
    """struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    """struct msghdr (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

_HEADER = ctypes.sizeof(_MMsgHdr)
# Of struct cmsghdr, which begins with a size_t.
_ALIGNMENT = 8
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Batch:
    """Room for `count` datagrams and their ends: a socket address of `name` octets and, `control_at` octets behind
    its beginning, `control` octets of ancillary data.

    Whatever is received is copied out at once, so one batch serves for all sockets of a kind; `name` and
    `control` are 0 for connected ones. Pages that no datagram has filled yet take no memory.
    """

    __slots__ = (
        "_at", "_capacities", "_control", "_controls", "_count", "_data", "_end", "_ends", "_fresh", "_headers",
        "_lengths", "_starts", "_vectors", "control_at",
    )  # fmt: skip

    def __init__(self, count: int, *, name: int = 0, control: int = 0) -> None:
        self.control_at = -(-name // _ALIGNMENT) * _ALIGNMENT
        self._count, self._control, self._end = count, control, self.control_at + control
        # Slices of a mapping are bytes, with no copy in between.
        self._data = mmap.mmap(-1, count * LARGEST, flags=_PRIVATE)
        self._ends = mmap.mmap(-1, max(count * self._end, 1), flags=_PRIVATE)
        self._starts = range(0, count * LARGEST, LARGEST)
        data, ends = (ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in (self._data, self._ends))
        vectors = (_IoVec * count)()
        headers = (_MMsgHdr * count)()
        for i in range(count):
            vectors[i].base, vectors[i].len = data + i * LARGEST, LARGEST
            header = headers[i].hdr
            header.iov, header.iovlen = ctypes.addressof(vectors[i]), 1
            if name:
                header.name, header.namelen = ends + i * self._end, name
            if control:
                header.control, header.controllen = ends + i * self._end + self.control_at, control
        self._at = ctypes.addressof(headers)
        self._headers, self._vectors = memoryview(headers).cast("B"), memoryview(vectors).cast("B")
        self._fresh = (bytes(headers), bytes(vectors), bytes(count * self._end))
        words = self._headers.cast("I")
        self._lengths = words[_MMsgHdr.len.offset // words.itemsize :: _HEADER // words.itemsize]
        sizes = self._headers.cast("L")
        self._controls = sizes[_MsgHdr.controllen.offset // sizes.itemsize :: _HEADER // sizes.itemsize]
        sizes = self._vectors.cast("L")
        self._capacities = sizes[_IoVec.len.offset // sizes.itemsize :: ctypes.sizeof(_IoVec) // sizes.itemsize]

    def receive(self, fd: int) -> list[bytes]:
        """What waits at a connected socket, at most as much as there is room for. Raises OSError."""
        data = self._data
        return [data[at : at + size] for at, size in zip(self._starts, self._receive(fd), strict=False)]

    def receive_rest(self, fd: int) -> list[bytes]:
        """What came before the error that `receive` raised, which is reported first."""
        try:
            return self.receive(fd)
        except OSError:
            return []

    def receive_from(self, fd: int) -> list[tuple[bytes, bytes]]:
        """The same with each datagram's end. Ancillary data that did not come is zeros."""
        data, ends, size_of_end = self._data, self._ends, self._end
        datagrams, place = [], 0
        for at, size in zip(self._starts, self._receive(fd), strict=False):
            datagrams.append((data[at : at + size], ends[place : place + size_of_end]))
            place += size_of_end
        return datagrams

    def _receive(self, fd: int) -> list[int]:
        """The datagrams' sizes."""
        self._headers[:], self._vectors[:], self._ends[: len(self._fresh[2])] = self._fresh
        number = _recvmmsg(fd, self._at, self._count, 0, None)
        if number < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code))
        return self._lengths[:number].tolist()

    def send_to(self, fd: int, datagrams: Sequence[tuple[bytes, bytes]]) -> int:
        """Send each to its end, whose ancillary data may be left out. Gives how many the kernel did not take."""
        failed = 0
        for first in range(0, len(datagrams), self._count):
            failed += self._send_to(fd, datagrams[first : first + self._count])
        return failed

    def _send_to(self, fd: int, datagrams: Sequence[tuple[bytes, bytes]]) -> int:
        data, ends = self._data, self._ends
        place = number = failed = 0
        for at, (datagram, end) in zip(self._starts, datagrams, strict=False):
            data[at : at + len(datagram)] = datagram
            ends[place : place + len(end)] = end
            self._capacities[number] = len(datagram)
            if self._control:
                self._controls[number] = len(end) - self.control_at
            place += self._end
            number += 1
        first = 0
        while first < number:
            # It stops at the first that fails, and says why only if that is the first of all.
            sent = _sendmmsg(fd, self._at + first * _HEADER, number - first, 0)
            if sent < 0:
                failed += 1
                sent = 1
            first += sent
        return failed
