"""What no error text repeats: the values of keys that may hold a password, and the names of users, for a password may
stand in their place; both also where they stand in the wrong place. Line and column say where to look.

A password without quotes is often no text to YAML (`*word`, `!word`, `{word}`, `12345`), so that it is complained of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from balancer.config.words import did_you_mean, printable

__all__ = ["is_secret", "key_path"]

_Loc = Sequence[str | int]

_WORD = re.compile("pass(w|$)|secret|token|credential", re.I)
# Below these somebody may write one; of headers nobody knows what their values are.
_HOLDERS = frozenset(("users", "authentication", "auth", "headers", "set_header", "add_header"))
_PLAIN = ("realm", "file")
# What stands below these has its name from the operator.
_NAMED = frozenset(
    (
        "frontends",
        "backends",
        "servers",
        "instances",
        "sync_groups",
        "scripts",
        "files",
        "nodes",
        "acls",
        "users",
        "resolvers",
        "nameservers",
    )
)
_USERS_KEYS = ("password", "admin")


def is_secret(path: _Loc) -> bool:
    """Whether what stands at this path may be a secret."""
    if not path or path[-1] in _PLAIN:
        return False
    if tuple(path[-2:]) == ("stats", "admin"):
        # Of somebody who has left `users` out.
        return True
    # Of `header` alone the value is a name.
    return path[-1] == "heartbeat" or _at(path) or "header" in path[:-1] or any(step in _HOLDERS for step in path)


def key_path(path: _Loc) -> str:
    """`frontends.web.bind[1].address`; keys that would spoil a line are quoted and cut, and no secret stands there."""
    written = []
    for place, step in enumerate(path):
        before = tuple(path[:place])
        if isinstance(step, int):
            written.append(f"[{step}]")
        elif _at(before) or _is_users(before) or (_is_users(before[:-1]) and not _is_key_of_user(step)):
            written.append(".…")
        else:
            written.append(f".{printable(step)}")
    return "".join(written).removeprefix(".")


def _at(path: _Loc) -> bool:
    """Whether one of these keys has a secret for its value, and not for one of its keys."""
    pairs = list(zip(("", *path), path, strict=False))
    return ("heartbeat", "key") in pairs or any(
        isinstance(step, str) and before not in _NAMED and _WORD.search(step) for before, step in pairs
    )


def _is_users(path: _Loc) -> bool:
    """Whether the keys of what stands there are names of users."""
    return path[-1:] == ("users",) and (len(path) < 2 or path[-2] not in _NAMED)


def _is_key_of_user(step: str) -> bool:
    return step in _USERS_KEYS or did_you_mean(step, _USERS_KEYS) != ""
