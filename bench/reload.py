#!/usr/bin/env python3
"""How long a reload takes with thousands of backends, from the order until the new workers serve what is new. See
README.md."""

from __future__ import annotations

import argparse
import http.server
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cost import pybalancer_command
from rig import BenchError, Rig, free_port

__all__ = ["Case", "Times", "config", "main", "problems", "table"]

EXIT_WRONG, EXIT_CANNOT = 1, 2
ROUNDS = 5
READY_WITHIN = 60.0
# Checks of the start are through, and do not run beside the first reload.
QUIET = 3.0
# A connection is tried, and an answer looked for, so often.
EVERY = 0.002
OPEN_FILES = 16000


class Case(NamedTuple):
    """What a director has, and the bar in seconds."""

    name: str
    backends: int
    servers: int
    """Of each."""
    within: float


CASES = (
    Case("1 000 backends with a server each", 1000, 1, 1.0),
    Case("100 backends with 50 servers each", 100, 50, 3.0),
    Case("5 000 backends with a server each", 5000, 1, 5.0),
)


class Times(NamedTuple):
    """Of one reload, in seconds from the order."""

    served: float
    """A listener and a server that were not there before answer."""
    told: float
    """Whoever gave the order is told that it is done: new control is there too."""


def config(case: Case, *, turn: int, ports: Sequence[int], server: int, path: str) -> str:
    """As it is before the reload of that number: a listener, a rule, a server and the weights of all are new."""
    lines = [
        f"global: {{workers: 2, hard_stop_after: 2s, log: {{target: stdout}}, runtime_socket: {{path: {path}, "
        "level: admin}}",
        "frontends:",
        f"  f: {{mode: http, bind: ['127.0.0.1:{ports[0]}', '127.0.0.1:{ports[1 + turn]}'], default_backend: b0,",
        "      use_backend: [",
        *(f"        {{if: {{path_beg: /b{i}/}}, backend: b{i}}}," for i in range(1, case.backends)),
        f"        {{if: {{path: /turn{turn}}}, backend: new{turn}}}]}}",
        "backends:",
        f"  new{turn}: {{servers: {{s: {{address: '127.0.0.1:{server}'}}}}}}",
    ]
    for i in range(case.backends):
        address = f"127.{1 + i // 250}.{i % 250}"
        lines.append(f"  b{i}: {{check: {{type: tcp, interval: 10s}}, servers: {{")
        lines += [
            f"    s{j}: {{address: '{address}.{j + 1}:{server}', weight: {turn % 2 + 1}}}," for j in range(case.servers)
        ]
        lines.append("  }}")
    return "\n".join(lines) + "\n"


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def answering() -> Iterator[int]:
    """A server on all of 127.0.0.0/8; its port."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 1024

        def handle_error(self, *_: object) -> None:
            """A check that has heard enough."""

    server = Server(("0.0.0.0", free_port()), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def asked(port: int, path: str) -> int:
    """The status of an answer; 0: nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=READY_WITHIN) as peer:
            peer.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = peer.recv(1000)
    except ConnectionRefusedError:
        return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def until_served(port: int, path: str) -> float:
    """When it is."""
    deadline = time.monotonic() + READY_WITHIN
    while asked(port, path) != 200:
        if time.monotonic() > deadline:
            raise BenchError(f"{path} is not served within {READY_WITHIN:.0f} s")
        time.sleep(EVERY)
    return time.monotonic()


def order(path: str) -> dict[str, object]:
    """Have it reload; what came of it."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(READY_WITHIN)
        peer.connect(path)
        peer.sendall(b"reload json\n")
        said = b""
        while part := peer.recv(1 << 20):
            said += part
    report: dict[str, object] = json.loads(said)
    return report


def one(port: int, turn: int, path: str) -> Times:
    """One reload, looked at from outside."""
    told: list[float] = []
    reports: list[dict[str, object]] = []

    def give() -> None:
        reports.append(order(path))
        told.append(time.monotonic())

    began = time.monotonic()
    giving = threading.Thread(target=give)
    giving.start()
    served = until_served(port, f"/turn{turn}")
    giving.join(READY_WITHIN)
    if not reports or reports[0]["outcome"] != "reloaded":
        raise BenchError(f"it was not reloaded: {reports[0]['why'] if reports else 'there was no answer'}")
    return Times(served - began, told[0] - began)


def measured(case: Case, rounds: int, rig: Rig, command: Sequence[str]) -> list[Times]:
    """All reloads of a case."""
    with answering() as server:
        ports = [free_port() for _ in range(rounds + 2)]
        path = str(rig.write("x", "").with_name(f"{rig.unique('admin')}.sock"))
        texts = [config(case, turn=turn, ports=ports, server=server, path=path) for turn in range(rounds + 1)]
        file = rig.write(f"{rig.unique('balancer')}.yaml", texts[0])
        process = rig.start("pybalancer", [*command, "-c", str(file)], core=None)
        until_served(ports[1], "/turn0")
        time.sleep(QUIET)
        times = []
        for turn in range(1, rounds + 1):
            file.write_text(texts[turn])
            times.append(one(ports[1 + turn], turn, path))
            process.require_alive()
            # Those of before have ended.
            time.sleep(QUIET)
        if status := rig.end(process):
            raise BenchError(f"pybalancer ended with status {status}")
        return times


def problems(found: Sequence[tuple[Case, Sequence[Times]]]) -> list[str]:
    """What is above its bar: half of the reloads may be slower, for a machine has other things to do."""
    return [
        f"{case.name}: served after {served:.2f} s, not within {case.within:g} s"
        for case, times in found
        if (served := median(each.served for each in times)) >= case.within
    ]


def table(found: Sequence[tuple[Case, Sequence[Times]]]) -> str:
    """Seconds."""
    lines = [f"{'':<36} {'served':>8} {'worst':>8} {'told':>8} {'bar':>6}"]
    for case, times in found:
        served = [each.served for each in times]
        told = median(each.told for each in times)
        lines.append(f"{case.name:<36} {median(served):>8.2f} {max(served):>8.2f} {told:>8.2f} {case.within:>6g}")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"reloads of each case (default: {ROUNDS})")
    parser.add_argument("--only", type=int, metavar="N", help="the case of that number, from 1")
    parser.add_argument("--pybalancer", metavar="PATH", help="another one than of this environment")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: within the bars; 1: not; 2: it could not be measured; 130: interrupted."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cases = CASES if options.only is None else CASES[options.only - 1 : options.only]
    found = []
    try:
        with Rig(least_open_files=OPEN_FILES) as rig:
            command = pybalancer_command(options.pybalancer)
            for case in cases:
                print(case.name, file=sys.stderr, flush=True)
                found.append((case, measured(case, options.rounds, rig, command)))
    except BenchError as error:
        print(f"reload.py: {error}", file=sys.stderr)
        return EXIT_CANNOT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(table(found))
    wrong = problems(found)
    print("".join(f"WRONG: {what}\n" for what in wrong) or "within the bars")
    if options.json is not None:
        options.json.write_text(json.dumps([{"case": case._asdict(), "times": times} for case, times in found]) + "\n")
    return EXIT_WRONG if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
