"""Memory that processes share, and that can be handed on to another program: each piece is a file without a name.

A plain shared mapping is lost with execve(2). So each is a memfd_create(2) whose descriptor whoever made it keeps
until nothing refers to the mapping any more; those who are forked close it (`forget`), for they have no use for it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable

__all__ = ["allocate", "attach", "file_of", "files", "forget"]

_MAP_FIXED = 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_FAILED = ctypes.c_void_p(-1).value
# By where the mapping begins.
_files: dict[int, int] = {}


def allocate(octets: int) -> mmap.mmap:
    """So many, all 0. Pages that nobody has written to take no memory. OSError where there can be no more."""
    file = os.memfd_create("pybalancer")
    try:
        os.ftruncate(file, octets)
        return attach(file, octets)
    except BaseException:
        os.close(file)
        raise


def attach(file: int, octets: int) -> mmap.mmap:
    """What another program has left; the descriptor is ours from now on."""
    if os.fstat(file).st_size < octets:
        raise OSError(0, "shared memory is shorter than it should be")
    # mmap(3) of Python's would keep a descriptor of its own, in all who are forked: so the file takes the place of
    # pages that are nobody's.
    memory = mmap.mmap(-1, octets)
    start = _start(memory)
    how = mmap.MAP_SHARED | _MAP_FIXED
    if _LIBC.mmap(start, octets, mmap.PROT_READ | mmap.PROT_WRITE, how, file, 0) == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _files[start] = file
    weakref.finalize(memory, _close, start).atexit = False
    return memory


def file_of(memory: mmap.mmap) -> int:
    """Its descriptor, while we have it. KeyError where it was not made here, or was forgotten."""
    return _files[_start(memory)]


def files() -> Iterable[int]:
    """All descriptors."""
    return list(_files.values())


def forget() -> None:
    """In a child: it hands nothing on."""
    for file in _files.values():
        os.close(file)
    _files.clear()


def _start(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _close(start: int) -> None:
    file = _files.pop(start, None)
    if file is not None:
        os.close(file)
