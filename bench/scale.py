#!/usr/bin/env python3
"""How far one director goes, what several behind ECMP do, and what maglev then keeps together. See README.md.

Nothing is loaded here: flows are simulated with the tables that the proxy and the kernel engine fill, and what a
director carries is worked out from what cost.py measured.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from balancer.algorithms.base import Algorithm
from balancer.algorithms.maglev import SIZES, MaglevTable
from balancer.algorithms.roundrobin import RoundRobin
from balancer.algorithms.table import HashTable, avalanche, map_based, mix
from balancer.kernel.slots import MAGLEV_SIZES

__all__ = ["Carried", "Moved", "carried", "directors_change", "main", "resilient", "servers_change", "threshold"]

EXIT_WRONG, EXIT_CANNOT = 1, 2
FLOWS = 40_000
DIRECTORS = (2, 3, 4, 8)
SERVERS = (3, 10, 50, 200)
# What Linux gives a resilient next-hop group (ip-nexthop(8)): many times the next hops.
BUCKETS = 1024
# A simulated share may be off by this many standard deviations of its sample, and by what a table's slots cannot say.
DEVIATIONS = 4.0
# Of what a processor can do: above it, waiting times grow out of bounds (M/M/1 at 0.7: 3.3 times the service time).
FILLED = 0.7


@dataclass(frozen=True)
class _NoLoad:
    scur: int = 0


@dataclass(frozen=True)
class Server:
    """What an algorithm may know of one."""

    name: str
    index: int
    weight: int = 1
    counters: _NoLoad = field(default=_NoLoad(), repr=False, compare=False)


@dataclass(frozen=True)
class Flow:
    """A connection of a client's."""

    source: bytes
    """Packed address: what decides between servers."""
    mark: int
    """The router's hash of addresses and ports, 32 bits: what decides between directors."""


@dataclass(frozen=True)
class Moved:
    """What one change does."""

    change: str
    ways: str
    """Who chooses, and how."""
    share: float
    """Of the flows concerned, those that end elsewhere."""
    theory: float | None
    """None where there is none."""
    tolerance: float
    note: str = ""

    @property
    def is_right(self) -> bool:
        return self.theory is None or abs(self.share - self.theory) <= self.tolerance


# A router's choice: flow's mark, directors there -> one of them.
Ecmp = Callable[[int, Sequence[int]], int]


def threshold(mark: int, directors: Sequence[int]) -> int:
    """Regions of one length in the hash's range (RFC 2992, Linux's default)."""
    return directors[mark * len(directors) >> 32]


def resilient(buckets: Sequence[int], mark: int) -> int:
    """Who has the flow's bucket (Linux's `type resilient` next-hop groups, most switches)."""
    return buckets[mark * len(buckets) >> 32]


def dealt(directors: Sequence[int], before: Sequence[int] = ()) -> list[int]:
    """Whose each bucket is. What follows `before` moves no more than it must."""
    buckets = list(before) or [-1] * BUCKETS
    most = math.ceil(BUCKETS / len(directors))
    count = dict.fromkeys(directors, 0)
    free = []
    # Spread over all buckets, or whoever comes would get those of one neighbour.
    for place in sorted(range(BUCKETS), key=avalanche):
        owner = buckets[place]
        if owner in count and count[owner] < most:
            count[owner] += 1
        else:
            free.append(place)
    for place in free:
        least = min(directors, key=count.__getitem__)
        buckets[place] = least
        count[least] += 1
    return buckets


def flows(number: int, seed: int) -> list[Flow]:
    """Of clients with addresses of all kinds: strangers, and whole networks side by side."""
    chance = random.Random(seed)
    found = []
    while len(found) < number:
        network = chance.getrandbits(32)
        for each in range(chance.choice((1, 1, 1, 16, 64))):
            address = (network + each & 0xFFFFFFFF).to_bytes(4)
            found.append(Flow(address, avalanche(chance.getrandbits(32))))
    return found[:number]


def threshold_theory(number: int, gone: int) -> float:
    """Share of flows that change directors when the one in place `gone` of `number` leaves, its own among them.

    RFC 2992, section 2, in its exact form: from a half, for the first or last, down to a quarter and its own part.
    """

    def kept(regions: int) -> float:
        return (regions * (number - 1) - regions * (regions - 1) / 2) / (number * (number - 1))

    return 1 - kept(gone) - kept(number - 1 - gone)


def deviation(share: float, number: int) -> float:
    """How far the share in a sample of so many may be from the true one."""
    return DEVIATIONS * math.sqrt(share * (1 - share) / number)


def directors_change(sample: Sequence[Flow]) -> Iterator[Moved]:
    """A director goes or comes: flows that the router gives to another one, and which of them find another server."""
    for number in DIRECTORS:
        everyone = range(number)
        places = {"first": 0, "middle": number // 2} if number > 2 else {"first": 0}
        for which, gone in places.items():
            left = [each for each in everyone if each != gone]
            theory = threshold_theory(number, gone)
            moved = [flow for flow in sample if threshold(flow.mark, everyone) != threshold(flow.mark, left)]
            yield _moved(f"{number} directors, the {which} goes", "ECMP by regions", len(moved), sample, theory)
        full = dealt(everyone)
        less = dealt(left := list(everyone)[:-1], full)
        moved = [flow for flow in sample if resilient(full, flow.mark) != resilient(less, flow.mark)]
        slack = 1 / BUCKETS
        yield _moved(f"{number} directors, one goes", "ECMP by buckets", len(moved), sample, 1 / number, slack)
        back = dealt(everyone, less)
        again = sum(resilient(less, flow.mark) != resilient(back, flow.mark) for flow in sample)
        yield _moved(f"{number} directors again", "ECMP by buckets", again, sample, 1 / number, slack)
        yield from _servers_after(number, moved)


def _servers_after(number: int, moved: Sequence[Flow]) -> Iterator[Moved]:
    """What another director does with flows that it has never seen: nothing is shared but the names of the servers."""
    chance = random.Random(number)
    for count in (3, 10):
        servers = [Server(f"s{each}", each) for each in range(count)]
        first, second = (_tables(servers) for _ in range(2))
        for name, one in first.items():
            other, elsewhere = second[name], 0
            for flow in moved:
                for _ in range(chance.randrange(count) if not one.needs else 0):
                    # Its other clients'.
                    other.pick()
                elsewhere += one.pick(flow.source) is not other.pick(flow.source)
            theory = 0.0 if one.needs else 1 - 1 / count
            change = f"{number} directors, one goes: its flows at another server of {count}"
            yield _moved(change, name, elsewhere, moved, theory, note="are reset" if elsewhere else "all go on")


def _tables(servers: Sequence[Server]) -> dict[str, Algorithm[Server]]:
    class Keyed(HashTable[Server]):
        needs = "source"

    made: dict[str, Algorithm[Server]] = {
        "roundrobin": RoundRobin(),
        "source (map-based)": Keyed(map_based),
        "maglev": Keyed(MaglevTable(len(servers))),
    }
    for each in made.values():
        each.rebuild(servers)
    return made


def servers_change(sample: Sequence[Flow]) -> Iterator[Moved]:
    """A server goes or comes, at all directors: the flows of the others that end elsewhere."""
    for count in SERVERS:
        servers = [Server(f"s{each}", each) for each in range(count + 1)]
        usual, more = servers[:-1], servers
        gone = usual[count // 2]
        left = [each for each in usual if each is not gone]
        one_goes, one_comes = f"one of {count} servers goes", f"{count} servers, one comes"

        theory = threshold_theory(count, count // 2) - 1 / count
        pairs = _picks(sample, map_based(usual), map_based(left))
        yield _others("source (map-based)", one_goes, pairs, gone, sample, theory)

        for ways, sizes in (("maglev, proxy", SIZES), ("maglev, kernel", MAGLEV_SIZES)):
            table: MaglevTable[Server] = MaglevTable(count, sizes=sizes)
            before = table(usual)
            yield _others(ways, one_goes, _picks(sample, before, table(left, usual)), gone, sample, 0.0)
            anew = _picks(sample, before, table(left))
            yield _others(f"{ways}, filled anew as in the paper", one_goes, anew, gone, sample, None)

            after = MaglevTable[Server](count + 1, sizes=sizes)(more)
            pairs = _picks(sample, before, after)
            moved = sum(one is not two for one, two in pairs)
            grows = len(after) != len(before)
            theory = 1 - 1 / count if grows else 1 / (count + 1)
            note = f"the table grows from {len(before)} to {len(after)} slots" if grows else ""
            # That which the newcomer does not take moves among the others too (the paper, 5.3): so, unlike
            # when one goes, no more than about the share itself again, and 2 % in tables of few slots a server.
            slack = 0.05 if grows else theory + 0.025
            yield _moved(one_comes, ways, moved, sample, theory, slack, note)


def _picks(sample: Sequence[Flow], *tables: Sequence[Server]) -> list[tuple[Server, ...]]:
    marks = (mix(flow.source) for flow in sample)
    return [tuple(table[mark * len(table) >> 32] for table in tables) for mark in marks]


def _others(
    ways: str, change: str, pairs: Sequence[tuple[Server, ...]], gone: Server,
    sample: Sequence[Flow], theory: float | None, slack: float = 0.0,
) -> Moved:  # fmt: skip
    """Those of the servers that are still there, as a share of all."""
    moved = sum(one is not two for one, two in pairs if one is not gone)
    return _moved(change, ways, moved, sample, theory, slack)


def _moved(
    change: str, ways: str, number: int, of: Sequence[Flow], theory: float | None, slack: float = 0.0, note: str = ""
) -> Moved:
    tolerance = deviation(theory, len(of)) + slack if theory else 0.0
    return Moved(change, ways, number / len(of), theory, tolerance, note)


@dataclass(frozen=True)
class Carried:
    """What one director does of a kind of work, filled to 70 %; `cores` workers."""

    work: str
    cpu_us: float
    """CPU per request."""
    per_second: dict[str, float]
    """Requests, by set-up."""


def carried(report: Mapping[str, object], cores: int, directors: Sequence[int] = (3, 4, 8)) -> Iterator[Carried]:
    """From what cost.py --json found. KeyError, TypeError where it is none.

    A pair carries what one does: either may fail at any time. So do N directors behind ECMP what N - 1 do.
    """
    for work in report["works"]:  # type: ignore[attr-defined]
        for figure in work["figures"]:
            if figure["unit"] == "us" and figure["ours"]:
                one = FILLED * cores * 1e6 / figure["ours"]
                ways = {"one director, or a pair": one}
                ways |= {f"{number} behind ECMP, one gone": one * (number - 1) for number in directors}
                yield Carried(work["work"], figure["ours"], ways)


def shown(found: Sequence[Moved]) -> str:
    widths = [max(len(getattr(each, name)) for each in found) for name in ("change", "ways")]
    lines = [f"{'change':{widths[0]}}  {'who chooses':{widths[1]}}   moved  theory"]
    for each in found:
        theory = "-" if each.theory is None else f"{each.theory:.2%}"
        end = each.note if each.is_right else f"WRONG by more than {each.tolerance:.2%}"
        line = f"{each.change:{widths[0]}}  {each.ways:{widths[1]}}  {each.share:6.2%}  {theory:>6}  {end}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: theory and simulation agree; 1: they do not; 2: the file with costs is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=FLOWS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--costs", type=Path, help="what cost.py --json wrote: then also what a director carries")
    parser.add_argument("--cores", type=int, default=4, help="of a director, for its workers (with --costs)")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    loads: list[Carried] = []
    if asked.costs is not None:
        try:
            loads = list(carried(json.loads(asked.costs.read_bytes()), asked.cores))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"scale.py: {asked.costs}: not what cost.py --json writes ({error!r})", file=sys.stderr)
            return EXIT_CANNOT
    began = time.monotonic()
    sample = flows(asked.flows, asked.seed)
    found = [each for simulate in (directors_change, servers_change) for each in simulate(sample)]
    print(shown(found))
    print(f"{asked.flows} flows, seed {asked.seed}, {time.monotonic() - began:.1f} s")
    for load in loads:
        print(f"\n{load.work}: {load.cpu_us:.1f} us each; {asked.cores} cores filled to {FILLED:.0%}:")
        for way, rate in load.per_second.items():
            print(f"  {way:36} {rate:>12,.0f} a second")
    if asked.json is not None:
        moved, per_second = [*map(asdict, found)], [*map(asdict, loads)]
        result = {"flows": asked.flows, "seed": asked.seed, "moved": moved, "carried": per_second}
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(each.is_right for each in found) else EXIT_WRONG


if __name__ == "__main__":
    sys.exit(main())
