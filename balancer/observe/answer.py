"""What a command says: a text, or a long one in pieces, and whether that is an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

__all__ = ["ERROR", "INFO", "Said"]

ERROR, INFO = 3, 6
"""syslog's severities."""


class Said(NamedTuple):
    """An answer, in whole lines."""

    text: str
    severity: int | None = None
    """syslog's; None for what was asked to be shown."""
    more: AsyncIterator[str] | None = None
    """What follows the text, for as long as somebody reads it."""
