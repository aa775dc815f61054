"""The screen of `pybalancer top`: what stands there, and what keys make of it. Pure: no terminal, no daemon.

Top.show(picture)     what the daemon says now
Top.press(key)        a key; an `Order` where something is to be done
Top.draw(w, h)        the lines of a screen of that size
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Literal, NamedTuple

from balancer.observe import routers
from balancer.observe.lines import printable
from balancer.observe.routers import duration
from balancer.terminal import table
from balancer.terminal.paint import Paint, cut, short
from balancer.terminal.picture import Picture, Server, Tone
from balancer.terminal.table import COLUMNS, Column, Row

__all__ = ["Line", "Order", "Piece", "Style", "Top"]

Style = Tone | Literal["plain", "strong", "faint", "title", "chosen"]
_SMALLEST = (40, 8)
# Lines below the table.
_FOOT = 2
_SORTS: tuple[Column | None, ...] = (None, *(column for column in COLUMNS if column.sort is not None))
_LEAST = {"STATE": 11, "SINCE": 6, "SESS": 5, "MAX": 5, "RATE": 5, "TOTAL": 5, "IN": 5, "OUT": 5, "ERR": 4, "DOWN": 6}
_LONGEST_INPUT = 100
_HELP = """\
 Up Down PgUp PgDn Home End j k   go to a server
 Space     mark it, for orders to several;  u: no marks any more
 d         drain: nothing new but clients that hold its cookie
 m         maintenance: nobody, and no checks; what is there goes on
 r         ready: an end to either
 w         another weight: 0 to 256, or 50% of the configured one
 K         end its sessions now

 /         filter by name, state or address; empty: all
 t         trouble only: what is not as it should be
 s S       sort servers by another column; the other way round
 Esc       no filter, no sort, no marks
 q         leave

 What ends sessions, leaves a backend without a server, or is for several of
 them is asked for twice. States: UP 2/3 goes down, DOWN 1/2 comes up.
 RATE: requests a second, of servers and mode tcp sessions. ERR: connections
 and responses that failed, responses 5xx."""


class Piece(NamedTuple):
    """A part of a line."""

    text: str
    style: Style = "plain"


Line = tuple[Piece, ...]


class Order(NamedTuple):
    """What is to be done to servers, in the words of the runtime socket."""

    words: tuple[str, ...]
    """`set server {} state drain`; {} stands for each."""
    servers: tuple[str, ...]
    told: str
    """The same for a person."""


class _Mode(Enum):
    LIST = auto()
    HELP = auto()
    FILTER = auto()
    WEIGHT = auto()
    CONFIRM = auto()


class Top:
    """What is seen, chosen and marked. `now` is of a clock in seconds that does not jump."""

    def __init__(self) -> None:
        self.is_over = False
        """Was it told to end?"""
        self.message = ""
        self._picture: Picture | None = None
        self._away: tuple[str, float] | None = None
        self._rows: list[Row] = []
        self._name_width = 0
        self._mode = _Mode.LIST
        self._input = ""
        self._filter = ""
        self._only_trouble = False
        self._sort = 0
        self._is_reversed = False
        self._at = 0
        self._key = ""
        self._first = 0
        self._page = 1
        self._marked: set[str] = set()
        self._asked: Order | None = None

    # What the daemon says

    def show(self, picture: Picture) -> None:
        """It is like this now."""
        self._picture = picture
        self._away = None
        self._marked &= {each.path for each in picture.servers}
        self._choose()

    def is_away(self, why: str, now: float) -> None:
        """It does not answer."""
        self._away = why, self._away[1] if self._away is not None else now

    def _choose(self) -> None:
        """The rows that are wanted; who was selected is so still."""
        seen = self._picture
        if seen is None:
            return
        column = _SORTS[self._sort]
        rows = [*table.rows(seen)]
        if column is not None and column.sort is not None:
            sort = column.sort
            rows = [row for row in rows if row.kind == "server" and self._is_wanted(row)]
            rows.sort(key=lambda row: sort(row.of), reverse=not self._is_reversed)
        elif self._filter or self._only_trouble:
            wanted = {row.key for row in rows if self._is_wanted(row)}
            # A server has its backend above it.
            wanted |= {
                f"backend {row.key.partition('/')[0]}" for row in rows if row.kind == "server" and row.key in wanted
            }
            rows = [row for row in rows if row.key in wanted]
        self._rows = rows
        self._name_width = max((len(self._name(row)) for row in rows), default=0)
        found = next((i for i, row in enumerate(rows) if row.key == self._key), None)
        if found is None:
            # The server at its place, or the first one.
            found = (
                min(self._at, len(rows) - 1)
                if self._key
                else next((i for i, row in enumerate(rows) if row.kind == "server"), 0)
            )
        self._go(found)

    def _is_wanted(self, row: Row) -> bool:
        if self._only_trouble and row.tone == "good":
            return False
        if not self._filter:
            return True
        address = row.of.address if isinstance(row.of, Server) else ""
        return self._filter.lower() in f"{row.key} {row.of.status} {address}".lower()

    def _name(self, row: Row) -> str:
        return row.key if _SORTS[self._sort] is not None else row.cell(COLUMNS[0])

    def _go(self, at: int) -> None:
        self._at = max(min(at, len(self._rows) - 1), 0)
        self._key = self._rows[self._at].key if self._rows else self._key

    # Keys

    def press(self, key: str) -> Order | None:
        """A key: a letter, or `up`, `down`, `pgup`, `pgdn`, `home`, `end`, `enter`, `esc`, `backspace`."""
        match self._mode:
            case _Mode.HELP:
                self._mode = _Mode.LIST
            case _Mode.FILTER | _Mode.WEIGHT:
                return self._type(key)
            case _Mode.CONFIRM:
                asked, self._asked = self._asked, None
                self._mode = _Mode.LIST
                self.message = "" if key in ("y", "Y") else "nothing was done"
                return asked if key in ("y", "Y") else None
            case _Mode.LIST:
                return self._press(key)
        return None

    def _type(self, key: str) -> Order | None:
        mode = self._mode
        if key == "esc":
            self._mode = _Mode.LIST
            if mode is _Mode.FILTER:
                self._filter = ""
                self._choose()
        elif key == "enter":
            self._mode = _Mode.LIST
            if mode is _Mode.WEIGHT and self._input:
                return self._order(("set", "server", "{}", "weight", self._input), f"weight {self._input}")
        elif key == "backspace":
            self._input = self._input[:-1]
        elif len(key) == 1 and key.isprintable() and len(self._input) < _LONGEST_INPUT:
            self._input += key
        if mode is _Mode.FILTER and self._mode is mode:
            self._filter = self._input
            self._choose()
        return None

    def _press(self, key: str) -> Order | None:
        self.message = ""
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -self._page, "pgdn": self._page}
        match key:
            case "q":
                self.is_over = True
            case "?" | "h":
                self._mode = _Mode.HELP
            case "up" | "down" | "k" | "j" | "pgup" | "pgdn":
                self._go(self._at + steps[key])
            case "home" | "g":
                self._go(0)
            case "end" | "G":
                self._go(len(self._rows) - 1)
            case " ":
                self._marked ^= {each.path for each in self._selected()}
                self._go(self._at + 1)
            case "u":
                self._marked.clear()
            case "/":
                self._mode, self._input = _Mode.FILTER, self._filter
            case "t":
                self._only_trouble = not self._only_trouble
                self._choose()
            case "s":
                self._sort, self._is_reversed = (self._sort + 1) % len(_SORTS), False
                self._choose()
            case "S":
                self._is_reversed = not self._is_reversed
                self._choose()
            case "esc":
                self._filter, self._only_trouble, self._sort, self._is_reversed = "", False, 0, False
                self._marked.clear()
                self._choose()
            case "d":
                return self._order(("set", "server", "{}", "state", "drain"), "drain")
            case "m":
                return self._order(("set", "server", "{}", "state", "maint"), "maint")
            case "r":
                return self._order(("set", "server", "{}", "state", "ready"), "ready")
            case "K":
                return self._order(("shutdown", "sessions", "server", "{}"), "end the sessions of")
            case "w" if self._targets():
                self._mode, self._input = _Mode.WEIGHT, ""
        return None

    def _selected(self) -> Sequence[Server]:
        """Of the row that is selected: a server, or all of a backend."""
        if not self._rows:
            return ()
        of = self._rows[self._at].of
        if isinstance(of, Server):
            return (of,)
        return getattr(of, "servers", ())

    def _targets(self) -> tuple[Server, ...]:
        """Those marked, or the one selected."""
        if self._picture is None:
            return ()
        if self._marked:
            return tuple(each for each in self._picture.servers if each.path in self._marked)
        found = tuple(self._selected())
        if not found:
            self.message = "select a server or a backend first"
        return found

    def _order(self, words: tuple[str, ...], told: str) -> Order | None:
        targets = self._targets()
        if not targets:
            return None
        names = tuple(each.path for each in targets)
        order = Order(words, names, f"{told} {names[0] if len(names) == 1 else f'{len(names)} servers'}")
        why = self._doubts(words, targets)
        if not why:
            return order
        self._asked, self._mode = order, _Mode.CONFIRM
        self.message = f"{order.told}? {why} (y/n)"
        return None

    def _doubts(self, words: tuple[str, ...], targets: Sequence[Server]) -> str:
        """Why it is to be asked for twice; empty: it is not."""
        says = []
        sessions = sum(each.traffic.sessions for each in targets)
        if words[0] == "shutdown":
            says.append(f"It ends {sessions} session{'' if sessions == 1 else 's'}.")
        takes_out = words[-1] in ("drain", "maint") or (words[-2] == "weight" and words[-1] in ("0", "0%"))
        if takes_out and self._picture is not None:
            gone = {each.path for each in targets}
            left = [
                backend.name
                for backend in self._picture.backends
                if any(each.path in gone and each.takes_clients for each in backend.servers)
                and not any(each.path not in gone and each.takes_clients for each in backend.servers)
            ]
            if left:
                says.append(f"Nobody is left in {', '.join(left[:3])}{', …' if len(left) > 3 else ''}.")
        if len(targets) > 1 and not says:
            says.append(f"{', '.join(each.path for each in targets[:3])}{', …' if len(targets) > 3 else ''}.")
        return " ".join(says)

    # The screen

    def draw(self, width: int, height: int, now: float) -> list[Line]:
        """As many lines as it is high, none longer than it is wide."""
        if width < _SMALLEST[0] or height < _SMALLEST[1]:
            return [(Piece(cut(f"{_SMALLEST[0]}x{_SMALLEST[1]} is the least", width)),)]
        if self._mode is _Mode.HELP:
            said = _HELP.splitlines()[: height - 1]
            return [*((Piece(cut(line, width)),) for line in said), (Piece("any key goes on", "faint"),)]
        head = [*self._head(width, now)]
        # Its titles are a line too.
        self._page = height - len(head) - 1 - _FOOT
        lines = [*head, *self._table(width), *([()] * height)][: height - _FOOT]
        return [*lines, *self._foot(width)]

    def _head(self, width: int, now: float) -> Iterator[Line]:
        seen = self._picture
        if self._away is not None:
            why, since = self._away
            old = f"as it was {duration(now - since)} ago: " if seen is not None else ""
            yield (Piece(cut(f"{old}{why}", width), "bad"),)
        elif seen is not None:
            yield (Piece(cut(next(table.top_lines(seen, Paint(), with_routers=False)), width), "strong"),)
        else:
            yield (Piece("asking …", "faint"),)
        if seen is not None and seen.routers is not None:
            yield _fitted(self._routers(), width)
        yield _fitted(self._sums(), width)

    def _routers(self) -> Iterator[Piece]:
        standing = self._picture.routers if self._picture is not None else None
        if standing is None or self._picture is None:
            return
        tones: dict[str, Style] = {"MASTER": "good", "FAULT": "bad", "BACKUP": "aside"}
        for each in standing.routers:
            released = " (released)" if each.released_until is not None else ""
            yield Piece(f"{each.name} ")
            yield Piece(f"{each.state}{released}", tones.get(each.state, "unknown"))
            yield Piece("  ")
        for peer in standing.peers:
            yield Piece(f"peer {peer.node or peer.address} ")
            yield Piece("alive" if peer.is_alive else "silent", "good" if peer.is_alive else "bad")
            yield Piece("  ")
        if routers.is_stale(standing, self._picture.at):
            yield Piece("the supervisor is silent", "bad")

    def _sums(self) -> Iterator[Piece]:
        seen = self._picture
        if seen is None:
            return
        words: Counter[tuple[str, Style]] = Counter((each.status.split()[0], each.tone) for each in seen.servers)
        merged: dict[str, tuple[int, Style]] = {}
        for (word, tone), number in words.items():
            word = "no check" if word == "no" else word
            before = merged.get(word, (0, tone))
            merged[word] = before[0] + number, before[1]
        yield Piece(f"{sum(words.values())} servers: ")
        for word, (number, style) in sorted(merged.items(), key=lambda each: -each[1][0]):
            yield Piece(f"{number} {word}", style)
            yield Piece("  ")
        errors = sum(each.traffic.errors for each in seen.backends) + sum(
            each.traffic.errors for each in seen.frontends
        )
        yield Piece(f"{short(errors)} errors")

    def _table(self, width: int) -> Iterator[Line]:
        rows = self._rows
        self._first = max(min(self._first, self._at, max(len(rows) - self._page, 0)), self._at - self._page + 1)
        shown = rows[self._first : self._first + self._page]
        # As wide as on every other page, or it would jump; a mark has a column of its own.
        columns = table.fitting(shown, width - 2, least=_LEAST | {"NAME": min(self._name_width, width // 3)})
        title = table.header(columns)
        sort = _SORTS[self._sort]
        if sort is not None:
            arrow = "^" if self._is_reversed else "v"
            title = title.replace(f" {sort.title}", f"{arrow}{sort.title}", 1)
        yield (Piece(f"{cut(f'  {title}', width):<{width}}", "title"),)
        if not rows:
            yield (Piece("  nothing is like this" if self._filter or self._only_trouble else ""),)
        for i, row in enumerate(shown, self._first):
            yield self._row(row, columns, width, is_selected=i == self._at)

    def _row(self, row: Row, columns: Sequence[tuple[Column, int]], width: int, *, is_selected: bool) -> Line:
        mark = "*" if row.key in self._marked else " "
        pieces = [Piece(f"{'>' if is_selected else ' '}{mark}", "strong")]
        for i, (column, text) in enumerate(table.cells_of(row, columns)):
            if not i:
                name = cut(self._name(row), len(text)) if len(row.cell(column)) <= len(text) else text
                pieces.append(Piece(f"{name:<{len(text)}}", "plain" if row.kind == "server" else "strong"))
            else:
                pieces += [Piece("  "), Piece(text, row.tone if column.title == "STATE" else "plain")]
        if is_selected:
            # The word of its state keeps its colour.
            pieces = [
                piece if piece.style in ("good", "warning", "bad", "aside", "unknown") else Piece(piece.text, "chosen")
                for piece in pieces
            ]
            rest = width - sum(len(piece.text) for piece in pieces)
            pieces.append(Piece(" " * max(rest, 0), "chosen"))
        return tuple(pieces)

    def _foot(self, width: int) -> Iterator[Line]:
        match self._mode:
            case _Mode.FILTER:
                yield (Piece(cut(f"filter: {self._input}_", width), "strong"),)
            case _Mode.WEIGHT:
                yield (Piece(cut(f"weight (0 to 256, or 50%): {self._input}_", width), "strong"),)
            case _:
                yield (Piece(cut(self.message, width), "strong"),)
        said = [f"{self._at + 1 if self._rows else 0}/{len(self._rows)}"]
        if self._filter:
            said.append(f"filter {self._filter}")
        if self._only_trouble:
            said.append("trouble only")
        if self._marked:
            said.append(f"{len(self._marked)} marked")
        keys = "? help  d drain  m maint  r ready  w weight  / filter  s sort  q leave"
        left = printable("  ".join(said))
        yield (
            Piece(
                cut(
                    f"{keys}  |  {left}" if width >= len(keys) + len(left) + 5 else f"? help  q leave  |  {left}", width
                ),
                "faint",
            ),
        )


def _fitted(pieces: Iterator[Piece], width: int) -> Line:
    """As much of it as there is room for."""
    found: list[Piece] = []
    for piece in pieces:
        text = cut(piece.text, width)
        width -= len(text)
        if text:
            found.append(Piece(text, piece.style))
        if width <= 0:
            break
    return tuple(found)
