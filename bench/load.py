"""The clients: wrk, h2load and dnsperf for requests, sockets of our own for idle connections and one big body."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from balancers import DNS_NAME
from rig import LOAD_CORE, BenchError, Rig, find_tool

__all__ = [
    "CLIENTS",
    "UPLOAD",
    "Load",
    "Pace",
    "Tally",
    "download",
    "idle_connections",
    "parse_ab",
    "parse_dnsperf",
    "parse_h2load",
    "parse_wrk",
]

CLIENTS = 32
OUTSTANDING_QUERIES = 100
# Where a request has a body.
UPLOAD = "/upload"
# So many connections that each has time to answer before its next request is due; they come so many at a time.
PACED_CLIENTS = 400
PACED_AT_ONCE = 4
PACED_EVERY_MS = 11
PACED_RAMP = PACED_CLIENTS / PACED_AT_ONCE * PACED_EVERY_MS / 1000
# What a load may take beyond its own duration before it counts as hung.
GRACE = 15.0

# One line of JSON at the end; status errors are answers other than 2xx and 3xx.
WRK_REPORT = """\
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, ' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""

WRK_UPLOAD = 'wrk.method = "POST"\nwrk.body = string.rep("x", 1048576)\n'


@dataclass(frozen=True)
class Tally:
    """What a load got done."""

    requests: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float | None = None


def parse_wrk(text: str) -> Tally:
    """From the JSON line of WRK_REPORT. wrk counts a response as a request done whatever its status."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise BenchError("wrk printed no report")
    report = json.loads(lines[0])
    failed = sum(report[kind] for kind in ("connect", "read", "write", "status", "timeout"))
    return Tally(
        requests=report["requests"] - report["status"],
        failed=failed,
        seconds=report["microseconds"] / 1e6,
        p50_us=report["p50"],
        p99_us=report["p99"],
    )


@dataclass(frozen=True)
class Pace:
    """What became of requests sent at a fixed rate."""

    rate: float
    """Requests per second, as sent."""
    failed: int
    p50_us: float
    p99_us: float
    p999_us: float
    late: float
    """The share of answers that took as long as a connection's time between two requests: the next one on it was sent
    later than it should have been, and its wait is not seen whole. Percentiles up to one less this are exact."""


def parse_h2load(text: str, *, period: float) -> Pace:
    """From h2load's log: the time when it was sent (us since 1970), the status and the duration (us) of each request.
    `period` is a connection's time between two requests (seconds). What was sent while clients still came, or some had
    left, does not count."""
    rows = [(int(sent), int(status), int(took)) for sent, status, took in map(str.split, text.splitlines())]
    if not rows:
        raise BenchError("h2load logged nothing")
    first, last = min(rows)[0] + PACED_RAMP * 1e6, max(rows)[0] - PACED_RAMP * 1e6
    steady = [row for row in rows if first <= row[0] <= last]
    if last <= first or not steady:
        raise BenchError("h2load was done before all its clients had come")
    took = sorted(row[2] for row in steady)
    return Pace(
        rate=len(steady) / (last - first) * 1e6,
        failed=sum(not 200 <= row[1] < 400 for row in rows),
        p50_us=took[len(took) // 2],
        p99_us=took[len(took) * 99 // 100],
        p999_us=took[len(took) * 999 // 1000],
        late=sum(one >= period * 1e6 for one in took) / len(took),
    )


def parse_ab(text: str) -> Tally:
    """From ab's report. Answers of another length than the first are well, others than 2xx are not."""
    done, failed = int(_find(r"Complete requests:\s+([0-9]+)", text)), int(_find(r"Failed requests:\s+([0-9]+)", text))
    refused = re.search(r"Non-2xx responses:\s+([0-9]+)", text)
    errors = re.search(r"Write errors:\s+([0-9]+)", text)
    failed += sum(int(found[1]) for found in (refused, errors) if found)
    half, most = (re.search(rf"^\s+{share}%\s+([0-9]+)", text, re.MULTILINE) for share in (50, 99))
    return Tally(
        requests=max(done - failed, 0),
        failed=failed,
        seconds=float(_find(r"Time taken for tests:\s+([0-9.]+)", text)),
        p50_us=int(half[1]) * 1000.0 if half else 0.0,
        p99_us=int(most[1]) * 1000.0 if most else None,
    )


def parse_dnsperf(text: str) -> Tally:
    """From dnsperf's statistics. Lost queries and codes other than NOERROR have failed."""
    completed = int(_find(r"Queries completed:\s+([0-9]+)", text))
    codes = re.search(r"Response codes:\s+(.*)", text)
    good = re.search(r"NOERROR ([0-9]+)", codes[1]) if codes else None
    requests = int(good[1]) if good else 0
    return Tally(
        requests=requests,
        failed=int(_find(r"Queries lost:\s+([0-9]+)", text)) + completed - requests,
        seconds=float(_find(r"Run time \(s\):\s+([0-9.]+)", text)),
        p50_us=float(_find(r"Average Latency \(s\):\s+([0-9.]+)", text)) * 1e6,
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise BenchError(f"the load printed no {pattern.partition(':')[0]!r}")
    return match[1]


class Load:
    """The load programs, looked up once."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._report = rig.write("report.lua", WRK_REPORT)
        self._upload = rig.write("upload.lua", WRK_UPLOAD + WRK_REPORT)
        self._queries = rig.write("queries", f"{DNS_NAME} A\n")

    def http(
        self,
        port: int,
        seconds: float,
        *,
        close: bool = False,
        path: str = "/",
        cookie: str | None = None,
        clients: int = CLIENTS,
        core: int | None = LOAD_CORE,
    ) -> Tally:
        """So many clients over HTTP. `close` gives each request a connection of its own. All send `cookie`, or none
        and keep none. What goes to UPLOAD has a body of 1 MiB."""
        command = self.http_command(port, seconds, close=close, path=path, cookie=cookie, clients=clients)
        return parse_wrk(self._rig.run(command, within=seconds + GRACE, core=core))

    def http_command(
        self,
        port: int,
        seconds: float,
        *,
        close: bool = False,
        path: str = "/",
        cookie: str | None = None,
        clients: int = CLIENTS,
    ) -> list[str]:
        """What wrk is started with for that; parse_wrk reads what it says."""
        report = self._upload if path == UPLOAD else self._report
        command = [find_tool("wrk"), "-t1", f"-c{clients}", f"-d{max(round(seconds), 1)}s", "--timeout", "10s"]
        command += ["-s", str(report), f"http://127.0.0.1:{port}{path}"]
        if close:
            command[1:1] = ["-H", "Connection: close"]
        if cookie is not None:
            command[1:1] = ["-H", f"Cookie: {cookie}"]
        return command

    def paced(self, port: int, rate: float, seconds: float) -> Pace:
        """So many requests per second over keep-alive connections, each sent when its time has come, however long the
        answers to others take."""
        log = self._rig.directory / f"{self._rig.unique('paced')}.log"
        each = max(round(rate * seconds / PACED_CLIENTS), 1)
        command = [find_tool("h2load"), "--h1", "-c", str(PACED_CLIENTS), "-n", str(each * PACED_CLIENTS)]
        # They connect one after the other, a few at a time, lest all of them ask at the same moment ever after.
        command += ["-r", str(PACED_AT_ONCE), "--rate-period", f"{PACED_EVERY_MS}ms"]
        command += ["--rps", f"{rate / PACED_CLIENTS:.3f}", "--log-file", str(log), f"http://127.0.0.1:{port}/"]
        self._rig.run(command, within=seconds + PACED_RAMP + GRACE)
        pace = parse_h2load(log.read_text(), period=PACED_CLIENTS / rate)
        log.unlink()
        return pace

    def dns(self, port: int, seconds: float) -> Tally:
        """100 queries under way at any time, from 8 sockets."""
        command = [find_tool("dnsperf"), "-s", "127.0.0.1", "-p", str(port), "-d", str(self._queries)]
        command += ["-c", "8", "-T", "1", "-q", str(OUTSTANDING_QUERIES), "-l", f"{max(round(seconds), 1)}"]
        return parse_dnsperf(self._rig.run(command, within=seconds + GRACE))


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """`count` keep-alive client connections that have each had one answer and now say nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5.0))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nhello"):
                chunk = connection.recv(4096)
                if not chunk:
                    raise BenchError("an idle connection was closed before its answer was whole")
                answer += chunk
        yield


def download(port: int, path: str, *, pause_every: int, pause: float, within: float) -> int:
    """Read a body to its end and return its length; every `pause_every` octets the client stops reading for a while,
    so that a balancer that buffers what it cannot pass on is seen to grow."""
    deadline = time.monotonic() + within
    room = memoryview(bytearray(1 << 20))
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = connection.recv(4096)
            if not chunk:
                return 0
            head += chunk
        length = len(head.partition(b"\r\n\r\n")[2])
        next_pause = pause_every
        while got := connection.recv_into(room):
            length += got
            if time.monotonic() > deadline:
                raise BenchError(f"a body of {path}: not within {within:g} s")
            if length >= next_pause:
                next_pause += pause_every
                time.sleep(pause)
    return length
