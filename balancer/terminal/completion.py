"""What a shell offers behind Tab: argcomplete asks the parser of the command line, and we the daemon for names.

Tab must neither hang nor talk: a daemon that does not answer soon, or that one may not ask, has no names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Literal

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.pool import routers

__all__ = ["SHELLS", "Shell", "complete", "instances", "offering", "proxies", "script", "servers"]

Shell = Literal["bash", "zsh", "fish"]
SHELLS: tuple[Shell, ...] = ("bash", "zsh", "fish")
# Seconds.
_PATIENCE = 1.0

Socket = Callable[[argparse.Namespace], str]
"""Where the daemon is asked, of what the command line says so far. BalancerError where that is not known."""


def script(shell: Shell) -> str:
    """What a shell is to read so that it asks us."""
    from argcomplete.shell_integration import shellcode

    return str(shellcode(["pybalancer"], shell=shell))


def complete(parser: argparse.ArgumentParser, socket: Socket) -> None:
    """Answer the shell, and never come back, where it asks; it says so in the environment."""
    import argcomplete
    from argcomplete.completers import FilesCompleter, SuppressCompleter

    files = FilesCompleter()
    offers = {name: offering(socket, names) for name, names in _NAMES.items()}
    for action in _actions(parser):
        if action.dest in _FILES:
            action.completer = files  # type: ignore[attr-defined]
        elif action.dest in offers and not action.option_strings:
            action.completer = offers[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())


def offering(socket: Socket, names: Callable[[str, str], Iterator[str]]) -> Callable[..., list[str]]:
    """A completer, as argcomplete calls them, for what `names` has at a socket's path for a prefix."""

    def offer(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        try:
            return [name for name in dict.fromkeys(names(socket(parsed_args), prefix)) if name.startswith(prefix)]
        except (BalancerError, ValueError, KeyError, TypeError, IndexError):
            return []

    return offer


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def servers(path: str, prefix: str) -> Iterator[str]:
    """`backend/server`."""
    backend, slash, _ = prefix.partition("/")
    (answer,) = client.ask_all(path, [("show", "servers", "state", *([backend] if slash else []))], patience=_PATIENCE)
    if answer.is_error:
        return
    for line in answer.text.split("\n")[2:]:
        words = line.split()
        if words:
            yield f"{words[1]}/{words[3]}"


def proxies(path: str, prefix: str) -> Iterator[str]:
    """Frontends and backends, and servers once there is a slash."""
    if "/" in prefix:
        yield from servers(path, prefix)
        return
    (answer,) = client.ask_all(path, [("show", "stat", "-1", "3", "-1")], patience=_PATIENCE)
    if not answer.is_error:
        yield from (line.partition(",")[0] for line in answer.text.split("\n")[1:] if line)


def instances(path: str, _: str) -> Iterator[str]:
    """Virtual routers and sync groups."""
    (answer,) = client.ask_all(path, [("show", "vrrp", "json")], patience=_PATIENCE)
    if not answer.is_error:
        standing = routers.decode(answer.text.encode())
        yield from (each.name for each in standing.routers)
        yield from (each.group for each in standing.routers if each.group)


# What stands behind a command, and the options that take a file.
_NAMES = {"servers": servers, "names": proxies, "name": instances}
_FILES = ("config", "socket")
