"""The balancer.yaml to be: mappings and lists that know which line each part came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from balancer.convert.words import Line, Place

__all__ = ["Loc", "Map", "Seq", "overlay_of", "place_of", "places"]

Loc = tuple[str | int, ...]


class Map(dict[str, Any]):
    """A mapping; `origins` has the lines that its keys came from."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, Line] = {}

    def put(self, key: str, value: Any, line: Line | None = None) -> None:
        self[key] = value
        if line is not None:
            self.origins[key] = line

    def under(self, key: str, line: Line | None = None) -> Map:
        """The mapping under a key, made where there is none."""
        if key not in self:
            self.put(key, Map(), line)
        found = self[key]
        assert isinstance(found, Map)
        return found

    def drop(self, key: str) -> None:
        del self[key]
        self.origins.pop(key, None)


class Seq(list[Any]):
    """A list; `origins` has the line of each item, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: list[Line | None] = []

    def add(self, value: Any, line: Line | None = None) -> None:
        self.append(value)
        self.origins.append(line)

    def drop(self, index: int) -> None:
        del self[index]
        del self.origins[index]


def place_of(root: Map, loc: Loc) -> Line | None:
    """The line that what stands at `loc` came from, or what it stands in."""
    found: Line | None = None
    here: Any = root
    for step in loc:
        if isinstance(here, Map) and isinstance(step, str) and step in here:
            found = here.origins.get(step, found)
            here = here[step]
        elif isinstance(here, Seq) and isinstance(step, int) and step < len(here):
            found = here.origins[step] or found
            here = here[step]
        elif isinstance(here, (dict, list)) and not isinstance(here, (Map, Seq)):
            try:
                here = here[step]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                break
        else:
            break
    return found


def overlay_of(base: Map, other: Map) -> tuple[Map, list[Loc]]:
    """What has to be merged over `base` to make `other` of it, and what cannot be taken away by that."""
    over = Map()
    gone: list[Loc] = []
    for key, value in other.items():
        line = other.origins.get(key)
        if key not in base:
            over.put(key, value, line)
        elif isinstance(value, dict) and isinstance(base[key], dict) and isinstance(value, Map):
            inner, lacking = overlay_of(base[key], value)
            gone += [(key, *loc) for loc in lacking]
            if inner:
                over.put(key, inner, line)
        elif value != base[key]:
            over.put(key, value, line)
    gone += [(key,) for key in base if key not in other]
    return over, gone


def places(part: Any) -> Iterator[Place]:
    """All that a part came from."""
    if isinstance(part, Map):
        yield from (line.place for line in part.origins.values())
        for value in part.values():
            yield from places(value)
    elif isinstance(part, Seq):
        yield from (line.place for line in part.origins if line is not None)
        for value in part:
            yield from places(value)
