"""`pybalancer top` at a terminal: draws what `Top` says by curses, and asks the daemon in a thread of its own."""

from __future__ import annotations

import contextlib
import curses
import locale
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.terminal import picture
from balancer.terminal.top import Line, Order, Style, Top

__all__ = ["run"]

# Milliseconds that a key is waited for, before it is looked whether there is something new.
_TURN = 100
# Seconds that the daemon may take for an answer; and, of each second, how much of its time we take at the most.
_PATIENCE = 5.0
_SHARE = 4
_KEYS = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "pgup",
    curses.KEY_NPAGE: "pgdn",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
}
_LETTERS = {"\n": "enter", "\r": "enter", "\x1b": "esc", "\x7f": "backspace", "\b": "backspace"}
_COLOURS = {
    "good": curses.COLOR_GREEN,
    "warning": curses.COLOR_YELLOW,
    "bad": curses.COLOR_RED,
    "aside": curses.COLOR_CYAN,
    "unknown": curses.COLOR_MAGENTA,
}


def run(path: str, *, every: float, environ: Mapping[str, str] = os.environ) -> int:
    """Until `q` or a signal; the exit status. BalancerError where there is no terminal, or nobody to ask."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BalancerError("top wants a terminal; without one there is: pybalancer status --watch")
    # Who has no right to ask, or asks where no daemon is, is told so by the shell's prompt.
    seen = picture.fetch(path, patience=_PATIENCE)
    locale.setlocale(locale.LC_ALL, "")
    # Esc is a key too: not waited for as the beginning of another one for a whole second.
    os.environ.setdefault("ESCDELAY", "25")
    # Some shells export them, and curses would take them for the truth after the terminal has another size.
    for name in ("LINES", "COLUMNS"):
        os.environ.pop(name, None)
    try:
        curses.setupterm()
    except curses.error as error:
        raise BalancerError(f"this terminal (TERM={environ.get('TERM', '')}) is not known: {error}") from None
    top = Top()
    top.show(seen)
    asking = _Asking(path, every)
    ended: list[int] = []
    kept = {number: signal.signal(number, lambda number, _: ended.append(number)) for number in _ENDING}
    asking.start()
    try:
        curses.wrapper(_serve, top, asking, ended, is_coloured=not environ.get("NO_COLOR"))
    except curses.error as error:
        raise BalancerError(f"this terminal (TERM={environ.get('TERM', '')}) cannot show it: {error}") from None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        asking.stop()
    # Ctrl-C is one more way to leave.
    return 0 if not ended or ended[0] == signal.SIGINT else 128 + ended[0]


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Asking(threading.Thread):
    """Asks the daemon again and again, and gives it orders."""

    def __init__(self, path: str, every: float) -> None:
        super().__init__(daemon=True)
        self.news: queue.SimpleQueue[picture.Picture | BalancerError | str] = queue.SimpleQueue()
        """What it says, why it says nothing, or what has become of an order."""
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._path = path
        self._every = every

    def give(self, order: Order) -> None:
        self._orders.put(order)

    def stop(self) -> None:
        self._orders.put(None)

    def run(self) -> None:
        # A signal interrupts the wait for a key, and by that curses learns of another size.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pause = self._every
        while True:
            try:
                order = self._orders.get(timeout=pause)
            except queue.Empty:
                pass
            else:
                if order is None:
                    return
                self._do(order)
            began = time.monotonic()
            try:
                self.news.put(picture.fetch(self._path, patience=_PATIENCE))
            except BalancerError as error:
                self.news.put(error)
            pause = max(self._every, (time.monotonic() - began) * _SHARE)

    def _do(self, order: Order) -> None:
        commands = [[word.replace("{}", name) for word in order.words] for name in order.servers]
        try:
            answers = client.ask_all(self._path, commands, patience=_PATIENCE)
        except BalancerError as error:
            self.news.put(f"{order.told}: {error}")
            return
        wrong = [answer.text.strip() for answer in answers if answer.is_error]
        if wrong:
            more = f" ({len(wrong)} of {len(answers)} servers)" if len(answers) > 1 else ""
            self.news.put(f"{order.told}: {wrong[0]}{more}")
        else:
            self.news.put(f"{order.told}: done")


def _serve(window: curses.window, top: Top, asking: _Asking, ended: list[int], *, is_coloured: bool) -> None:
    styles = _styles(is_coloured=is_coloured)
    # Some terminals cannot hide it.
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    window.timeout(_TURN)
    is_new = True
    while not top.is_over and not ended:
        is_new |= _hear(top, asking)
        if is_new:
            _draw(window, top, styles)
            is_new = False
        key = _key(window)
        # Whoever holds a key down sees where it has got to, not each step.
        while key is not None:
            is_new = True
            order = top.press(key) if key != "resize" else None
            if order is not None:
                top.message = f"{order.told} …"
                asking.give(order)
            window.timeout(0)
            key = _key(window)
        window.timeout(_TURN)


def _hear(top: Top, asking: _Asking) -> bool:
    """Take in what the thread has found. Whether there was anything."""
    is_new = False
    while True:
        try:
            news = asking.news.get_nowait()
        except queue.Empty:
            return is_new
        is_new = True
        if isinstance(news, picture.Picture):
            top.show(news)
        elif isinstance(news, BalancerError):
            top.is_away(str(news), time.monotonic())
        else:
            top.message = news


def _key(window: curses.window) -> str | None:
    try:
        key = window.get_wch()
    except curses.error:
        return None
    if isinstance(key, int):
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
            return "resize"
        return _KEYS.get(key, "")
    return _LETTERS.get(key, key)


def _styles(*, is_coloured: bool) -> dict[Style, int]:
    styles: dict[Style, int] = {
        "plain": curses.A_NORMAL,
        "strong": curses.A_BOLD,
        "faint": curses.A_DIM,
        "title": curses.A_REVERSE,
        "chosen": curses.A_REVERSE,
        "good": curses.A_NORMAL,
        "warning": curses.A_BOLD,
        "bad": curses.A_BOLD,
        "aside": curses.A_NORMAL,
        "unknown": curses.A_NORMAL,
    }
    if is_coloured and curses.has_colors():
        curses.use_default_colors()
        for number, (tone, colour) in enumerate(_COLOURS.items(), 1):
            curses.init_pair(number, colour, -1)
            styles[tone] |= curses.color_pair(number)  # type: ignore[index]
    return styles


def _draw(window: curses.window, top: Top, styles: dict[Style, int]) -> None:
    height, width = window.getmaxyx()
    window.erase()
    lines: list[Line] = top.draw(width, height, time.monotonic())
    for y, line in enumerate(lines[:height]):
        x = 0
        for text, style in line:
            # The last cell of the screen takes its letter, but the cursor cannot go on from there.
            with contextlib.suppress(curses.error):
                window.addnstr(y, x, text, width - x, styles[style])
            x += len(text)
            if x >= width:
                break
    window.refresh()
