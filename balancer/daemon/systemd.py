"""What the service manager is told (sd_notify(3)); nobody where none asks for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from math import inf

__all__ = ["alive", "ready", "reloading", "status", "stopping", "watchdog"]

# Characters.
_LONGEST = 500


def ready() -> None:
    """Started, or reloaded, or not reloaded for a reason that is in the log."""
    _tell("READY=1")


def reloading() -> None:
    """From now on until `ready`."""
    _tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def status(text: str) -> None:
    """What it shows to whoever asks it for the service."""
    _tell(f"STATUS={' '.join(text.split())[:_LONGEST]}")


def stopping() -> None:
    """From now on."""
    _tell("STOPPING=1")


def alive() -> None:
    """Still, for another while of `watchdog`."""
    _tell("WATCHDOG=1")


def watchdog() -> float:
    """Seconds within which it wants to hear that we are `alive` (sd_watchdog_enabled(3)); infinite where it does not,
    or means another process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return inf
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return inf
    return microseconds * 1e-6 if microseconds > 0 else inf


def _tell(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line, contextlib.suppress(OSError):
        line.sendto(text.encode(), address)
