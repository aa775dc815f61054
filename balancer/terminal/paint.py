"""Colours, where they are wanted, and columns that fit. A colour never says what no word says. Pure but for `of`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import NamedTuple, TextIO

from balancer.observe.lines import printable
from balancer.terminal.picture import Tone

__all__ = ["UNBOUNDED", "Paint", "cut", "octets", "short"]

UNBOUNDED = 1 << 16
"""Columns of what is no terminal: nothing is left out."""
# Select Graphic Rendition (ECMA-48, 8.3.117); light and dark terminals show all of these.
_COLOURS: Mapping[Tone, str] = {"good": "32", "warning": "33", "bad": "31;1", "aside": "36", "unknown": "35"}
_STRONG, _FAINT = "1", "2"
# A terminal this narrow shows names and states still.
_NARROWEST = 20


class Paint(NamedTuple):
    """How to draw."""

    is_coloured: bool = False
    width: int = UNBOUNDED

    @staticmethod
    def of(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Paint:
        """For what is written to `stream`. Colours are for a terminal alone, and not where NO_COLOR (no-color.org) is
        set or TERM is `dumb`."""
        if not stream.isatty():
            return Paint()
        is_coloured = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return Paint(is_coloured, max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST))

    def tone(self, text: str, tone: Tone) -> str:
        return self._in(text, _COLOURS[tone])

    def strong(self, text: str) -> str:
        return self._in(text, _STRONG)

    def faint(self, text: str) -> str:
        return self._in(text, _FAINT)

    def _in(self, text: str, codes: str) -> str:
        return f"\x1b[{codes}m{text}\x1b[0m" if self.is_coloured and text else text


def cut(text: str, width: int) -> str:
    """In one line of so many columns; `~` stands for what is left out."""
    text = printable(text)
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}~"[:width]


def short(number: float) -> str:
    """Five characters at the most: 0, 999, 12.3k, 1.5M."""
    if number < 10_000:
        return str(round(number))
    for unit in "kMGT":
        number /= 1000
        if number < 999.5:
            return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"
    return f"{number / 1000:.0f}P"


def octets(number: float) -> str:
    """The same of octets, by powers of 1024 as HAProxy's page: 312, 4.0K, 1.5M."""
    if number < 1024:
        return str(round(number))
    for unit in "KMGT":
        number /= 1024
        if number < 999.5:
            return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"
    return f"{number / 1024:.0f}P"
