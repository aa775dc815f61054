"""`log_format`, compiled: HAProxy's variables (configuration manual, section 8.2.6) for records of HTTP and TCP."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable

from balancer.config.logformat import Field, parse
from balancer.observe import lines
from balancer.observe.lines import NO_SERVER, Blank
from balancer.pool.records import HttpRecord, Record, TcpRecord

__all__ = ["compile_format"]

Value = Callable[[HttpRecord | TcpRecord], str]
OfHttp = Callable[[HttpRecord], str]
# None: nothing at all, and no space for it.
Piece = Callable[[HttpRecord | TcpRecord], str | None]
# What flags are for; numbers, dates and codes stand as they are.
_TEXTS = frozenset(
    ("ci", "cp", "f", "ft", "b", "s", "H", "CC", "CS", "r", "HM", "HP", "HPO", "HQ", "HU", "HV", "ID", "fi", "fp", "si",
     "sp")
)  # fmt: skip
# RFC 5424 section 6.3.3.
_SPECIAL = re.compile(r'(["\\\]])')


def compile_format(text: str, blank: Blank) -> Callable[[Record], str]:
    """The line for a record; of a datagram or a kernel's flow the usual one. `blank`: how much is captured.

    As in HAProxy spaces in a row are one, and captured headers take none where nothing is captured.
    """
    words: list[list[str | Piece]] = [[]]
    for part in parse(text):
        if isinstance(part, Field):
            words[-1].append(_piece(part, blank))
            continue
        for i, plain in enumerate(re.split(" +", part)):
            if i:
                words.append([])
            if plain:
                words[-1].append(plain)
    filled = [word for word in words if word]

    def line(record: Record) -> str:
        if not isinstance(record, (HttpRecord, TcpRecord)):
            return lines.format_haproxy(record)
        found = []
        for word in filled:
            values = [value for piece in word if (value := _of(piece, record)) is not None]
            if values:
                found.append("".join(values))
        return " ".join(found)

    return line


def _of(piece: str | Piece, record: HttpRecord | TcpRecord) -> str | None:
    return piece if isinstance(piece, str) else piece(record)


def _constant(text: str) -> Value:
    return lambda _: text


def _piece(field: Field, blank: Blank) -> Piece:
    name = field.name
    if name in ("hr", "hs", "hrl", "hsl"):
        return _headers(field, blank)
    if name == "H":
        return _flagged(_constant(re.sub(r"[^!-~]", "", socket.gethostname())), field)
    if name == "pid":
        return _constant(str(os.getpid()))
    value = _BOTH.get(name) or _only_http(_HTTP[name])
    return _flagged(value, field) if name in _TEXTS else value


def _only_http(value: OfHttp) -> Value:
    return lambda record: value(record) if isinstance(record, HttpRecord) else ""


def _flagged(value: Value, field: Field) -> Value:
    # As HAProxy writes nothing.
    nothing = '""' if field.quoted else "" if field.name == "HQ" else "-"

    def flagged(record: HttpRecord | TcpRecord) -> str:
        text = value(record)
        return _marked(text, field) if text else nothing

    return flagged


def _marked(text: str, field: Field) -> str:
    if field.escaped:
        text = _SPECIAL.sub(r"\\\1", text)
    return f'"{text}"' if field.quoted else text


def _headers(field: Field, blank: Blank) -> Piece:
    of_request = field.name[1] == "r"
    count = blank.requests if of_request else blank.responses
    is_list = field.name[2:] == "l"

    def headers(record: HttpRecord | TcpRecord) -> str | None:
        if not count or not isinstance(record, HttpRecord) or not record.request_line:
            return None
        details = record.details
        octets = (b"",) * count if details is None else details.request if of_request else details.response
        values = list(map(lines.header, octets))
        if is_list:
            return " ".join([_marked(each, field) if each or field.quoted else "-" for each in values])
        return _marked(lines.braced(values), field)

    return headers


def _local(record: HttpRecord | TcpRecord) -> str:
    zone = time.localtime(record.began)
    return f"{lines.clf_date(record.began)[:-4]} {time.strftime('%z', zone)}"


def _gmt(record: HttpRecord | TcpRecord) -> str:
    t = time.gmtime(record.began)
    day = f"{t.tm_mday:02d}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year:04d}"
    return f"{day}:{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} +0000"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _data_time(record: HttpRecord | TcpRecord) -> str:
    """Td."""
    if isinstance(record, TcpRecord):
        return str(record.tt - record.tw - record.tc if record.tc >= 0 else -1)
    if record.tr_response < 0:
        return "-1"
    return str(record.ta - record.tr_request - record.tw - record.tc - record.tr_response)


def _total(record: HttpRecord | TcpRecord) -> str:
    return str(record.tt if isinstance(record, TcpRecord) else record.ta)


def _word(index: int) -> OfHttp:
    """Of the request line: method, target or version."""

    def word(record: HttpRecord) -> str:
        words = record.request_line.split(b" ")
        return lines.request(words[index]) if index < len(words) else "<BADREQ>"

    return word


def _target(record: HttpRecord) -> bytes | None:
    words = record.request_line.split(b" ")
    return words[1] if len(words) > 1 else None


def _path(record: HttpRecord) -> str:
    target = _target(record)
    return "<BADREQ>" if target is None else lines.request(target.partition(b"?")[0])


def _path_only(record: HttpRecord) -> str:
    """HPO: without scheme and host."""
    target = _target(record)
    if target is None:
        return "<BADREQ>"
    path = target.partition(b"?")[0]
    if b"://" in path:
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return lines.request(path)


def _query(record: HttpRecord) -> str:
    """HQ, with its question mark."""
    target = _target(record)
    if target is None:
        return "<BADREQ>"
    _, mark, query = target.partition(b"?")
    return lines.request(mark + query) if mark else ""


def _end(which: str, part: int) -> OfHttp:
    def end(record: HttpRecord) -> str:
        address = getattr(record.details, which) if record.details is not None else None
        return str(address[part]) if address is not None else ""

    return end


def _cookie(which: str) -> OfHttp:
    return lambda record: lines.cookie(getattr(record.details, which)) if record.details is not None else ""


_BOTH: dict[str, Value] = {
    "ci": lambda r: r.client,
    "cp": lambda r: str(r.client_port),
    "t": lambda r: lines.clf_date(r.began),
    "T": _gmt,
    "Tl": _local,
    "Ts": lambda r: str(int(r.began)),
    "ms": lambda r: f"{int(r.began % 1 * 1000):03d}",
    "f": lambda r: r.frontend,
    "ft": lambda r: r.frontend,
    "b": lambda r: r.backend or r.frontend,
    "s": lambda r: r.server or NO_SERVER,
    "Tw": lambda r: str(r.tw),
    "Tc": lambda r: str(r.tc),
    "Td": _data_time,
    "Tt": _total,
    "B": lambda r: str(r.bytes_read),
    "U": lambda r: str(r.bytes_in),
    "ts": lambda r: r.termination[:2],
    "tsc": lambda r: r.termination,
    "ac": lambda r: str(r.actconn),
    "fc": lambda r: str(r.feconn),
    "bc": lambda r: str(r.beconn),
    "sc": lambda r: str(r.srvconn),
    "rc": lambda r: f"{'+' if r.redispatched else ''}{r.retries}",
    "sq": lambda r: str(r.srv_queue),
    "bq": lambda r: str(r.backend_queue),
}
_HTTP: dict[str, OfHttp] = {
    "tr": lambda r: lines.clf_date(r.began),
    "Tq": lambda r: str(r.tr_request),
    "TR": lambda r: str(r.tr_request),
    "Tr": lambda r: str(r.tr_response),
    "Ta": lambda r: str(r.ta),
    "ST": lambda r: str(r.status),
    "CC": _cookie("cookie"),
    "CS": _cookie("set_cookie"),
    "r": lambda r: lines.request(r.request_line),
    "HM": _word(0),
    "HU": _word(1),
    "HV": _word(2),
    "HP": _path,
    "HPO": _path_only,
    "HQ": _query,
    "ID": lambda r: r.request_id,
    "fi": _end("frontend", 0),
    "fp": _end("frontend", 1),
    "si": _end("server", 0),
    "sp": _end("server", 1),
}
