"""What operators have changed while it runs, apart from what the configuration says: who, why, and until when.

An override is of one thing (`kind`) of one `target`: a server (backend, name), a frontend (name,) or the whole daemon
(). It goes when its time is over, when it is undone, and when the configuration comes to say something else of that
very thing than it did when the override was made. Pure; times are Unix time in seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

from balancer.config import model
from balancer.config.model import Config, Server

__all__ = [
    "LONGEST_WHY",
    "VERSION",
    "Dropped",
    "Key",
    "Kind",
    "Override",
    "Overrides",
    "Target",
    "decode",
    "encode",
    "joined",
    "line",
    "named",
    "reconciled",
    "server_words",
    "written",
]

Target = tuple[str, ...]
Kind = Literal["deleted", "added", "address", "maxconn", "state", "weight", "checks", "health"]
Key = tuple[Target, Kind]
Value = str | int | bool | dict[str, Any] | None

VERSION = 1
"""Of the file's format."""
LONGEST_WHY = 256
"""Characters."""
_KINDS = get_args(Kind)
_VALUES: dict[Kind, type | tuple[type, ...]] = {
    "added": dict,
    "deleted": bool,
    "address": str,
    "maxconn": int,
    "state": str,
    "weight": int,
    "checks": str,
    "health": str,
}
_WORDS = {"state": ("ready", "drain", "maint"), "checks": ("on", "off"), "health": ("up", "down")}
_MOST_WEIGHT = 256
_LONGEST_WORD = 1024


class Override(NamedTuple):
    """One of them."""

    target: Target
    kind: Kind
    value: Any
    configured: Any
    """What the configuration said of it then."""
    by: str
    at: float
    why: str = ""
    until: float | None = None
    """None: for good."""

    @property
    def key(self) -> Key:
        return self.target, self.kind

    @property
    def told(self) -> str:
        """What it makes of its target: `state drain`, `weight 5`, `added at 10.0.0.5:80 weight 5`, `deleted`."""
        if self.kind == "deleted":
            return "deleted"
        if self.kind == "added":
            return f"added at {server_words(self.value)}"
        return f"{self.kind} {self.value}"


Overrides = dict[Key, Override]


class Dropped(NamedTuple):
    """One that holds no more, and the reason."""

    override: Override
    why: str


def server_words(server: Mapping[str, Any]) -> str:
    """A server as it was added: `10.0.0.5:80 weight 5 check`."""
    words = [str(server["address"])]
    for key, value in server.items():
        if value is True:
            words.append(key)
        elif isinstance(value, dict):
            words += [key, *(f"{name} {inner}" for name, inner in value.items() if name != "enabled")]
        elif key != "address" and value is not False:
            words += [key, str(value)]
    return " ".join(words)


def named(target: Target) -> str:
    """`web/web1`, `frontend ft`, `global`."""
    return "/".join(target) if len(target) == 2 else f"frontend {target[0]}" if target else "global"


def written(config: Config, key: Key, added: Override | None = None) -> Value:
    """What the configuration says of that, or what was said when the server was `added`. LookupError where there is no
    such target."""
    target, kind = key
    if len(target) != 2:
        section = config.frontends[target[0]] if target else config.global_
        return section.maxconn if kind == "maxconn" else None
    backend = config.backends[target[0]]
    server = backend.servers.get(target[1])
    if kind == "added":
        return None if server is None else _words(server)
    if added is not None:
        server = Server.model_validate(added.value)
    if server is None:
        raise LookupError(named(target))
    match kind:
        case "state":
            return "ready"
        case "weight":
            return server.weight
        case "maxconn":
            return server.maxconn
        case "address":
            return str(server.address)
        case "deleted":
            return _words(server)
    return "off" if isinstance(backend.check, model.NoCheck) or not server.check.enabled else "on"


def _words(server: Server) -> dict[str, str]:
    """What is written of a server, to compare with."""
    return {name: str(getattr(server, name)) for name in sorted(server.model_fields_set)}


def reconciled(overrides: Iterable[Override], config: Config, now: float) -> tuple[Overrides, list[Dropped]]:
    """Those that hold with this configuration, and those that do not any more."""
    kept: Overrides = {}
    dropped = []
    for each in sorted(overrides, key=lambda each: _KINDS.index(each.kind)):
        why = _objection(each, config, kept, now)
        if why:
            dropped.append(Dropped(each, why))
        else:
            kept[each.key] = each
    return kept, dropped


def _objection(each: Override, config: Config, kept: Mapping[Key, Override], now: float) -> str:
    if each.until is not None and each.until <= now:
        return "its time is over"
    added = kept.get((each.target, "added"))
    is_deleted = (each.target, "deleted") in kept
    if is_deleted and added is None and each.kind != "added":
        return "it was deleted"
    try:
        says = written(config, each.key, added) if each.kind != "added" or not is_deleted else None
    except LookupError:
        return "it is not in the configuration any more"
    if each.kind == "added" and each.target[0] not in config.backends:
        return "it is not in the configuration any more"
    if says != each.configured:
        if each.kind == "added":
            return "the configuration has a server of that name now"
        if each.kind == "deleted":
            return "the configuration has changed it"
        return f"the configuration has changed it from {_shown(each.configured)} to {_shown(says)}"
    return ""


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def encode(overrides: Iterable[Override]) -> bytes:
    """As the file has it: JSON, a line each."""
    return joined(map(line, overrides))


def line(override: Override) -> str:
    """Its line there."""
    return json.dumps(override._asdict())


def joined(lines: Iterable[str]) -> bytes:
    """The whole of such lines."""
    text = ",\n".join(lines)
    return f'{{"version": {VERSION}, "overrides": [\n{text}\n]}}\n'.encode("ascii")


def decode(octets: bytes) -> Overrides:
    """ValueError where that is no such text; it says why."""
    try:
        text = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(text, dict) or not isinstance(text.get("overrides"), list):
        raise ValueError("it has no list of overrides")
    if text.get("version") != VERSION:
        raise ValueError(f"it is of version {str(text.get('version'))[:20]}, and {VERSION} is understood")
    found: Overrides = {}
    for number, row in enumerate(text["overrides"], 1):
        try:
            each = _override(row)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"override {number} makes no sense: {error!r}") from None
        found[each.key] = each
    return found


def _override(row: dict[str, Any]) -> Override:
    kind, target, value = row["kind"], tuple(row["target"]), row["value"]
    if kind not in _KINDS:
        raise ValueError(f"there is no kind {kind!r}")
    kind = cast(Kind, kind)
    texts = [*target, row["by"], row["why"]]
    if not all(isinstance(each, str) and len(each) <= _LONGEST_WORD for each in texts):
        raise TypeError("a name is none")
    if len(target) > 2 or (len(target) < 2 and kind != "maxconn"):
        raise ValueError(f"{kind} of {len(target)} names")
    if not isinstance(value, _VALUES[kind]) or (isinstance(value, bool) and kind != "deleted"):
        raise TypeError(f"{kind} {value!r}")
    if kind in _WORDS and value not in _WORDS[kind]:
        raise ValueError(f"{kind} {value!r}")
    if isinstance(value, int) and not 0 <= value <= (_MOST_WEIGHT if kind == "weight" else 1_000_000_000):
        raise ValueError(f"{kind} {value!r}")
    if kind == "added":
        Server.model_validate(value)
    until = row["until"]
    if not math.isfinite(row["at"]) or not (until is None or math.isfinite(until)):
        raise ValueError("a time is none")
    return Override(
        target=target,
        kind=kind,
        value=value,
        configured=row["configured"],
        by=row["by"],
        at=float(row["at"]),
        why=row["why"][:LONGEST_WHY],
        until=None if until is None else float(until),
    )
