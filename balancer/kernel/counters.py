"""What the rules have counted: of each server of each service new flows, packets and octets.

read        as it stands in the kernel, whose counters begin at 0 whenever the whole table is made anew
Totals      what does not run backwards then
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from balancer.kernel.nft import Nft
from balancer.kernel.plan import Service
from balancer.kernel.render import TABLE, tallies

__all__ = ["PLACES", "Tally", "Totals", "read"]

_ZERO = (0, 0)
_WIDTH = 5
# Numbers that Totals keeps of each.
PLACES = 2 * _WIDTH


class Tally(NamedTuple):
    """Octets are those of whole IP packets. In: to the server."""

    flows: int = 0
    """A per-query datagram is one each."""
    packets_in: int = 0
    octets_in: int = 0
    packets_out: int = 0
    octets_out: int = 0


Tallies = dict[tuple[str, str], Tally]


class _Wanted(NamedTuple):
    """What counts of one target of one service: sets and keys."""

    of: tuple[str, str]
    flows: tuple[str, bytes]
    into: tuple[str, bytes]
    out: tuple[str, bytes]


def read(nft: Nft, services: Iterable[Service]) -> Tallies:
    """By (frontend, server), over all addresses of a frontend. KernelError when the table is gone.

    10 000 servers' take 0.1 s.
    """
    # Which slots there are does not matter here, and changes all the time.
    wanted = [each for service in services for each in _wanted(replace(service, slots=(), sticky=()))]
    names = {name for each in wanted for name, _ in each[1:]}
    counted = {name: nft.counted(TABLE, name) for name in sorted(names)}
    found: dict[tuple[str, str], list[int]] = {}
    taken: set[tuple[str, str, bytes]] = set()
    for of, flows, into, out in wanted:
        numbers = found.setdefault(of, [0] * len(Tally._fields))
        # Two binds of one frontend that differ in their interface alone are counted together.
        if (mark := (of[0], *into)) in taken:
            continue
        taken.add(mark)
        numbers[0] += counted[flows[0]].get(flows[1], _ZERO)[0]
        for at, (name, key) in ((1, into), (3, out)):
            packets, octets = counted[name].get(key, _ZERO)
            numbers[at] += packets
            numbers[at + 1] += octets
    return {of: Tally(*numbers) for of, numbers in found.items()}


@lru_cache(maxsize=1 << 13)
def _wanted(service: Service) -> tuple[_Wanted, ...]:
    return tuple(
        _Wanted((service.frontend, target.server), *((name, _packed(key)) for name, key in tally))
        for target, found in zip(service.targets, tallies(service), strict=True)
        for tally in found
    )


def _packed(key: str) -> bytes:
    """As the kernel has it: each part in units of four octets."""
    found = b""
    for part in key.split(" . "):
        own = ip_address(part).packed if "." in part or ":" in part else int(part).to_bytes(2)
        found += own + bytes(-len(own) % 4)
    return found


class Totals:
    """Sums that never run backwards, whatever becomes of the rules; one for the whole life of a daemon.

    `names`: whose numbers they are, (frontend, server); always the same. `numbers`: where they are kept, PLACES for
    each of the names and one more, zeros at first, so that whoever comes in the place of a process that was killed
    goes on where it was.
    """

    def __init__(self, names: Iterable[tuple[str, str]] = (), numbers: memoryview | None = None) -> None:
        self._places = {of: 1 + i * PLACES for i, of in enumerate(dict.fromkeys(names))} if numbers else {}
        self._numbers = numbers
        self.is_begun = numbers is not None and bool(numbers[0])
        """Is there a count that this one goes on with?"""
        self._last: Tallies = {}
        self._before: Tallies = {}
        for of, at in self._places.items():
            last, before = (Tally(*self._kept(at + part)) for part in (0, _WIDTH))
            if any(last) or any(before):
                self._last[of], self._before[of] = last, before
        self.all = {of: _sum(before, self._last[of]) for of, before in self._before.items()}
        """As `update` said last."""

    def begin(self, now: Mapping[tuple[str, str], Tally]) -> None:
        """What was counted until now, by whoever, does not count."""
        for of, tally in now.items():
            self._last[of], self._before[of] = tally, Tally(*(-number for number in tally))
            self.keep(of)
        if self._numbers:
            self._numbers[0] = 1
        self.is_begun = True

    def update(self, now: Mapping[tuple[str, str], Tally]) -> Tallies:
        """What `read` says now, added to what had been counted by rules that are gone."""
        for of, last in self._last.items():
            tally = now.get(of, Tally())
            if any(new < old for new, old in zip(tally, last, strict=True)):
                self._before[of] = _sum(self._before.get(of, Tally()), last)
        self._last = dict(now)
        self.all = {of: _sum(self._before.get(of, Tally()), tally) for of, tally in (self._gone() | self._last).items()}
        return self.all

    def keep(self, of: tuple[str, str]) -> None:
        """What was said of this one has been passed on."""
        at = self._places.get(of)
        if at is None or self._numbers is None or at + PLACES > len(self._numbers):
            return
        numbers = (*self._last.get(of, Tally()), *self._before.get(of, Tally()))
        for i, number in enumerate(numbers):
            self._numbers[at + i] = number

    def _kept(self, at: int) -> list[int]:
        """Nothing where there is no room, which nobody should have made so small."""
        assert self._numbers is not None
        return (self._numbers[at : at + _WIDTH].tolist() + [0] * _WIDTH)[:_WIDTH]

    def _gone(self) -> Tallies:
        return dict.fromkeys(self._before, Tally())


def _sum(one: Tally, other: Tally) -> Tally:
    return Tally(*(a + b for a, b in zip(one, other, strict=True)))
