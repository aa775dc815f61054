"""haproxy.cfg as sections of lines of words (HAProxy's configuration manual, 2.2 to 2.4).

Outside of quotes a blank ends a word and # the line; `\\ `, `\\#`, `\\\\`, `\\n`, `\\r`, `\\t`, `\\xHH` and quotes
with a backslash stand for one character. Between double quotes, $NAME and ${NAME} are environment variables; between
single quotes nothing is special.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from balancer.convert.words import Line, Place, Report, reference, with_values

__all__ = ["SECTIONS", "Environment", "Section", "sections", "split"]

SECTIONS = frozenset(
    ("global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "userlist", "cache", "mailers",
     "http-errors", "ring", "program", "fcgi-app", "log-forward", "crt-store", "traces", "acme", "log-profile")
)  # fmt: skip

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", " ": " ", "\\": "\\", "#": "#", '"': '"', "'": "'", "$": "$", "\t": "\t"}
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?:-((?:[^}\\]|\\.)*))?(\[\*\])?\}|([A-Za-z_][A-Za-z0-9_]*))")
_HEX = re.compile(r"[0-9A-Fa-f]{2}")
# Set by HAProxy itself (manual, 2.4).
_OWN = frozenset(("HAPROXY_LOCALPEER", "HAPROXY_CFGFILES", "HAPROXY_MWORKER", "HAPROXY_CLI", "HAPROXY_BRANCH"))
# What a configuration is written for that asks.
_VERSION = (2, 6)


@dataclass
class Section:
    """A section with its lines; `args` are the words behind its kind."""

    kind: str
    args: tuple[str, ...]
    head: Line
    lines: list[Line] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.args[0] if self.args else ""


class Environment(dict[str, str]):
    """Variables; `own` are those that the file sets itself, and whose values are put in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self.own: set[str] = set()


def split(text: str, environ: Mapping[str, str]) -> tuple[list[str], str]:
    """The words of one line, and what is wrong with it ("" if nothing).

    A variable that is set becomes a reference to it, one that is not is empty, as in HAProxy.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    i = 0
    while i < len(text):
        c = text[i]
        if c == "\\" and quote != "'":
            taken, i = _escape(text, i)
            word = (word or "") + taken
            continue
        if c == "$" and quote == '"' and (match := _VARIABLE.match(text, i)):
            i = match.end()
            many = _expand(match, environ)
            word = (word or "") + many[0]
            for more in many[1:]:
                words.append(word)
                word = more
            continue
        i += 1
        if c == quote:
            quote = ""
        elif c in "\"'" and not quote:
            quote, word = c, word or ""
        elif c == "#" and not quote:
            break
        elif c in " \t\r\n" and not quote:
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + c
    if word is not None:
        words.append(word)
    return words, f"a quote ({quote}) is not closed" if quote else ""


def _escape(text: str, i: int) -> tuple[str, int]:
    """What the escape at `i` stands for, and where the text goes on."""
    after = text[i + 1 : i + 2]
    if after == "x" and (match := _HEX.match(text, i + 2)):
        return chr(int(match[0], 16)), i + 4
    if after in _ESCAPES and after:
        return _ESCAPES[after], i + 2
    # Of one that it does not know HAProxy leaves the backslash: it is a regular expression's.
    return "\\", i + 1


def _expand(match: re.Match[str], environ: Mapping[str, str]) -> list[str]:
    name = match[1] or match[4]
    if match[3]:
        return environ.get(name, "").split() or [""]
    if environ.get(name):
        is_own = isinstance(environ, Environment) and name in environ.own
        return [environ[name] if is_own else reference(name)]
    return [match[2] or ""]


def sections(text: str, file: str, environ: Environment, report: Report) -> Iterator[Section]:
    """The sections of a file in order. `environ` learns what the file sets (`setenv`, `presetenv`, `unsetenv`)."""
    section: Section | None = None
    conditions: list[bool | None] = []
    for count, row in enumerate(text.split("\n"), 1):
        words, trouble = split(row, environ)
        if not words:
            continue
        of_users = section is not None and section.kind == "userlist" and words[0] not in SECTIONS
        line = Line(tuple(words), Place(file, count), of_users=of_users)
        if words[0].startswith("."):
            _condition(line, conditions, environ, report)
            continue
        if not all(conditions):
            continue
        if trouble:
            report.lost(line, trouble)
            continue
        if words[0] in SECTIONS:
            if section is not None:
                yield section
            section = Section(words[0], tuple(words[1:]), line)
        elif section is None:
            report.lost(line, "stands before the first section")
        else:
            _environment(line, environ)
            section.lines.append(line)
    if section is not None:
        yield section


def _environment(line: Line, environ: Environment) -> None:
    match line.words:
        case ("setenv" | "presetenv" as word, name, value, *_):
            if word == "setenv" or name not in environ:
                environ[name] = with_values(value, environ)
                environ.own.add(name)
        case ("unsetenv", *names):
            for name in names:
                environ.pop(name, None)


def _condition(line: Line, stack: list[bool | None], environ: Mapping[str, str], report: Report) -> None:
    """`.if`, `.elif`, `.else`, `.endif`: None stands for a branch of which another was taken."""
    word = line.words[0]
    if word == ".if":
        stack.append(_holds(line, environ, report) if all(stack) else None)
    elif word in (".elif", ".else") and stack:
        if stack[-1] is False and all(stack[:-1]):
            stack[-1] = True if word == ".else" else _holds(line, environ, report)
        else:
            stack[-1] = None
    elif word == ".endif" and stack:
        stack.pop()
    elif word not in (".notice", ".warning", ".alert", ".diag"):
        report.lost(line, "is no directive of a condition, or stands alone")


def _holds(line: Line, environ: Mapping[str, str], report: Report) -> bool:
    text = with_values("".join(line.words[1:]), environ)
    negated = text.startswith("!")
    text = text.lstrip("!")
    match = re.fullmatch(r"([a-z_]+)\((.*)\)", text)
    args = [arg.strip() for arg in match[2].split(",")] if match else []
    found: bool | None = None
    if not match and re.fullmatch(r"-?[0-9]*", text):
        found = bool(int(text or "0"))
    elif match and match[1] == "defined":
        found = args[0] in environ or args[0] in _OWN
    elif match and match[1] in ("streq", "strneq") and len(args) == 2:
        found = (args[0] == args[1]) is (match[1] == "streq")
    elif match and match[1] in ("version_atleast", "version_before"):
        digits = tuple(int(part) for part in re.findall(r"[0-9]+", args[0])[:2])
        found = (digits <= _VERSION) is (match[1] == "version_atleast")
    elif match and match[1] in ("feature", "openssl_version_atleast", "openssl_version_before"):
        found = False
    if found is None:
        report.lost(line, "this condition is not understood; its lines are left out")
        return False
    return found is not negated
