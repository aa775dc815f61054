"""How an upgrade is asked for, and by which words the log tells what came of it: for the daemon and who asks."""

from __future__ import annotations

import signal

__all__ = ["DONE", "DRY_RUN", "NEEDS_RESTART", "NOT_DONE", "POSSIBLE", "TRYING", "UPGRADE"]

UPGRADE: int = signal.SIGUSR2
DRY_RUN: int = signal.SIGRTMIN + 3
DONE, NOT_DONE, POSSIBLE = "upgraded from", "not upgraded:", "an upgrade is possible:"
"""How the line begins."""
TRYING = "upgrade: trying what"
"""How one begins that comes before."""
NEEDS_RESTART = "only a restart brings it"
"""Stands in the line where no mending of the configuration, nor of the new version, would change that."""
