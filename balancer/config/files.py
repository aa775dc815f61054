"""Whether a file that the configuration names can be used."""

from __future__ import annotations

import os
import stat

__all__ = ["LARGEST_PAGE", "unreadable"]

LARGEST_PAGE = 64 << 10
"""HAProxy's tune.bufsize allows 16 KiB with the head; a page is kept in the memory of every worker."""


def unreadable(path: str, *, largest: int | None) -> str:
    """Why the file cannot be used; empty when it can."""
    try:
        # Without O_NONBLOCK a named pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            kind = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}"
    if not stat.S_ISREG(kind.st_mode):
        return f"{path} is no regular file"
    if largest is not None and kind.st_size > largest:
        return f"{path} has {kind.st_size} octets; {largest} are allowed"
    return ""
