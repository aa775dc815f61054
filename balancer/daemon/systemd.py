"""What the service manager is told (sd_notify(3)); nobody where none asks for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time

__all__ = ["ready", "reloading", "stopping"]


def ready() -> None:
    """Started, or reloaded, or not reloaded for a reason that is in the log."""
    _tell("READY=1")


def reloading() -> None:
    """From now on until `ready`."""
    _tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping() -> None:
    """From now on."""
    _tell("STOPPING=1")


def _tell(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line, contextlib.suppress(OSError):
        line.sendto(text.encode(), address)
