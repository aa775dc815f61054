"""`show errors`: refused messages as they came, with the place of the fault (HAProxy's src/proxy.c and tools.c)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from balancer.observe.lines import printable
from balancer.pool.captures import LONGEST, Capture

__all__ = ["Fault", "dump", "title", "wanted"]

_ESCAPES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x1B: "\\e", 0x5C: "\\\\"}
# Characters of a line, the offset before it included.
_WIDTH = 79


class Fault(NamedTuple):
    """A refused message, and where it is wrong."""

    capture: Capture
    position: int


def title(now: float, count: int) -> str:
    """What stands above."""
    return f"Total events captured on {_date(now)} : {count}\n"


def dump(fault: Fault, ids: Mapping[str, int]) -> str:
    """One message. `ids` are the proxies' numbers by name, backends' behind a `/`, servers' as `/backend/server`."""
    it, position = fault
    front, back = f"{it.frontend} (#{ids.get(it.frontend, -1)})", _named("/", it.backend, ids)
    server = _named(f"/{it.backend}/", it.server, ids)
    if it.side == "request":
        head = f"frontend {front}: invalid request\n  backend {back}"
    else:
        head = f"backend {back}: invalid response\n  frontend {front}"
    size = len(it.octets)
    return (
        f" \n{_date(it.at)} {head}, server {server}, event #{it.number}, src {it.source}\n"
        f"  buffer starts at 0 (including 0 out), {LONGEST - size} free,\n"
        f"  len {size}, wraps at {LONGEST}, error at position {position}\n"
        f"  reason: {printable(it.why)}\n  \n{_text(it.octets)}"
    )


def _named(prefix: str, name: str, ids: Mapping[str, int]) -> str:
    return f"{name} (#{ids.get(prefix + name, -1)})" if name else "<NONE> (#-1)"


def _date(moment: float) -> str:
    date = time.strftime("%d/%b/%Y:%H:%M:%S", time.localtime(moment))
    return f"[{date}.{int(moment % 1 * 1000):03}]"


def _text(octets: bytes) -> str:
    """Lines as they were, those that are too long in several."""
    lines, line, begins = [], "  00000  ", 0
    for at, octet in enumerate(octets):
        shown = _ESCAPES.get(octet) or (chr(octet) if 0x20 <= octet < 0x7F else f"\\x{octet:02X}")
        if len(line) + len(shown) > _WIDTH:
            lines.append(line)
            line = f"  {at:05}+ "
        line += shown
        if octet == 0x0A:
            lines.append(line)
            begins = at + 1
            line = f"  {begins:05}  "
    if begins < len(octets):
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def wanted(proxy: str | None, side: str | None, captures: Sequence[Capture]) -> list[Capture]:
    """Those of a proxy and a side, if one is named; of each the last."""
    found: dict[tuple[str, str], Capture] = {}
    for capture in sorted(captures, key=lambda each: each.at):
        if side in (None, capture.side) and proxy in (None, capture.frontend, capture.backend):
            found[capture.side, capture.proxy] = capture
    return list(found.values())
