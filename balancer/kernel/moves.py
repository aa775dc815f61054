"""Where servers were until they moved, for as long as connections may lead there: over a restart of the process too,
whose rules and whatever else it knows say nothing of it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Container, Iterable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from balancer.kernel.ctnetlink import End

__all__ = ["Moves"]

Pair = tuple[str, str]

# Of one server: one that moves all the time has connections to the last few places.
_MOST = 8
_LONGEST = 1 << 24


class Moves:
    """Of `servers`, (backend, server), those alone; kept in `file`. One that cannot be read says nothing, and where it
    cannot be written what was known goes with the process."""

    def __init__(self, file: Path, servers: Container[Pair]) -> None:
        self._file = file
        self._places: defaultdict[Pair, list[End]] = defaultdict(list)
        with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
            with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as kept:
                rows = json.loads(kept.read(_LONGEST))
            for backend, server, host, port in rows:
                end = str(ip_address(host)), port
                if (backend, server) in servers and type(port) is int and 0 <= port < 1 << 16:
                    self._places[backend, server].append(end)

    def add(self, left: Iterable[tuple[Pair, End]]) -> None:
        """These servers were there until now."""
        for pair, end in left:
            places = self._places[pair]
            if end in places:
                places.remove(end)
            places.append(end)
            del places[:-_MOST]
        draft = self._file.with_name(f".{self._file.name}.new")
        rows = [[*pair, *end] for pair, places in self._places.items() for end in places]
        with suppress(OSError):
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump(rows, file)
            draft.replace(self._file)

    def by_backend(self) -> dict[str, set[End]]:
        """All of them."""
        found: dict[str, set[End]] = {}
        for (backend, _), places in self._places.items():
            found.setdefault(backend, set()).update(places)
        return found

    def forget(self) -> None:
        """No connection is translated any more."""
        self._places.clear()
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
