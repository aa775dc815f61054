"""keepalived.conf as blocks of lines of words (keepalived.conf(5)).

# and ! begin a comment anywhere, quotes hold blanks together, a block stands between { and }, whose
braces may stand on lines of their own. `include` names files. `$NAME=value` defines, $NAME and ${NAME} use it. A line
that begins with @NAME is for the configuration id NAME only, with @^NAME for all others.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from balancer.convert.words import Line, Place, Report, UnreadableError, read_text

__all__ = ["Block", "blocks"]

_DEFINITION = re.compile(r"\s*\$([A-Za-z_][A-Za-z0-9_]*)\s*=\s?(.*)")
_USE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_INCLUDES = ("include", "includer", "includem", "includew", "includeb", "includea")
# What would begin a comment as it is.
_PREDEFINED = {"_HASH": '"#"', "_BANG": '"!"'}
# Files that include files; more is a circle.
_DEEPEST = 16
# A definition may hold others.
_MOST_ROUNDS = 20
_LONGEST_LINE = 1 << 16


@dataclass
class Block:
    """A line with the lines between its braces; `is_block` where there were some."""

    line: Line
    inner: list[Block] = field(default_factory=list)
    is_block: bool = False

    @property
    def word(self) -> str:
        return self.line.words[0]

    @property
    def args(self) -> tuple[str, ...]:
        return self.line.words[1:]


def blocks(text: str, file: str, report: Report, *, config_id: str = "") -> list[Block]:
    """All blocks of the file and of those that it includes. Braces too few or too many are told of."""
    top: list[Block] = []
    stack: list[Block] = []
    last: Block | None = None
    for line in _lines(text, file, report, dict(_PREDEFINED), config_id, 0):
        words: list[str] = []
        for word in line.words:
            if word == "{":
                if words:
                    last = _add(Line(tuple(words), line.place), stack, top)
                    words = []
                if last is None:
                    report.lost(line, "a brace opens that belongs to nothing")
                    last = _add(Line(("{",), line.place), stack, top)
                last.is_block = True
                stack.append(last)
                last = None
            elif word == "}":
                if words:
                    _add(Line(tuple(words), line.place), stack, top)
                    words = []
                if stack:
                    stack.pop()
                else:
                    report.lost(line, "a brace closes that was not opened")
                last = None
            else:
                words.append(word)
        if words:
            last = _add(Line(tuple(words), line.place), stack, top)
    for block in stack:
        report.lost(block.line, "this block is not closed")
    return top


def _add(line: Line, stack: list[Block], top: list[Block]) -> Block:
    block = Block(line)
    (stack[-1].inner if stack else top).append(block)
    return block


def _lines(text: str, file: str, report: Report, names: dict[str, str], config_id: str, depth: int) -> Iterator[Line]:
    held: tuple[int, str] | None = None
    for count, row in enumerate(text.split("\n"), 1):
        row = row.rstrip("\r")
        first, row = (held[0], held[1] + row) if held is not None else (count, row)
        held = None
        if row.endswith("\\") and len(row) < _LONGEST_LINE:
            # The next line goes on with this one.
            held = first, row[:-1]
            continue
        yield from _line(row, Place(file, first), report, names, config_id, depth)
    if held is not None:
        yield from _line(held[1], Place(file, held[0]), report, names, config_id, depth)


def _line(row: str, place: Place, report: Report, names: dict[str, str], config_id: str, depth: int) -> Iterator[Line]:
    definition = _DEFINITION.fullmatch(row)
    if definition:
        names[definition[1]] = definition[2].strip()
        return
    words, trouble = _split(_used(row, names))
    if words and words[0].startswith("@") and len(words[0]) > 1:
        is_other = words[0].startswith("@^")
        wanted = words[0][2 if is_other else 1 :]
        if (wanted == config_id) is is_other:
            return
        words = words[1:]
    if not words:
        return
    line = Line(tuple(words), place)
    if trouble:
        report.lost(line, trouble)
    if words[0] in _INCLUDES and len(words) == 2:
        yield from _included(line, report, names, config_id, depth)
    else:
        yield line


def _included(line: Line, report: Report, names: dict[str, str], config_id: str, depth: int) -> Iterator[Line]:
    pattern = os.path.join(os.path.dirname(line.place.file), line.words[1])  # noqa: PTH118, PTH120
    found = sorted(glob.glob(pattern))  # noqa: PTH207
    if not found or depth >= _DEEPEST:
        report.lost(line, "files include each other" if found else "there is no such file")
        return
    for path in found:
        try:
            text = read_text(path)
        except UnreadableError as error:
            report.lost(line, str(error))
        else:
            yield from _lines(text, path, report, names, config_id, depth + 1)


def _used(row: str, names: Mapping[str, str]) -> str:
    """A line with its definitions put in; those it does not know stay."""
    for _ in range(_MOST_ROUNDS):
        new = _USE.sub(lambda match: names.get(match[1] or match[2], match[0]), row)
        if new == row or len(new) > _LONGEST_LINE:
            break
        row = new
    return row


def _split(row: str) -> tuple[list[str], str]:
    words: list[str] = []
    word: str | None = None
    quote = ""
    for c in row:
        if quote:
            quote = "" if c == quote else quote
            word = (word or "") + (c if quote else "")
        elif c in "\"'":
            quote, word = c, word or ""
        elif c in "#!":
            break
        elif c.isspace():
            if word is not None:
                words.append(word)
            word = None
        elif c in "{}":
            words += [word, c] if word is not None else [c]
            word = None
        else:
            word = (word or "") + c
    if word is not None:
        words.append(word)
    return words, f"a quote ({quote}) is not closed" if quote else ""
