#!/usr/bin/env python3
"""What the statistics cost with thousands of servers: how long the page and the metrics take, and how late an
advertisement or a check is because of them. See README.md."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

__all__ = ["Figures", "config", "late", "main", "percentile"]

EXIT_FAILED, EXIT_CANNOT = 1, 2
SERVERS, BACKENDS = 5000, 50
# Seconds. The grid of a check and of an advertisement is found while nobody asks for anything.
QUIET, BUSY = 10.0, 20.0
ADVERTISEMENTS, CHECKS = 0.1, 0.1
READY_WITHIN = 60.0
# Bars: seconds that an answer may take, and milliseconds that it may make others later.
ANSWER_WITHIN, LATER_BY = 1.0, 20.0
PORT, WATCHED, STATS = 8000, 8001, 7000
PAGES = {
    "page": ("/haproxy?stats", ()),
    "metrics": ("/metrics", ()),
    "metrics, OpenMetrics, gzip": ("/metrics", ("-H", "Accept: application/openmetrics-text", "--compressed")),
    "csv": ("/haproxy?stats;csv", ()),
}
_ETH_ALL, _ETH_IPV4 = 3, 0x0800
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_INSIDE = "PYBALANCER_BENCH_NAMESPACE"


class Figures(NamedTuple):
    """Milliseconds behind the grid."""

    times: int
    middle: float
    most_of_them: float
    """99 of 100."""
    worst: float


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def late(times: Sequence[float], grid: float, interval: float) -> list[float]:
    """How many seconds behind its moment each is; moments are `grid` plus multiples of `interval`. One that was left
    out altogether makes the next one late."""
    behind = []
    for number, at in enumerate(times):
        phase = (at - grid) % interval
        # A little before its moment: the clocks of two measurements.
        behind.append(phase if phase < interval * 0.9 else 0.0)
        if number and at - times[number - 1] > interval * 1.5:
            behind[-1] = at - times[number - 1] - interval
    return behind


def grid_of(times: Sequence[float], interval: float) -> float:
    """Where the moments lie: nothing comes before its time, so the earliest say it, whichever way round."""
    phases = sorted(at % interval for at in times)
    # The widest gap on the circle is before the earliest.
    gaps = [(phases[i] - phases[i - 1]) % interval for i in range(len(phases))]
    return phases[max(range(len(phases)), key=gaps.__getitem__)]


def figures(times: Sequence[float], grid: float, interval: float) -> Figures:
    behind = [each * 1000 for each in late(times, grid, interval)]
    return Figures(len(times), percentile(behind, 0.5), percentile(behind, 0.99), max(behind))


def config(folder: Path, servers: int) -> str:
    """As many servers as wanted, one more whose checks are watched, and a virtual router."""
    each = servers // BACKENDS
    lines = [
        "global: {workers: 1, log: {target: stdout}}",
        f"stats: {{bind: 127.0.0.1:{STATS}}}",
        "vrrp:",
        "  instances:",
        f"    one: {{interface: d0, version: 3, advert_int: {ADVERTISEMENTS * 1e3:.0f}ms, virtual_router_id: 51,",
        "          priority: 200, virtual_ipaddress: 192.0.2.200/24}",
        "frontends:",
    ]
    lines += [f"  f{b}: {{mode: http, bind: '127.0.0.1:{10000 + b}', default_backend: b{b}}}" for b in range(BACKENDS)]
    lines += [
        f"  watched: {{mode: http, bind: '127.0.0.1:{9999}', default_backend: watched}}",
        "backends:",
        f"  watched: {{check: {{type: tcp, interval: {CHECKS * 1e3:.0f}ms}}, "
        f"servers: {{one: {{address: '127.9.9.9:{WATCHED}'}}}}}}",
    ]
    for b in range(BACKENDS):
        lines += [f"  b{b}:", "    check: {type: tcp, interval: 10s}", "    servers:"]
        lines += [f"      s{i}: {{address: '127.1.{b}.{i + 1}:{PORT}'}}" for i in range(each)]
    file = folder / "balancer.yaml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


class Capture:
    """When packets passed, by the kernel's clock."""

    def __init__(self, interface: str, program: Sequence[tuple[int, int, int, int]]) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ALL))
        code = b"".join(struct.pack("HBBI", *line) for line in program)
        self._code = bytearray(code)
        buffer = (ctypes.c_char * len(code)).from_buffer(self._code)
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, 0))
        self._socket.setblocking(False)

    def take(self) -> list[float]:
        """Those since the last time, in seconds."""
        found: dict[float, None] = {}
        while True:
            try:
                _, ancillary, _, address = self._socket.recvmsg(200, 200)
            except BlockingIOError:
                return list(found)
            # On lo each packet is seen as it leaves and as it comes.
            if address[2] != socket.PACKET_OUTGOING:
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                found[seconds + nanoseconds * 1e-9] = None


# Classic BPF: IPv4 with protocol 112; IPv4, TCP, this port, SYN without ACK (no IP options on lo).
_VRRP = ((0x30, 0, 0, 23), (0x15, 0, 1, 112), (0x06, 0, 0, 200), (0x06, 0, 0, 0))
_SYN = (
    (0x30, 0, 0, 23), (0x15, 0, 5, 6), (0x28, 0, 0, 36), (0x15, 0, 3, WATCHED), (0x30, 0, 0, 47), (0x15, 0, 1, 2),
    (0x06, 0, 0, 200), (0x06, 0, 0, 0),
)  # fmt: skip


def accept_for_ever() -> None:
    """The servers: they take connections, and close them."""
    selector = selectors.DefaultSelector()
    for port in (PORT, WATCHED):
        sock = socket.create_server(("0.0.0.0", port), backlog=4096)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            with suppress(BlockingIOError):
                while True:
                    key.fileobj.accept()[0].close()  # type: ignore[union-attr]


@contextmanager
def servers() -> Iterator[None]:
    pid = os.fork()
    if not pid:
        try:
            accept_for_ever()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def ask(path: str, *arguments: str) -> tuple[float, int]:
    """Seconds and octets of an answer."""
    done = subprocess.run(
        ["curl", "-q", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{time_total} %{size_download}", *arguments,
         f"http://127.0.0.1:{STATS}{path}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    status, seconds, size = done.stdout.split()
    if status != "200":
        raise SystemExit(f"{path}: {status}")
    return float(seconds), int(size)


def listen(over: threading.Event) -> None:
    """Somebody whose browser shows the page all the while."""
    with socket.create_connection(("127.0.0.1", STATS)) as sock:
        sock.sendall(b"GET /haproxy?stats;live HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.settimeout(0.5)
        while not over.is_set():
            try:
                if not sock.recv(1 << 20):
                    return
            except TimeoutError:
                pass


def wait_until_up(process: subprocess.Popen[bytes], count: int) -> None:
    deadline = time.monotonic() + READY_WITHIN
    path = f"http://127.0.0.1:{STATS}/metrics?scope=backend&metrics=haproxy_backend_active_servers"
    while time.monotonic() < deadline and process.poll() is None:
        done = subprocess.run(["curl", "-qs", path], capture_output=True, text=True, timeout=10)
        up = sum(float(line.split()[-1]) for line in done.stdout.splitlines() if not line.startswith("#"))
        if up == count:
            return
        time.sleep(0.3)
    raise SystemExit("the daemon did not find its servers up in time")


def measure(count: int, quiet: float, busy: float) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-page-")))
        stack.enter_context(servers())
        command = Path(sys.executable).with_name("pybalancer")
        log = stack.enter_context((folder / "log").open("wb"))
        file = config(folder, count)
        process = subprocess.Popen([command, "-c", file], stdout=log, stderr=log, cwd=folder)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        wait_until_up(process, count // BACKENDS * BACKENDS + 1)
        advertisements, checks = Capture("d1", _VRRP), Capture("lo", _SYN)
        # The first round of all checks is over, the second begins.
        time.sleep(2)
        for capture in (advertisements, checks):
            capture.take()
        time.sleep(quiet)
        before = {"advertisements": advertisements.take(), "checks": checks.take()}
        over = threading.Event()
        listener = threading.Thread(target=listen, args=(over,))
        listener.start()
        answers: dict[str, list[tuple[float, int]]] = {name: [] for name in PAGES}
        deadline = time.monotonic() + busy
        while time.monotonic() < deadline:
            for name, (path, arguments) in PAGES.items():
                answers[name].append(ask(path, *arguments))
        after = {"advertisements": advertisements.take(), "checks": checks.take()}
        over.set()
        listener.join()
        result: dict[str, object] = {
            "answers": {
                name: {
                    "times": len(found),
                    "seconds": round(percentile([each for each, _ in found], 0.5), 3),
                    "worst": round(max(each for each, _ in found), 3),
                    "octets": found[-1][1],
                }
                for name, found in answers.items()
            }
        }
        for name, interval in (("advertisements", ADVERTISEMENTS), ("checks", CHECKS)):
            grid = grid_of(before[name], interval)
            result[name] = {
                "quiet": figures(before[name], grid, interval)._asdict(),
                "busy": figures(after[name], grid, interval)._asdict(),
            }
        return result


def inside(arguments: Sequence[str]) -> int:
    """The same in a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, __file__, *arguments]
    return subprocess.run(command, env={**os.environ, _INSIDE: "1"}).returncode


def prepare() -> None:
    for line in (
        "link set lo up", "link add d0 type veth peer name d1", "address add 192.0.2.1/24 dev d0", "link set d0 up",
        "link set d1 up",
    ):  # fmt: skip
        subprocess.run(["ip", *line.split()], check=True)


def table(result: dict[str, object]) -> str:
    lines = []
    for name, found in result["answers"].items():  # type: ignore[attr-defined]
        lines.append(
            f"{name:<30} {found['seconds'] * 1000:7.0f} ms  worst {found['worst'] * 1000:7.0f} ms  "
            f"{found['octets'] / 1e6:6.1f} MB  ({found['times']} times)"
        )
    for name in ("advertisements", "checks"):
        for when, found in result[name].items():  # type: ignore[index]
            lines.append(
                f"{name + ', ' + when:<30} late by {found['middle']:.1f} ms, 99 % {found['most_of_them']:.1f} ms, "
                f"worst {found['worst']:.1f} ms  ({found['times']} of them)"
            )
    return "\n".join(lines)


def failures(result: dict[str, object]) -> list[str]:
    """What does not hold its bar: an answer's usual time, and how much later 99 % of the others are with it."""
    found = [
        f"{name} takes {each['seconds']} s"
        for name, each in result["answers"].items()  # type: ignore[attr-defined]
        if each["seconds"] > ANSWER_WITHIN
    ]
    for name in ("advertisements", "checks"):
        each = result[name]
        later = each["busy"]["most_of_them"] - each["quiet"]["most_of_them"]  # type: ignore[index]
        if later > LATER_BY:
            found.append(f"{name} are {later:.0f} ms later")
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--quiet", type=float, default=QUIET, help="seconds in which nobody asks")
    parser.add_argument("--busy", type=float, default=BUSY, help="seconds of asking")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    if missing := [tool for tool in ("curl", "ip", "unshare") if shutil.which(tool) is None]:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return EXIT_CANNOT
    if os.geteuid():
        print("root is needed, for a network namespace and VRRP", file=sys.stderr)
        return EXIT_CANNOT
    if _INSIDE not in os.environ:
        return inside(arguments)
    prepare()
    result = measure(asked.servers, asked.quiet, asked.busy)
    print(table(result))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    found = failures(result)
    for line in found:
        print(f"FAILED: {line}")
    return EXIT_FAILED if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
