"""A line of the access log, as `log_format` gives it: HAProxy's log-format, `%ci:%cp %{+Q}r`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from balancer.config.words import a_list_of, did_you_mean

__all__ = ["Field", "Part", "fields", "parse"]

_BOTH = frozenset(
    ("ci", "cp", "t", "T", "Tl", "Ts", "ms", "f", "ft", "b", "s", "Tw", "Tc", "Td", "Tt", "B", "U", "ts", "tsc",
     "ac", "fc", "bc", "sc", "rc", "sq", "bq", "H", "pid")
)  # fmt: skip
_HTTP = frozenset(
    ("tr", "Tq", "TR", "Tr", "Ta", "ST", "CC", "CS", "hr", "hs", "hrl", "hsl", "r", "HM", "HP", "HPO", "HQ", "HU", "HV",
     "ID", "fi", "fp", "si", "sp")
)  # fmt: skip
_VARIABLE = re.compile(r"%(?:(%)|(?:\{([^}]*)(\}?))?([A-Za-z]*))")
_FLAGS = re.compile(r"[+-][QE](?:, *[+-][QE])*")


@dataclass(frozen=True, slots=True)
class Field:
    """What is put in for each record."""

    name: str
    quoted: bool = False
    """Q: between quotation marks."""
    escaped: bool = False
    """E: a backslash before quotation marks, backslashes and closing brackets (RFC 5424 section 6.3.3)."""


Part = str | Field


def parse(text: str) -> tuple[Part, ...]:
    """Plain text and fields in turn; ValueError says what is wrong with a variable."""
    parts: list[Part] = []
    usual = frozenset[str]()
    plain, since = "", 0
    for match in _VARIABLE.finditer(text):
        plain += text[since : match.start()]
        since = match.end()
        if match[1]:
            plain += "%"
            continue
        flags = _flags(match, usual)
        name = match[4]
        if name == "o":
            usual = flags
            continue
        if name not in _BOTH | _HTTP:
            raise ValueError(_unknown(text, match))
        if plain:
            parts.append(plain)
            plain = ""
        parts.append(Field(name, "Q" in flags, "E" in flags))
    plain += text[since:]
    if plain:
        parts.append(plain)
    return tuple(parts)


def _flags(match: re.Match[str], usual: frozenset[str]) -> frozenset[str]:
    if match[2] is None:
        return usual
    if not match[3] or not _FLAGS.fullmatch(match[2]):
        raise ValueError(f"%{{{match[2][:20]}: flags are written %{{+Q}}r, and there are Q (quoted) and E (escaped)")
    flags = set(usual)
    for flag in match[2].replace(" ", "").split(","):
        (flags.add if flag[0] == "+" else flags.discard)(flag[1])
    return frozenset(flags)


def _unknown(text: str, match: re.Match[str]) -> str:
    if not match[4]:
        after = text[match.end() : match.end() + 1]
        hint = "; of sample expressions none are known here, captured headers are %hr and %hs" if after == "[" else ""
        return f"a % wants a variable behind it, such as %ci, and a plain one is %%{hint}"
    choices = sorted(_BOTH | _HTTP, key=lambda name: (name.lower(), name))
    near = did_you_mean(match[4], choices)
    return f"there is no variable %{match[4][:20]}; there are {a_list_of(choices, last='and')}{near}"


def fields(text: str, *, of_http: bool = False) -> set[str]:
    """Names of the variables in a text that is right; `of_http`, those that a TCP connection has nothing for."""
    names = {part.name for part in parse(text) if isinstance(part, Field)}
    return names & _HTTP if of_http else names
