"""`log`, `log-format` and `capture` of haproxy.cfg: targets, lines, and what they note of a request."""

from __future__ import annotations

import re

from balancer.config import logformat
from balancer.config.logs import LONGEST_LINE
from balancer.convert.tree import Map, Seq
from balancer.convert.words import CannotError, Line, Report, number

__all__ = ["capture", "captured_header", "declared", "line_format", "log_target", "one_or_many", "undeclared"]

_FACILITIES = frozenset(
    ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
     *(f"local{i}" for i in range(8)))
)  # fmt: skip
_LEVELS = frozenset(("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"))
_LONGEST_CAPTURE = 1000
# Sample expressions that are variables as well.
_SAMPLES = {
    "src": "ci", "src_port": "cp", "dst": "fi", "dst_port": "fp", "method": "HM", "path": "HPO", "fe_name": "f",
    "be_name": "b", "srv_name": "s", "status": "ST", "unique-id": "ID", "hostname": "H", "capture.req.method": "HM",
    "capture.req.uri": "HU", "capture.req.ver": "HV",
}  # fmt: skip
_EXPRESSION = re.compile(r"%%|%(?:\([^)]*\))?(\{[^}]*\})?\[((?:[^\]\"]|\"[^\"]*\")*)\]|%(?:\([^)]*\)|\{\})")


def one_or_many(values: Seq) -> Seq | object:
    """A list of one as that one."""
    return values[0] if len(values) == 1 else values


def log_target(line: Line, report: Report) -> Map:
    """`log ADDRESS [len N] [format F] [sample S] FACILITY [LEVEL [LEAST]]` as one of `global.log`."""
    own = Map()
    target = _target_of(line.words[1])
    own.put("target", target)
    levels: list[str] = []
    form = ""
    words = iter(line.words[2:])
    for word in words:
        if word == "len":
            length = number(next(words, ""), least=80, most=65535)
            if length > LONGEST_LINE:
                report.other(line, f"lines have {LONGEST_LINE} octets at most")
            else:
                own.put("len", length)
        elif word == "format":
            form = next(words, "")
        elif word == "sample":
            own.put("sample", next(words, ""))
        elif word == "profile":
            report.other(line, f"there are no profiles ({next(words, '')}); frontends have `log_format`")
        elif word in _FACILITIES and "facility" not in own:
            own.put("facility", word)
        elif word in _LEVELS and len(levels) < 2:
            levels.append(word)
        else:
            raise CannotError(f"{word!r} is neither a facility nor a level")
    if levels and levels[0] != "debug":
        own.put("level", levels[0])
    if len(levels) > 1:
        report.other(line, "what matters more than the second level keeps its own")
    _header(own, form, line, report)
    return own


def _target_of(address: str) -> str:
    if address.removeprefix("unix@").startswith("/dev/log"):
        return "syslog"
    if address in ("stdout", "stderr"):
        return address
    if address in ("fd@1", "fd@2"):
        return "stdout" if address == "fd@1" else "stderr"
    scheme, at, host = address.rpartition("@")
    if host.startswith("/") and scheme in ("", "unix", "uxdg"):
        return f"unix:{host}"
    if at and scheme not in ("ipv4", "ipv6", "udp", "udp4", "udp6", "tcp", "tcp4", "tcp6"):
        raise CannotError("logs go to syslog, sockets, UDP and TCP receivers, stdout and files")
    bare, colon, port = host.rpartition(":")
    if not colon or not port.isdigit() or (":" in bare and not bare.startswith("[")):
        bare, port = host, "514"
    bare = f"[{bare}]" if ":" in bare and not bare.startswith("[") else bare
    return f"{'tcp' if scheme.startswith('tcp') else 'udp'}://{bare}:{port}"


def _header(own: Map, form: str, line: Line, report: Report) -> None:
    is_plain = own["target"] in ("stdout", "stderr")
    if form in ("", "local", "rfc3164"):
        if own["target"].startswith("tcp:") or (is_plain and form):
            own.put("header", "rfc3164")
    elif form == "rfc5424":
        own.put("header", form)
    elif form != "raw" or not is_plain:
        report.other(line, f"there is no format {form}; `header` is rfc3164 or rfc5424, on stdout also none")
    if is_plain and "header" in own:
        report.other(line, "the header is without its priority there, as syslog writes it")


def line_format(line: Line, mode: str) -> str:
    """The text of a `log-format`; CannotError where a variable has no counterpart."""

    def known(match: re.Match[str]) -> str:
        if match[0] == "%%" or match[2] is None:
            return "%%" if match[0] == "%%" else "%"
        name = _SAMPLES.get(match[2].strip())
        if name is None:
            raise CannotError(f"lines hold no expressions (%[{match[2]}]); headers and cookies are for `capture`")
        return f"%{match[1] or ''}{name}"

    text = _EXPRESSION.sub(known, line.words[1])
    try:
        idle = logformat.fields(text, of_http=True) if mode == "tcp" else None
        logformat.parse(text)
    except ValueError as error:
        raise CannotError(str(error).partition("; there are")[0]) from None
    if idle:
        raise CannotError(f"mode tcp has nothing for {', '.join(f'%{name}' for name in sorted(idle))}")
    return text


def capture(line: Line, captures: Seq, report: Report) -> None:
    """`capture request header NAME len N`, `capture response header …`, `capture cookie NAME len N`."""
    match line.words[1:]:
        case ("request" | "response" as side, "header", name, "len", length):
            captures.add(_captured(f"{side}_header", name, length, line, report), line)
        case ("cookie", name, "len", length):
            for i in [i for i, each in enumerate(captures) if "cookie" in each]:
                captures.drop(i)
            captures.add(_captured("cookie", name, length, line, report), line)
        case _:
            raise CannotError("captured are `request header NAME len N`, `response header` and `cookie`")


def _captured(kind: str, name: str, length: str, line: Line, report: Report) -> Map:
    octets = number(length, least=1)
    if octets > _LONGEST_CAPTURE:
        report.other(line, f"{_LONGEST_CAPTURE} octets are captured at most")
    own = Map()
    own.put(kind, name)
    own.put("len", min(octets, _LONGEST_CAPTURE))
    return own


def declared(line: Line, captures: Seq, report: Report) -> None:
    """`declare capture request len N`: a place that a rule `capture … id` is to fill."""
    match line.words[1:]:
        case ("capture", "request" | "response" as side, "len", length):
            captures.add(_captured(f"{side}_header", "", length, line, report), line)
        case _:
            raise CannotError("declared is `capture request len N` or `capture response len N`")


def captured_header(args: list[str], side: str, captures: Seq, line: Line, report: Report) -> str:
    """A rule `capture EXPRESSION len N` or `id PLACE`; the header's name. CannotError where it is none's."""
    prefix = r"(?:req\.)?" if side == "request" else r"res\."
    match = re.fullmatch(prefix + r"(f?)hdr\(([^,()]+)(?:,-1)?\)", args[1] if len(args) > 1 else "")
    if match is None:
        raise CannotError("what is captured is a header, as it is")
    kind = f"{side}_header"
    match args[2:]:
        case ["len", length] if side == "request":
            captures.add(_captured(kind, match[2], length, line, report), line)
        case ["id", place]:
            places = [each for each in captures if kind in each]
            index = number(place)
            if index >= len(places) or places[index][kind]:
                raise CannotError(f"no place {index} is declared for it")
            places[index].put(kind, match[2])
        case _:
            raise CannotError("wants `len N` or `id PLACE`")
    if not match[1]:
        report.other(line, "the whole line is captured, not what stands behind its last comma")
    return match[2]


def undeclared(captures: Seq, report: Report) -> None:
    """Take out the places that no rule has filled."""
    for i in reversed(range(len(captures))):
        if not all(captures[i].values()):
            line = captures.origins[i]
            if line is not None:
                report.lost(line, "no rule that was translated fills it")
            captures.drop(i)
