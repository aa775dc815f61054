"""A YAML file as a tree that remembers where each value was written, and what its plain scalars mean.

The tree is what `nodes` overrides are merged on; `data` turns it into what the model reads. Aliases
share one node, so a file whose aliases expand to billions of values stays small until it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Mapping_
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "BROKEN",
    "MOST_PROBLEMS",
    "Entry",
    "Finding",
    "Loc",
    "Mapping",
    "Node",
    "Scalar",
    "Sequence",
    "Substituted",
    "find",
    "measure",
    "overlay",
    "resolve",
    "substitute",
]

# Nobody reads more, and a line for each of a megabyte of garbage would fill the journal.
MOST_PROBLEMS = 1000

Loc = tuple[str | int, ...]
"""Keys and indexes from the top of the file to a value."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at `loc`; `at` says whether the value is wrong, its key, or that it is not there."""

    loc: Loc
    text: str
    at: Literal["value", "key", "missing"] = "value"


class _Broken:
    """Stands for a value that was already complained about: nobody says anything more of it."""

    def __repr__(self) -> str:
        return "BROKEN"


BROKEN = _Broken()


class Substituted(str):
    """Text that holds the value of an environment variable."""

    __slots__ = ()


@dataclass(slots=True)
class Scalar:
    """One value. `text` is what stands in the file, `plain` whether it does so without quotes."""

    value: Any
    text: str
    plain: bool
    line: int
    column: int
    size: int = 1
    height: int = 1

    @property
    def data(self) -> Any:
        return self.value


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    size: int = 1
    """Values in it, aliases expanded."""
    height: int = 1
    """Levels of nesting in it."""

    @property
    def data(self) -> tuple[Any, ...]:
        return tuple([item.data for item in self.items])


@dataclass(slots=True)
class Entry:
    """A key, where it was written, and its value."""

    key: str
    line: int
    column: int
    node: Node


@dataclass(slots=True)
class Mapping:
    """Keys and values; each key once."""

    line: int
    column: int
    entries: dict[str, Entry] = field(default_factory=dict)
    size: int = 1
    height: int = 1

    @property
    def data(self) -> dict[str, Any]:
        return {key: entry.node.data for key, entry in self.entries.items()}


Node = Scalar | Sequence | Mapping


def find(root: Mapping, loc: Loc) -> tuple[Loc, Entry | None, Node]:
    """Follow `loc` as far as the tree goes: the part that could be walked, the last key passed, the value there.

    What is not in the tree is passed over: a scalar that stands for a list of one, for a mapping's
    main key, or the name of a union's member.
    """
    node: Node = root
    entry: Entry | None = None
    walked: list[str | int] = []
    for step in loc:
        if isinstance(node, Mapping) and step in node.entries:
            entry = node.entries[str(step)]
            node = entry.node
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            continue
        walked.append(step)
    return tuple(walked), entry, node


def overlay(base: Mapping, over: Mapping) -> Mapping:
    """`over` merged over `base`: mappings key by key, all else replaced. Both stay as they are."""
    merged = Mapping(base.line, base.column, dict(base.entries))
    for key, entry in over.entries.items():
        below = base.entries.get(key)
        if below is not None and isinstance(below.node, Mapping) and isinstance(entry.node, Mapping):
            entry = Entry(key, below.line, below.column, overlay(below.node, entry.node))
        merged.entries[key] = entry
    merged.size = 1 + sum(entry.node.size for entry in merged.entries.values())
    return merged


# What a plain scalar means: YAML 1.1, as PyYAML and most tools read it.
_BOOL = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_NULL = frozenset(("~", "null", "Null", "NULL"))
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# Notations of numbers that hardly anyone means, and that YAML 1.2 reads in another way.
_ODD = {
    "octal": re.compile(r"[-+]?0o?[0-9_]+"),
    "hexadecimal": re.compile(r"[-+]?0x[0-9a-fA-F_]+"),
    "binary": re.compile(r"[-+]?0b[01_]+"),
    "base 60": re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"),
    "underscores between digits": re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?"),
}
# More digits than any number of a configuration has; int() of a huge one takes quadratic time, or fails.
_MOST_DIGITS = 18

_VARIABLE = re.compile(r"\$(\$(?=\{)|\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?)")


def resolve(text: str) -> Any:
    """The value of a plain scalar; ValueError for what people mean one way and YAML reads another."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if not text or text[0] not in "+-.0123456789":
        return text
    if _INT.fullmatch(text):
        if len(text) > _MOST_DIGITS:
            raise ValueError("this number is too large; put it in quotes if it is meant as text")
        return int(text)
    for name, notation in _ODD.items():
        if notation.fullmatch(text):
            what = f"{text} without quotes" if len(text) <= 40 else "this"
            raise ValueError(
                f"{what} is a number to YAML ({name}); put it in quotes if it is text, or write the number in decimal"
            )
    if _FLOAT.fullmatch(text):
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if abs(number) == float("inf") and "inf" not in text.lower():
            raise ValueError("this number is too large; put it in quotes if it is meant as text")
        return number
    return text


def substitute(text: str, environ: Mapping_[str, str]) -> str:
    """`${NAME}` and `${NAME:-default}` replaced, `$${` made `${`; ValueError for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        whole, name, default = match[1], match[2], match[3]
        if whole == "$":
            return "$"
        if name is None:
            raise ValueError("a variable is written ${NAME} or ${NAME:-default}, and a plain ${ is written $${")
        if default is not None:
            return environ.get(name) or default
        if name not in environ:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return environ[name]

    return _VARIABLE.sub(value, text)


def measure(node: Sequence | Mapping, children: Sequence_[Node]) -> None:
    """Fill in size and height, once all that is in `node` is known."""
    node.size = 1 + sum(child.size for child in children)
    node.height = 1 + max((child.height for child in children), default=0)
