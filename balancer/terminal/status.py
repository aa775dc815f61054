"""`pybalancer status`: as ipvsadm lists it, as HAProxy's page shows it, or as JSON; once, or again and again."""

from __future__ import annotations

import json
import shutil
import time
from enum import StrEnum
from typing import NamedTuple, TextIO

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.terminal import picture, table
from balancer.terminal.document import Health, document, health
from balancer.terminal.paint import Paint
from balancer.terminal.picture import Pattern

__all__ = ["DEGRADED", "DOWN", "OK", "Form", "Wish", "show"]


class Form(StrEnum):
    """How it is shown."""

    IPVSADM = "ipvsadm"
    HAPROXY = "haproxy"
    JSON = "json"
    QUIET = "quiet"


OK, DEGRADED, DOWN = 0, 3, 4
"""Exit statuses: all is well; a server, a virtual router or another director is down; a backend has no server."""
_STATUSES: dict[Health, int] = {"ok": OK, "degraded": DEGRADED, "down": DOWN}
# Home; to the line's end; to the screen's end (ECMA-48): what stays the same does not flicker.
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR = "\x1b[2J"


class Wish(NamedTuple):
    """What is wanted."""

    form: Form
    patterns: tuple[Pattern, ...] = ()
    """Of these backends and servers alone."""
    words: tuple[str, ...] = ()
    """The command that lists it as ipvsadm does."""
    every: float | None = None
    """Seconds between two looks; None: once."""


def show(path: str, wish: Wish, *, out: TextIO, err: TextIO) -> int:
    """Show it; the exit status. BalancerError where the daemon cannot be asked; who watches is told so, and goes on."""
    if wish.every is None:
        text, status = _look(path, wish, Paint.of(out))
        out.write(text)
        return status
    is_screen = out.isatty() and wish.form is not Form.JSON
    if is_screen:
        out.write(_CLEAR)
    while True:
        began = time.monotonic()
        paint = Paint.of(out)
        try:
            text, _ = _look(path, wish, paint)
        except BalancerError as error:
            text = f"{time.strftime('%X')} {error}\n" if is_screen else ""
            if not is_screen:
                print(error, file=err, flush=True)
        out.write(_in_place(text) if is_screen else text)
        out.flush()
        time.sleep(max(wish.every - (time.monotonic() - began), wish.every / 10))


def _in_place(text: str) -> str:
    """Over what stood there before; as much as the screen holds, which would roll otherwise."""
    most = max(shutil.get_terminal_size((80, 24)).lines - 1, 1)
    lines = text.splitlines()
    return _HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines[:most]) + _CLEAR_REST


def _look(path: str, wish: Wish, paint: Paint) -> tuple[str, int]:
    """The text, and the exit status that goes with it."""
    if wish.form is Form.IPVSADM:
        answer = client.ask(path, *wish.words)
        if answer.is_error:
            raise BalancerError(answer.text.strip())
        return answer.text, OK
    seen = picture.fetch(path)
    part = seen.narrowed(wish.patterns)
    if wish.patterns and not part.frontends and not part.backends:
        raise BalancerError(f"no frontend, backend or server is {' or '.join(each.text for each in wish.patterns)}")
    with_routers = not wish.patterns
    status = _STATUSES[health(part, with_routers=with_routers)]
    if wish.form is Form.JSON:
        return json.dumps(document(part, with_routers=with_routers), separators=(",", ":")) + "\n", status
    if wish.form is Form.QUIET:
        return "", status
    return "".join(f"{line}\n" for line in table.lines(part, paint, with_routers=with_routers)), status
