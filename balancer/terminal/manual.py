"""What the command line says of itself beyond its options: examples and exit statuses, and all of it as a man page; the
configuration's keys as another.

Imported with every command: nothing here needs more than argparse. Pure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["EPILOGS", "commands", "explain", "keys", "page"]

_ASKING = "exit status: 0 done, 1 the daemon cannot be asked, or says no (the text says why), 2 wrong usage"
EPILOGS = {
    "check": """\
examples:
  pybalancer check -c balancer.yaml
  pybalancer check -c balancer.yaml --node standby && systemctl reload pybalancer

exit status: 0 OK (warnings go to stderr), 1 mistakes, 2 wrong usage""",
    "schema": """\
examples:
  pybalancer schema > balancer.schema.json    for editors
  pybalancer schema status                    what status --json says

exit status: 0 done""",
    "show kernel": f"""\
examples:
  pybalancer show kernel
  pybalancer show kernel | grep 192.168.1.202

{_ASKING}""",
    "overrides": f"""\
examples:
  pybalancer overrides
  pybalancer overrides --json | jq -r '.[].why'

{_ASKING}""",
    "forget": """\
examples:
  pybalancer forget web/web1
  pybalancer forget '*/*'                     all is as the configuration says

exit status: 0 done, 1 not all of it, or not at all (the text says why), 2 wrong usage""",
    "why": f"""\
examples:
  pybalancer why                              all virtual routers
  pybalancer why VI_E

{_ASKING}""",
    "vrrp show": f"""\
examples:
  pybalancer vrrp show

{_ASKING}""",
    "vrrp release": f"""\
examples:
  pybalancer vrrp release --for 30m           all addresses go to the other director, for maintenance
  pybalancer vrrp release VI_E

{_ASKING}""",
    "vrrp hold": f"""\
examples:
  pybalancer vrrp hold                        the maintenance is over

{_ASKING}""",
    "demo": """\
examples:
  pybalancer demo
  pybalancer demo --ports 9000
  pybalancer demo --show-config > balancer.yaml

exit status: 0 ended by a signal, 1 it cannot be started (the text says why), 130 Ctrl-C""",
    "manual": """\
examples:
  pybalancer manual | man -l -
  pybalancer manual keys | man -l -           of balancer.yaml
  pybalancer manual > /usr/local/share/man/man1/pybalancer.1

exit status: 0 done""",
}
"""Of commands that have none of their own, by their words."""
_EXIT = """\
0    done; of status: all is well
1    a configuration or a machine that will not do, a daemon that cannot be asked: the text says why
2    wrong usage
3    of status: something is down; of drain and maint with --wait: not empty in time; of reload: rolled back
4    of status: a backend has no server
130  interrupted"""
_FILES = """\
/etc/pybalancer/balancer.yaml   the configuration
/run/pybalancer/admin.sock      the runtime socket, where global.runtime_socket says so"""


def commands(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Each command that does something: its words, what it is for in a line, and its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            for name, command in action.choices.items():
                whole = f"{words} {name}".strip()
                inner = [*commands(command, whole)]
                yield from inner or [(whole, helps.get(name, ""), command)]


class _Help(argparse.HelpFormatter):
    """Examples stay as they are; a text without line breaks is as wide as the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def explain(parser: argparse.ArgumentParser) -> None:
    """Have examples look like examples, and give those and exit statuses to commands that have none."""
    parser.formatter_class = _Help
    for words, _, command in commands(parser):
        command.epilog = command.epilog or EPILOGS.get(words)
        command.formatter_class = _Help


def page(parser: argparse.ArgumentParser, version: str) -> str:
    """All of it as a man page (man(7))."""
    lines = [
        f'.TH PYBALANCER 1 "" "pybalancer {_escaped(version)}" "User Commands"',
        ".SH NAME",
        _text("pybalancer - load balancing with high availability"),
        ".SH SYNOPSIS",
        r"\fBpybalancer\fP [\fB\-c\fP \fIFILE\fP] [\fB\-\-node\fP \fINAME\fP]",
        ".br",
        r"\fBpybalancer\fP \fICOMMAND\fP \&...",
        ".SH DESCRIPTION",
        _text(parser.description or ""),
        "Without a command it balances, until SIGTERM.",
        ".SH OPTIONS",
        *_options(parser),
        ".SH COMMANDS",
    ]
    for words, help_, command in commands(parser):
        lines += [f'.SS "{_escaped(words)} {_escaped(_operands(command))}"'.replace(' "', '"').replace('.SS"', '.SS "')]
        lines += [_text(command.description or f"{help_[:1].upper()}{help_[1:]}."), *_options(command)]
        if command.epilog:
            lines += [".PP", *_verbatim(command.epilog.strip())]
    lines += [".SH EXIT STATUS", *_verbatim(_EXIT), ".SH FILES", *_verbatim(_FILES), ".SH EXAMPLES"]
    lines += _verbatim((parser.epilog or "").strip().removeprefix("examples:\n"))
    lines += _see("pybalancer.yaml (5)", "haproxy (1)", "ipvsadm (8)", "keepalived (8)")
    return "\n".join(lines) + "\n"


def keys(schema: Mapping[str, Any], version: str) -> str:
    """The keys of balancer.yaml, as of its JSON schema, as a man page."""
    lines = [
        f'.TH PYBALANCER.YAML 5 "" "pybalancer {_escaped(version)}" "File Formats"',
        ".SH NAME",
        _text("pybalancer.yaml - the configuration of pybalancer, by itself /etc/pybalancer/balancer.yaml"),
        ".SH DESCRIPTION",
        _text(schema["description"]),
        "Durations have a unit (us, ms, s, m, h, d), and so may sizes (k, m, g).",
        _text('"${NAME}" is what the environment has, "${NAME:-text}" has a default.'),
    ]
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", schema)]
    # What a host overrides is all of the above once more.
    known = {"Node"}
    while waiting:
        path, part = waiting.pop(0)
        of = part["properties"].get("type", {}).get("const")
        title = f"{path} of type {of}" if of else path or "KEYS"
        lines += [f'.SH "{_escaped(title)}"', _text(part.get("description", "") if path else "")]
        for key, own in part["properties"].items():
            default = own.get("default")
            shown = f" (default: {_yaml(default)})" if isinstance(default, (bool, int, float, str)) else ""
            said = f"{own.get('description') or 'See below.'}{shown}"
            lines += [".TP", rf"\fB{_escaped(key)}\fP", _text(said)]
            for name, suffix in _parts(own):
                if name not in known and "properties" in schema["$defs"][name]:
                    known.add(name)
                    waiting.append((f"{path}.{key}{suffix}".removeprefix("."), schema["$defs"][name]))
    lines += _see("pybalancer (1)")
    return "\n".join(line for line in lines if line) + "\n"


def _parts(schema: Any, suffix: str = "") -> Iterator[tuple[str, str]]:
    """The mappings that may stand at a key, by their names in the schema, and what follows the key then."""
    if isinstance(schema, list):
        for each in schema:
            yield from _parts(each, suffix)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            yield name, suffix
        for key in ("anyOf", "oneOf", "allOf", "items"):
            yield from _parts(schema.get(key), suffix)
        for inner in (*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")):
            yield from _parts(inner, f"{suffix}.NAME")


def _yaml(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _see(*pages: str) -> list[str]:
    return [".SH SEE ALSO", ",\n".join(f".BR {_escaped(each)}" for each in pages)]


def _operands(command: argparse.ArgumentParser) -> str:
    found = []
    for action in command._actions:
        if not action.option_strings and action.help is not argparse.SUPPRESS:
            name = action.metavar if isinstance(action.metavar, str) else "|".join(map(str, action.choices or ()))
            name = name or action.dest
            found.append({"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name))
    return " ".join(found)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help in (None, argparse.SUPPRESS):
            continue
        names = ", ".join(rf"\fB{_escaped(name)}\fP" for name in action.option_strings)
        value = ""
        if action.nargs != 0:
            name = action.metavar if isinstance(action.metavar, str) else "|".join(map(str, action.choices or ()))
            value = rf"\fI{_escaped(name or action.dest)}\fP"
        yield ".TP"
        yield f"{names} {value}".strip()
        yield _text(str(action.help).replace("%%", "%"))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")


def _text(text: str) -> str:
    """A paragraph; no line of it is a request."""
    return "\n".join(_guarded(line.strip()) for line in text.split("\n"))


def _verbatim(text: str) -> list[str]:
    return [".nf", *(_guarded(line) for line in text.split("\n")), ".fi"]


def _guarded(line: str) -> str:
    line = line.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line
