"""YAML text to `Config`, each complaint with file, line and column. The one place where yaml is imported.

    bytes → events (PyYAML) → tree with places → the overrides of a node merged → model → check

A file is read as YAML 1.1 with anchors, aliases and `<<`, and without tags. In values, `${NAME}` and
`${NAME:-default}` stand for an environment variable, and `$${` for a plain `${`. They are replaced after
YAML is parsed, so that a variable cannot add keys; a plain scalar is then read anew (`weight: ${W}` is a
number), a quoted one stays text. Between `{` and `}` of a YAML flow mapping a variable needs quotes.

`nodes.<name>` is merged over the rest of the file (mappings key by key, all else replaced) on the host
of that name. Each host's configuration is checked on every load, not only this one's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from balancer.config import tree
from balancer.config.hosts import configure
from balancer.config.model import Config
from balancer.config.secret import is_secret, key_path
from balancer.config.words import did_you_mean, shown
from balancer.errors import ConfigError, Problem

__all__ = ["load", "loads", "written"]

# Some fifty thousand servers; far more is a mistake, and would take minutes.
_LARGEST_FILE = 4 << 20
# Values of the file, its aliases expanded.
_MOST_VALUES = 200_000
# The model is eight levels deep.
_DEEPEST = 32

_NOT_YAML = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TOO_DEEP = f"is nested too deep; {_DEEPEST} levels are allowed"
_TEXT_TAGS = frozenset((None, "!", "tag:yaml.org,2002:str"))
# libyaml parses ten times faster; both give the same events.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_HINTS = {
    "mapping values are not allowed": "; a value with `: ` in it needs quotes, or the indentation is wrong",
    "could not find expected ':'": "; a key is followed by `: `, or the indentation is wrong",
    "did not find expected key": "; look at the indentation and the quotes",
    "did not find expected ',' or": "; a value with ${…}, comma or brackets needs quotes between { } and [ ]",
    "expected alphabetic or numeric character": "; a value that begins with * or & needs quotes",
    "cannot start any token": "; put the value in quotes",
    "unexpected end of stream": "; a quote or bracket is not closed",
}


def load(path: str | os.PathLike[str], *, node: str, environ: Mapping[str, str]) -> Config:
    """Read the file for the host `node`; ConfigError tells of everything that is wrong with it."""
    file = os.fspath(path)
    try:
        with Path(path).open("rb") as stream:
            octets = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([Problem(file, 1, 1, "", f"cannot be read: {reason}")]) from None
    if len(octets) > _LARGEST_FILE:
        raise ConfigError([_too_large(file)])
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place(octets[: error.start].decode("utf-8", "replace"))
        why = f"octet 0x{octets[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(file, line, column, "", why)]) from None
    return loads(text, file=file, node=node, environ=environ)


def loads(text: str, *, file: str = "<string>", node: str, environ: Mapping[str, str]) -> Config:
    """Read a configuration's text; `file` names it in complaints, and relative paths in it start from its directory."""
    problems: list[Problem] = []
    config = None
    try:
        root = _Composer(text, file, environ, problems).compose()
    except _HopelessError as hopeless:
        problems.append(hopeless.problem)
    else:
        config, more = configure(root, file=file, node=node)
        problems += more
    if config is None or problems:
        raise ConfigError(_sorted(problems))
    return config


def written(
    path: str | os.PathLike[str], loc: tree.Loc, *, nodes: Sequence[str], environ: Mapping[str, str]
) -> str | None:
    """The text at `loc` of a file, whatever else is wrong with it: that of the first host of `nodes` that has one of
    its own, or the one for all. None where there is none that can be known."""
    try:
        text = Path(path).read_text("utf-8-sig")
        root = _Composer(text, os.fspath(path), environ, []).compose()
    except (OSError, ValueError, _HopelessError):
        return None
    for each in [*(("nodes", node, *loc) for node in nodes), loc]:
        walked, _, found = tree.find(root, each)
        if walked == each and isinstance(found, tree.Scalar) and isinstance(found.value, str):
            return found.value
    return None


def _sorted(problems: list[Problem]) -> list[Problem]:
    problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
    if len(problems) > tree.MOST_PROBLEMS:
        rest = problems[tree.MOST_PROBLEMS]
        problems[tree.MOST_PROBLEMS :] = [
            Problem(rest.file, rest.line, rest.column, "", "and more problems from here on")
        ]
    return problems


class _HopelessError(Exception):
    """What makes it impossible to go on reading."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def _too_large(file: str) -> Problem:
    return Problem(file, 1, 1, "", f"is too large; {_LARGEST_FILE >> 20} MiB are allowed")


def _place(before: str) -> tuple[int, int]:
    """Line and column, from 1, of what follows `before`."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _Open:
    """A list or mapping whose end was not yet read."""

    __slots__ = ("children", "key", "merged", "node", "path")

    def __init__(self, node: tree.Sequence | tree.Mapping, path: tree.Loc) -> None:
        self.node = node
        self.path = path
        self.key: tree.Entry | None = None
        """The key whose value comes next."""
        self.children: list[tree.Node] = []
        self.merged: tree.Node | None = None
        """The value of `<<`."""


class _Composer:
    """Builds the tree from YAML's events, without recursion: nesting costs no stack."""

    def __init__(self, text: str, file: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._text = text
        self._file = file
        self._environ = environ
        self._problems = problems
        self._anchors: dict[str, tree.Node] = {}
        self._stack: list[_Open] = []
        self._values = 0
        self._root: tree.Node | None = None

    def compose(self) -> tree.Mapping:
        """The whole file as a mapping; _HopelessError when it is none."""
        if len(self._text) > _LARGEST_FILE:
            raise _HopelessError(_too_large(self._file))
        strange = _NOT_YAML.search(self._text)
        if strange:
            line, column = _place(self._text[: strange.start()])
            why = f"the character U+{ord(strange[0]):04X} is not allowed in YAML"
            raise _HopelessError(Problem(self._file, line, column, "", why))
        for event in self._events():
            self._take(event)
        root = self._root
        if root is None or (isinstance(root, tree.Scalar) and root.value is None):
            raise _HopelessError(
                Problem(self._file, 1, 1, "", "is empty; it wants at least `frontends:` and `backends:`")
            )
        if not isinstance(root, tree.Mapping):
            raise _HopelessError(
                self._problem(root, "wants keys such as `frontends:` and `backends:` at its top level")
            )
        return root

    def _events(self) -> Iterator[yaml.Event]:
        loader = _Loader(self._text)
        try:
            while loader.check_event():
                yield loader.get_event()
        except yaml.YAMLError as error:
            raise _HopelessError(self._not_yaml(error)) from None
        finally:
            loader.dispose()

    def _not_yaml(self, error: yaml.YAMLError) -> Problem:
        what = str(getattr(error, "problem", None) or error)
        mark = getattr(error, "problem_mark", None)
        if "end of stream" in what:
            # The end of the file says nothing; where the quote or bracket was opened does.
            mark = getattr(error, "context_mark", None) or mark
        if mark is None:
            return Problem(self._file, 1, 1, "", f"not YAML: {what}")
        hint = next((hint for sign, hint in _HINTS.items() if sign in what), "")
        if self._text[mark.index : mark.index + 1] == "\t":
            hint = "; indent with spaces, tabs are not allowed"
        return Problem(self._file, mark.line + 1, mark.column + 1, "", f"not YAML: {what}{hint}")

    def _take(self, event: yaml.Event) -> None:
        top = self._stack[-1] if self._stack else None
        match event:
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._end()
            case yaml.NodeEvent() if top is not None and isinstance(top.node, tree.Mapping) and top.key is None:
                self._key(event, top)
            case yaml.ScalarEvent():
                self._add(self._scalar(event))
            case yaml.AliasEvent():
                self._add(self._alias(event))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._begin(event)
            case yaml.DocumentStartEvent() if self._root is not None:
                why = "a second document begins here; a configuration is one document, without --- in between"
                raise _HopelessError(Problem(self._file, *_start(event), "", why))

    def _key(self, event: yaml.NodeEvent, top: _Open) -> None:
        line, column = _start(event)
        top.key = tree.Entry("", line, column, tree.Scalar(tree.BROKEN, "", False, line, column))
        if isinstance(event, yaml.ScalarEvent) and event.value and event.tag in _TEXT_TAGS:
            # 400 and on are keys as they stand, not a number and a truth value.
            top.key.key = event.value
            if event.anchor is not None:
                self._anchors[event.anchor] = tree.Scalar(event.value, event.value, False, line, column)
            return
        what = "a key is empty" if isinstance(event, yaml.ScalarEvent) and not event.value else "this is no key"
        if isinstance(event, yaml.CollectionStartEvent):
            raise _HopelessError(self._problem(top.key, f"{what}; a key is a word before `: `", within=top.path))
        self._complain(top.key, f"{what}; a key is a word before `: `", within=top.path)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        node = (tree.Sequence if isinstance(event, yaml.SequenceStartEvent) else tree.Mapping)(*_start(event))
        if event.tag not in (None, "!"):
            self._complain(node, self._of_tag(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        path = self._path()
        self._stack.append(_Open(node, path))
        if len(self._stack) > _DEEPEST:
            raise _HopelessError(self._problem(node, _TOO_DEEP))
        self._count(node, 1)

    def _end(self) -> None:
        done = self._stack.pop()
        if isinstance(done.node, tree.Mapping) and done.merged is not None:
            self._merge(done.node, done)
        tree.measure(done.node, done.children)
        self._add(done.node)

    def _scalar(self, event: yaml.ScalarEvent) -> tree.Scalar:
        plain = event.implicit[0]
        node = tree.Scalar(event.value, event.value, plain, *_start(event))
        self._count(node, 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if event.tag not in _TEXT_TAGS:
            return self._broken(node, self._of_tag(event))
        try:
            if "${" in node.text:
                node.text = tree.substitute(node.text, self._environ)
                node.value = tree.Substituted(node.text)
            if plain and node.text:
                value = tree.resolve(node.text)
                node.value = value if not isinstance(value, str) else node.value
        except ValueError as error:
            return self._broken(node, str(error))
        if plain and not node.text:
            what = f"is empty, as {shown(event.value)} is" if event.value else "has no value"
            return self._broken(node, f"{what}; give it one, or take the key away")
        return node

    def _alias(self, event: yaml.AliasEvent) -> tree.Node:
        name = event.anchor or ""
        node = self._anchors.get(name)
        here = tree.Scalar(tree.BROKEN, "", False, *_start(event))
        if node is None and is_secret(self._path()):
            return self._broken(here, "what begins with * is no text to YAML; put it in quotes")
        if node is None:
            return self._broken(here, f"there is no anchor &{name[:60]} above{did_you_mean(name, self._anchors)}")
        if any(node is open_.node for open_ in self._stack):
            return self._broken(here, f"*{name[:60]} stands within &{name[:60]}: it would contain itself")
        if len(self._stack) + node.height > _DEEPEST:
            raise _HopelessError(self._problem(here, _TOO_DEEP))
        self._count(here, node.size)
        return node

    def _add(self, node: tree.Node) -> None:
        """Put a finished value where it belongs."""
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if isinstance(top.node, tree.Sequence):
            top.node.items.append(node)
            top.children.append(node)
        elif top.key is not None:
            entry, top.key = top.key, None
            entry.node = node
            self._enter(top, top.node, entry)

    def _enter(self, top: _Open, mapping: tree.Mapping, entry: tree.Entry) -> None:
        if not entry.key:
            return
        if entry.key == "<<":
            if top.merged is not None:
                self._complain(entry, "<< stands here twice; write one with a list: `<<: [*a, *b]`", within=top.path)
            else:
                top.merged = entry.node
            return
        first = mapping.entries.get(entry.key)
        if first is not None:
            text = f"this key stands here twice, first on line {first.line}"
            self._complain(entry, text, within=(*top.path, entry.key))
            return
        mapping.entries[entry.key] = entry
        top.children.append(entry.node)

    def _merge(self, mapping: tree.Mapping, done: _Open) -> None:
        """`<<` (yaml.org/type/merge): keys of its own win, then those of the first merged mapping."""
        merged = done.merged
        sources = merged.items if isinstance(merged, tree.Sequence) else [merged]
        for source in sources:
            if not isinstance(source, tree.Mapping):
                if not (isinstance(source, tree.Scalar) and source.value is tree.BROKEN):
                    why = "<< wants an alias of a mapping, or a list of them: `<<: *web`"
                    self._complain(source or mapping, why, within=done.path)
                continue
            new = [entry for key, entry in source.entries.items() if key not in mapping.entries]
            self._count(mapping, len(source.entries) + sum(entry.node.size for entry in new))
            for entry in new:
                mapping.entries[entry.key] = entry
                done.children.append(entry.node)

    def _count(self, node: tree.Node, values: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            why = f"there are too many values from here on, aliases and << expanded; {_MOST_VALUES} are allowed"
            raise _HopelessError(self._problem(node, why))

    def _broken(self, node: tree.Scalar, text: str) -> tree.Scalar:
        self._complain(node, text)
        node.value = tree.BROKEN
        return node

    def _complain(self, at: tree.Node | tree.Entry, text: str, *, within: tree.Loc | None = None) -> None:
        problem = self._problem(at, text, within=within)
        if len(self._problems) > tree.MOST_PROBLEMS:
            raise _HopelessError(problem)
        self._problems.append(problem)

    def _of_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> str:
        if is_secret(self._path()):
            return "what begins with ! is no text to YAML; put it in quotes"
        return f"the tag {_tag(event)} is not allowed; write the value alone"

    def _problem(self, at: tree.Node | tree.Entry, text: str, *, within: tree.Loc | None = None) -> Problem:
        path = key_path(self._path() if within is None else within)
        return Problem(self._file, at.line, at.column, path, text)

    def _path(self) -> tree.Loc:
        """The path of the value that comes next."""
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.node, tree.Sequence):
            return (*top.path, len(top.node.items))
        return (*top.path, top.key.key) if top.key is not None else top.path


def _start(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> str:
    return shown(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
