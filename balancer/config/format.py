"""Text with variables: `https://%[host]/new%[path]` (HAProxy's log-format). `%%[` stands for a plain `%[`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from balancer.config.words import a_list_of, did_you_mean

__all__ = ["OF_RESPONSES", "OF_THE_TARGET", "Part", "Variable", "parse", "variables"]

# What each is stands in README. Some want an argument: header(NAME).
_WITH_ARGUMENT = frozenset(("header", "cookie", "url_param"))
_PLAIN = frozenset(
    ("src", "src_port", "dst", "dst_port", "host", "method", "path", "query", "pathq", "frontend", "backend", "server",
     "date", "timestamp", "user", "scheme", "request_id", "uuid", "req_ver", "res_ver", "status")
)  # fmt: skip
_GROUPS = frozenset("123456789")
OF_RESPONSES = frozenset(("server", "status", "res_ver"))
"""Known only once a server was chosen, or has answered."""
OF_THE_TARGET = _GROUPS | {"host", "method", "path"}
"""What is the same for all requests of one target."""

_VARIABLE = re.compile(r"%(%\[)|%\[([^\]]*)(\]?)")
_NAMED = re.compile(r"([a-z_]+|[1-9])(?:\(([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256})\))?")


@dataclass(frozen=True, slots=True)
class Variable:
    """What is put in for each request."""

    name: str
    argument: str = ""


Part = str | Variable


def parse(text: str) -> tuple[Part, ...]:
    """Plain text and variables in turn; ValueError says what is wrong with a variable."""
    parts: list[Part] = []
    since = 0
    plain = ""
    for match in _VARIABLE.finditer(text):
        plain += text[since : match.start()]
        since = match.end()
        if match[1]:
            plain += match[1]
            continue
        if plain:
            parts.append(plain)
            plain = ""
        parts.append(_variable(match[2], is_closed=bool(match[3])))
    plain += text[since:]
    if plain:
        parts.append(plain)
    return tuple(parts)


def variables(text: str) -> set[str]:
    """Names of the variables in a text that is right."""
    return {part.name for part in parse(text) if isinstance(part, Variable)}


def _variable(written: str, *, is_closed: bool) -> Variable:
    match = _NAMED.fullmatch(written) if is_closed else None
    if match is None:
        raise ValueError(
            f"%[{written[:40]}: a variable is written %[name] or %[name(argument)], and a plain %[ is written %%["
        )
    name, argument = match[1], match[2]
    if name in _WITH_ARGUMENT:
        if argument is None:
            raise ValueError(f"%[{name}] wants an argument: %[{name}(NAME)]")
        return Variable(name, argument)
    if name not in _PLAIN | _GROUPS:
        choices = sorted(_PLAIN) + [f"{each}(NAME)" for each in sorted(_WITH_ARGUMENT)]
        near = did_you_mean(name, [*_PLAIN, *_WITH_ARGUMENT])
        raise ValueError(f"there is no variable {name}; there are {a_list_of(choices, last='and')}{near}")
    if argument is not None:
        raise ValueError(f"%[{name}] has no argument")
    return Variable(name)
