"""What a check has to say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict", "ok", "problem", "unknown", "warning"]


class Verdict(StrEnum):
    """How it stands, the worst last."""

    OK = "ok"
    UNKNOWN = "cannot tell"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    check: str
    """Which check says so, a word that stays the same."""
    what: str
    """What was found, in a line."""
    why: str = ""
    """Why it matters for this configuration."""
    now: tuple[str, ...] = ()
    """What to type, a line each."""
    always: tuple[str, ...] = ()
    """What makes it last over a restart of the machine."""


def ok(check: str, what: str) -> Finding:
    """Nothing is to be done."""
    return Finding(Verdict.OK, check, what)


def warning(check: str, what: str, why: str, *now: str, always: tuple[str, ...] = ()) -> Finding:
    """It works, but not under all circumstances."""
    return Finding(Verdict.WARNING, check, what, why, now, always)


def problem(check: str, what: str, why: str, *now: str, always: tuple[str, ...] = ()) -> Finding:
    """Something that the configuration wants does not work."""
    return Finding(Verdict.PROBLEM, check, what, why, now, always)


def unknown(check: str, what: str, why: str = "", *now: str) -> Finding:
    """It could not be found out; `now` is what would."""
    return Finding(Verdict.UNKNOWN, check, what, why, now)
