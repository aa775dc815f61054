"""What was found, for people and for programs. Pure."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from balancer.doctor.finding import Finding, Verdict

__all__ = ["as_json", "lines", "status"]

_COLOURS = {Verdict.OK: "32", Verdict.UNKNOWN: "35", Verdict.WARNING: "33", Verdict.PROBLEM: "31;1"}
_WORD = max(map(len, Verdict))
_INDENT = " " * (_WORD + 3)
_NARROWEST = 60
Areas = Sequence[tuple[str, Sequence[Finding]]]


def status(areas: Areas, *, is_strict: bool) -> int:
    """0 there is no problem; 1 there is one, or with `is_strict` a warning."""
    bad = {Verdict.PROBLEM, Verdict.WARNING} if is_strict else {Verdict.PROBLEM}
    return int(any(finding.verdict in bad for _, findings in areas for finding in findings))


def lines(areas: Areas, *, width: int, is_coloured: bool, is_brief: bool) -> Iterator[str]:
    """`is_brief`: what is in order is only counted."""
    width = max(width, _NARROWEST)
    counts = Counter(finding.verdict for _, findings in areas for finding in findings)
    for title, findings in areas:
        shown = [each for each in findings if not is_brief or each.verdict is not Verdict.OK]
        if not shown:
            continue
        yield f"\x1b[1m{title}\x1b[0m" if is_coloured else title
        for finding in shown:
            word = finding.verdict.ljust(_WORD)
            word = f"\x1b[{_COLOURS[finding.verdict]}m{word}\x1b[0m" if is_coloured else word
            first, *more = textwrap.wrap(finding.what, width - len(_INDENT), break_on_hyphens=False) or [""]
            yield f"  {word} {first}"
            yield from (f"{_INDENT}{line}" for line in more)
            if finding.why:
                yield from (
                    f"{_INDENT}{line}"
                    for line in textwrap.wrap(f"why: {finding.why}", width - len(_INDENT), break_on_hyphens=False)
                )
            # Commands are not broken: they are to be copied.
            for label, commands in (("now:   ", finding.now), ("always:", finding.always)):
                yield from (f"{_INDENT}{label} {command}" for command in commands)
        yield ""
    parts = [f"{counts[each]} {_counted(each, counts[each])}" for each in reversed(Verdict) if counts[each]]
    yield ", ".join(parts) or "nothing was looked at"


def _counted(verdict: Verdict, count: int) -> str:
    if verdict in (Verdict.PROBLEM, Verdict.WARNING):
        return verdict if count == 1 else f"{verdict}s"
    return verdict


def as_json(areas: Areas, *, is_strict: bool) -> str:
    """One object. `now` and `always` are lines for a shell; one that begins with # says what to do elsewhere."""
    return json.dumps(
        {
            "ok": not status(areas, is_strict=is_strict),
            "findings": [
                {
                    "area": title,
                    "check": finding.check,
                    "verdict": finding.verdict,
                    "what": finding.what,
                    "why": finding.why,
                    "now": finding.now,
                    "always": finding.always,
                }
                for title, findings in areas
                for finding in findings
            ],
        },
        ensure_ascii=False,
    )
