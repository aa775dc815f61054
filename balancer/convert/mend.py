"""The last word on what was made: what the configuration's own check refuses is taken out again, and told of.

So whatever is imported loads. What is taken out is the smallest part that can be: a key that may be left away, a rule,
a server; in the end a whole section.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balancer.config import read
from balancer.config.model import Config
from balancer.config.secret import key_path
from balancer.convert.render import with_places
from balancer.convert.tree import Loc, Map, Seq, place_of
from balancer.convert.words import Line, Place, Report
from balancer.errors import ConfigError

__all__ = ["mend"]

# Each round takes out all that is known to be wrong; what leads to it by name goes in the next ones.
_MOST_ROUNDS = 60
# Keys without which what they stand in is nothing, from the model: its parent goes with them.
_REQUIRED = frozenset(
    ("address", "backend", "bind", "default_backend", "file", "group", "host_of", "interface", "limit", "mode",
     "name", "peers", "script", "servers", "source", "target", "type", "virtual_ipaddress", "virtual_router_id", "key",
     "regex", "request_header", "response_header", "scheme", "location")
)  # fmt: skip
# What the model says of a file without anything to do.
_NOTHING = "nothing to do"
_RULES = ("http_request", "http_response", "use_backend", "acls", "if")


def mend(
    root: Map, report: Report, *, node: str, environ: Mapping[str, str], files: Mapping[str, str]
) -> Config | None:
    """Take out of `root` what does not load, and return what does; None where nothing is left.

    `files` are those that are to stand beside the configuration.
    """
    with tempfile.TemporaryDirectory(prefix="pybalancer-import-") as directory:
        for name, content in files.items():
            Path(directory, name).write_text(content)
        for _ in range(_MOST_ROUNDS):
            text, locs = with_places(root)
            try:
                return read.loads(text, file=f"{directory}/balancer.yaml", node=node, environ=environ)
            except ConfigError as error:
                wrong = [(locs[min(each.line, len(locs)) - 1], each.text) for each in error.problems] if locs else []
            if not wrong or not _take_out(root, wrong, report):
                return None
    return None


def _take_out(root: Map, wrong: list[tuple[Loc, str]], report: Report) -> bool:
    """Take out all that is wrong; whether there was anything."""
    gone: set[Loc] = set()
    for loc, text in wrong:
        part = () if text.startswith(_NOTHING) else _part_of(loc)
        if not part or any(part[: len(each)] == each for each in gone):
            continue
        # A section that goes as a whole is told of at its head.
        line = place_of(root, loc if len(part) > 1 else part) or place_of(root, loc)
        line = line or Line((".".join(map(str, part)),), Place("(result)", 1))
        report.lost(line, f"{_named(part)} is not taken: {text}")
        gone.add(part)
    # From the end, so that the indexes of lists before stay what they are.
    for loc in sorted(gone, key=lambda each: [(isinstance(step, str), str(step).zfill(9)) for step in each])[::-1]:
        _remove(root, loc)
    return bool(gone)


def _named(loc: Loc) -> str:
    return key_path([step for step in loc if isinstance(step, str)])


def _part_of(loc: Loc) -> Loc:
    """The smallest part around what is wrong that can be left out."""
    for i, step in enumerate(loc):
        if step in _RULES and i + 1 < len(loc):
            # A rule that does less than it says would be another.
            return loc[: i + 2] if step != "if" else loc[:i]
    if loc[:2] == ("stats", "tls"):
        # A page that was to be https is none without it.
        return loc[:1]
    part = loc
    while part:
        last = part[-1]
        if isinstance(last, int):
            return part
        if last in _REQUIRED and len(part) > 1 and not (len(part) == 2 and part[0] in ("frontends", "backends")):
            part = part[:-1]
            continue
        break
    return part


def _remove(root: Map, loc: Loc) -> None:
    """Take a part away, and what is empty then."""
    above: list[Any] = [root]
    for step in loc[:-1]:
        try:
            above.append(above[-1][step])
        except (KeyError, IndexError, TypeError):
            return
    for holder, step in zip(reversed(above), reversed(loc), strict=True):
        if isinstance(holder, Map) and step in holder:
            holder.drop(str(step))
        elif isinstance(holder, Seq) and isinstance(step, int) and step < len(holder):
            holder.drop(step)
        elif isinstance(holder, (dict, list)):
            try:
                del holder[step]  # type: ignore[arg-type]
            except (KeyError, IndexError):
                return
        if holder:
            return
