#!/usr/bin/env python3
"""The hot functions one by one, by pyperf: parsing heads, framing, choosing a server, counting. See README.md.

Which build is measured is told by where `balancer` is found first: PYTHONPATH=build/compiled for the compiled one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

# Behind whatever PYTHONPATH names.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import pyperf

from balancer.algorithms.base import Algorithm
from balancer.algorithms.leastconn import LeastConn
from balancer.algorithms.maglev import MaglevTable
from balancer.algorithms.roundrobin import RoundRobin
from balancer.algorithms.table import HashTable
from balancer.errors import ProtocolError
from balancer.pool.facts import BUCKETS, Counters, Entity, Layout, Ledger
from balancer.wire import http1
from balancer.wire.framing import ChunkedReader

__all__ = ["FUNCTIONS", "main"]

LIMITS = http1.Limits(head=16384, uri=8192, fields=100)
REQUEST = (
    b"GET /index.html?id=%d HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en,es;q=0.7\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Cookie: SERVERID=s1; session=0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 01 Jan 2024 00:00:%02d GMT\r\nContent-Type: text/html\r\n"
    b'Content-Length: 1234\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nETag: "65920080-4d2"\r\n\r\n'
)
# More than are remembered: none of them comes again in time.
STRANGERS = 20_000
CHUNKS = (b"1000\r\n" + bytes(4096) + b"\r\n") * 4
SERVERS = 10
# Of one request to a server, on its row, and three histograms of the backend's.
COUNTED = 14


class Server:
    """What an algorithm may know of one, and what serves it."""

    def __init__(self, index: int) -> None:
        self.name, self.index, self.weight, self.counters = f"s{index}", index, 1, Counters()


def known(parse: Callable[..., Any], head: bytes, *more: bytes) -> Callable[[], object]:
    """One that has come before, as nearly all do."""
    octets = head % 1
    for _ in range(3):
        parse(octets, LIMITS, *more)
    return partial(parse, octets, LIMITS, *more)


def strangers(parse: Callable[..., Any], head: bytes, *more: bytes) -> Callable[[], object]:
    """One that has never come."""
    numbers: Iterator[int] = cycle(range(STRANGERS))
    return lambda: parse(head % next(numbers), LIMITS, *more)


def chunks() -> Callable[[], object]:
    """16 KiB in four chunks, of a body without end."""
    return partial(ChunkedReader(ProtocolError).feed, CHUNKS)


def pick(algorithm: Algorithm[Server], key: bytes = b"") -> Callable[[], object]:
    algorithm.rebuild([Server(number) for number in range(SERVERS)])
    return partial(algorithm.pick, key)


def least() -> Callable[[], object]:
    """Chosen, and its load told."""
    algorithm: LeastConn[Server] = LeastConn()
    algorithm.rebuild([Server(number) for number in range(SERVERS)])

    def serve() -> None:
        server = algorithm.pick()
        assert server is not None
        server.counters.scur += 1
        algorithm.changed(server)
        server.counters.scur -= 1
        algorithm.changed(server)

    return serve


def counting() -> Callable[[], object]:
    """What a request leaves in its server's row and in the backend's histograms."""
    counters, times = Counters(), [0] * BUCKETS

    def count() -> None:
        counters.scur += 1
        counters.stot += 1
        counters.lbtot += 1
        counters.req_tot += 1
        counters.reuse += 1
        counters.bin += 400
        counters.bout += 1600
        counters.hrsp_2xx += 1
        counters.ctime += 80
        counters.rtime += 700
        counters.ttime += 900
        counters.lastsess = 1
        times[(700).bit_length()] += 1
        times[(900).bit_length()] += 1
        counters.scur -= 1

    return count


def flushing() -> Callable[[], object]:
    """Four times a second: the rows of ten busy servers to shared memory."""
    names = [f"s{number}" for number in range(SERVERS)]
    layout = Layout.of(["web"], [("app", names)])
    ledger = Ledger(memoryview(bytearray(layout.size)), layout)
    busy = [ledger[Entity("server", "app", name)] for name in names]

    def flush() -> None:
        for counters in busy:
            counters.dirty = True
        ledger.touched[:] = busy
        ledger.flush()

    return flush


FUNCTIONS: dict[str, Callable[[], Callable[[], object]]] = {
    "request head, known": partial(known, http1.parse_request, REQUEST),
    "request head, new": partial(strangers, http1.parse_request, REQUEST),
    "response head, known": partial(known, http1.parse_response, RESPONSE, b"GET"),
    "response head, new": partial(strangers, http1.parse_response, RESPONSE, b"GET"),
    "chunked, 16 KiB": chunks,
    "roundrobin": lambda: pick(RoundRobin()),
    "leastconn": least,
    "source": lambda: pick(HashTable(), bytes(4)),
    "maglev": lambda: pick(HashTable(MaglevTable(SERVERS)), bytes(4)),
    "counters of a request": counting,
    "flush of 10 servers": flushing,
}


def _timed(loops: int, make: Callable[[], Callable[[], object]]) -> float:
    function = make()
    begun = time.perf_counter()
    for _ in range(loops):
        function()
    return time.perf_counter() - begun


def main() -> None:
    """Options are pyperf's: --fast, -o FILE, and `python -m pyperf compare_to ONE.json OTHER.json` beside it."""
    way = "compiled" if http1.__file__.endswith(".so") else "interpreted"
    runner = pyperf.Runner(metadata={"pybalancer": way}, program_args=(str(Path(__file__).resolve()),))
    # The workers that it starts look for `balancer` where we did.
    runner.argparser.set_defaults(inherit_environ=["PYTHONPATH"])
    for name, make in FUNCTIONS.items():
        runner.bench_time_func(name, _timed, make)


if __name__ == "__main__":
    main()
