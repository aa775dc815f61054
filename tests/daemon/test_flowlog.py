"""The flow log: of the real daemon in network namespaces, and by itself with events of the test's own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from balancer.config.model import Global, Log
from balancer.daemon import flowlog
from balancer.daemon.flowlog import FlowLog
from balancer.kernel import counters
from balancer.kernel.conntrack import Conntrack
from balancer.kernel.ctnetlink import Flow
from balancer.kernel.events import Event
from balancer.kernel.plan import Planner
from balancer.observe.log import AccessLog
from balancer.pool.facts import Entity, Ledger
from balancer.pool.orders import Condition, ServerState
from tests.daemon import directors, test_kerneld
from tests.daemon.conftest import as_root
from tests.e2e.bed.process import until
from tests.kernel.conftest import (
    ADDRESSES,
    ADDRESSES_V6,
    CLIENT,
    CLIENT_V6,
    VIP,
    VIP_2,
    VIP_V6,
    Asker,
    Bed,
    asking,
    query,
    tcp,
)
from tests.kernel.stage import Service
from tests.kernel.table import clients, entry, fill
from tests.vrrp.conftest import Net

_bed, bed, director = directors._bed, directors.bed, directors.director

CONFIG = f"""
global:
  user: nobody
  workers: 1
  hard_stop_after: 5s
  log: {{target: stdout, format: haproxy}}
  runtime_socket: {{path: FOLDER/admin.sock}}
defaults: {{flow_log: end}}
frontends:
  web: {{mode: tcp, engine: kernel, bind: ["{VIP}:80", "[{VIP_V6}]:80"], default_backend: web, flow_log: both}}
  other: {{mode: tcp, engine: kernel, bind: "{VIP_2}:80", default_backend: other}}
  datagrams: {{mode: udp, engine: kernel, bind: ["{VIP}:8080", "[{VIP_V6}]:8080"], default_backend: datagrams}}
  dns: {{mode: udp, engine: kernel, bind: "{VIP_2}:53", default_backend: dns}}
  silent: {{mode: tcp, engine: kernel, bind: "{VIP_2}:81", default_backend: other, flow_log: none}}
  proxied: {{mode: tcp, bind: "{VIP}:8000", default_backend: other}}
backends:
  web:
    check: {{type: tcp, interval: 100ms, timeout: 500ms, rise: 1, fall: 1}}
    servers:
      web1: {{address: "{ADDRESSES["web1"]}:80"}}
      web2: {{address: "{ADDRESSES["web2"]}:80"}}
      web3: {{address: "{ADDRESSES["web3"]}:80"}}
      web1v6: {{address: "[{ADDRESSES_V6["web1"]}]:80"}}
  other: {{servers: {{web3: {{address: "{ADDRESSES["web3"]}:8080"}}}}}}
  datagrams:
    servers:
      web1: {{address: "{ADDRESSES["web1"]}:8080"}}
      web1v6: {{address: "[{ADDRESSES_V6["web1"]}]:8080"}}
  dns: {{servers: {{dns1: {{address: "{ADDRESSES["web1"]}:53"}}}}}}
stats: {{bind: FOLDER/stats.sock, metrics: /metrics}}
"""
QUIET = CONFIG.replace("flow_log: end", "flow_log: none").replace("flow_log: both", "flow_log: none")
CONNTRACK = Path("/proc/sys/net/netfilter")
TIMESTAMP, EVENTS = "net/netfilter/nf_conntrack_timestamp", "net/netfilter/nf_conntrack_events"
# Seconds; what is over is forgotten within one more, when connections are counted.
TIMEOUTS = {"tcp_timeout_time_wait": 1, "tcp_timeout_close": 1, "udp_timeout": 1}
LINE = re.compile(
    r"(?P<client>[0-9a-f.:]+):(?P<client_port>\d+) \[(?P<date>\S{24}|\S+)\] (?P<frontend>\S+) "
    r"(?P<backend>[^/ ]+)/(?P<server>\S+) "
    r"(?:(?P<tw>\d+)/(?P<tc>-?\d+)/(?P<tt>\+?-?\d+) (?P<read>\+?\d+) (?P<end>\S\S) \d+/\d+/\d+/\d+/0 0/0"
    r'|(?P<udp_tt>-?\d+) (?P<udp_in>\d+)/(?P<udp_out>\d+) (?P<udp_end>\S\S) 0 "-") '
    r"(?P<service>[0-9a-f.:]+):(?P<service_port>\d+) "
    r"(?P<bytes_in>\+?\d+)/(?P<bytes_out>\+?\d+) (?P<packets_in>\+?\d+)/(?P<packets_out>\+?\d+)"
)
# IP and TCP headers of a packet with timestamps, what a SYN has more of options; IP and UDP headers.
HEADERS, SYN, DATAGRAM = {4: 52, 6: 72}, 8, {4: 28, 6: 48}


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where there is a director, what is over is soon forgotten there."""
    if "bed" not in request.fixturenames:
        yield
        return
    found = {}
    with request.getfixturevalue("bed").director:
        for name, seconds in TIMEOUTS.items():
            path = CONNTRACK / f"nf_conntrack_{name}"
            found[path] = path.read_text()
            path.write_text(str(seconds))
    yield
    with request.getfixturevalue("_bed").director:
        for path, value in found.items():
            path.write_text(value)


def of(it: Any, port: int, *, is_end: bool = True) -> re.Match[str]:
    """The line of the flow whose client has this port, once it is there."""

    def found() -> re.Match[str] | None:
        for line in list(it.process.out):
            match = LINE.fullmatch(line)
            if match and int(match["client_port"]) == port and ("+0/+0 " in line) != is_end:
                return match
        return None

    return until(found, f"the flow of port {port} is logged; {it.process.said()}")


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def sent(to: str, bed: Bed, octets: int) -> tuple[int, str, int]:
    """Have so many echoed by TCP; the client's port, the server and how much it has sent."""
    sock, name, seen = tcp(bed.client, to)
    with sock:
        port = port_of(sock)
        sock.sendall(b"x" * octets)
        sock.shutdown(socket.SHUT_WR)
        back = 0
        while data := sock.recv(65536):
            back += len(data)
    assert back == octets
    return port, name, back + len(f"{name} {seen}\n")


def sent_again(bed: Bed) -> int:
    """How many segments the client and the servers have sent more than once (RFC 4022: tcpRetransSegs)."""
    segments = 0
    for net in (bed.client, *bed.hosts.values()):
        with net:
            names, values = (
                line.split()
                for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
                if line.startswith("Tcp:")
            )
        segments += int(values[names.index("RetransSegs")])
    return segments


@pytest.mark.parametrize(("family", "to", "client"), [(4, VIP, CLIENT), (6, VIP_V6, CLIENT_V6)])
@pytest.mark.parametrize("octets", [0, 1, 100_000])
def test_octets_are_those_that_were_sent(director, bed, family, to, client, octets):
    it = director(text=CONFIG)
    while True:
        # The kernel counts what passes: what a sender who was kept from its processor sends twice, twice.
        segments, before = sent_again(bed), time.time()
        port, name, out = sent(to, bed, octets)
        took = time.time() - before
        line = of(it, port)
        if segments == sent_again(bed):
            break
    server = name if family == 4 else f"{name}v6"
    assert line.group("client", "frontend", "backend", "server") == (client, "web", "web", server)
    assert (line["service"], line["service_port"], line["end"]) == (to, "80", "--")
    assert (line["tw"], line["tc"]) == ("0", "0")
    packets_in, packets_out = int(line["packets_in"]), int(line["packets_out"])
    assert min(packets_in, packets_out) >= 3
    assert int(line["bytes_in"]) == octets + SYN + packets_in * HEADERS[family]
    assert int(line["bytes_out"]) == int(line["read"]) == out + SYN + packets_out * HEADERS[family]
    # Not for as long as it was remembered after its end; the kernel's ticks are some milliseconds.
    assert 0 <= int(line["tt"]) <= 1000 * took + 50
    stamp, _, milliseconds = line["date"].rpartition(".")
    began = time.mktime(time.strptime(stamp, "%d/%b/%Y:%H:%M:%S")) + int(milliseconds) / 1000
    assert before - 0.02 <= began <= before + took + 0.02
    # When it began it was told of, too.
    assert of(it, port, is_end=False)["tt"] == "+0"


@pytest.mark.parametrize(("family", "to"), [(4, VIP), (6, VIP_V6)])
def test_datagrams(director, bed, family, to):
    it = director(text=CONFIG)
    with asking(bed.client, to, 8080) as asker:
        port = port_of(asker.sock)
        questions = [query("a" * length) for length in (0, 100, 1000)]
        answers = 0
        for question in questions:
            asker.sock.send(question)
            answers += len(asker.sock.recv(65536))
    line = of(it, port)
    assert (line["frontend"], line["udp_end"], line["service"]) == ("datagrams", "--", to)
    assert line.group("packets_in", "packets_out") == ("3", "3")
    assert int(line["bytes_in"]) == int(line["udp_in"]) == sum(map(len, questions)) + 3 * DATAGRAM[family]
    assert int(line["bytes_out"]) == int(line["udp_out"]) == answers + 3 * DATAGRAM[family]
    assert 0 <= int(line["udp_tt"]) < 900


def test_objects(director, bed):
    it = director(("format: haproxy", "format: json"), text=CONFIG)
    port, name, out = sent(VIP, bed, 1000)

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in list(it.process.out) if '"type":"flow"' in line]
        own = [line for line in lines if line["client_port"] == port]
        return own if len(own) == 2 else []

    begin, end = until(found, "both are logged")
    assert (begin["is_end"], end["is_end"]) == (False, True)
    assert (begin["bytes_in"], begin["tt"]) == (0, 0)
    assert end["bytes_in"] == 1000 + SYN + end["packets_in"] * HEADERS[4]
    assert end["bytes_out"] == out + SYN + end["packets_out"] * HEADERS[4]
    assert (end["server"], end["server_address"], end["server_port"]) == (name, ADDRESSES[name], 80)
    assert (end["service"], end["service_port"], end["protocol"]) == (VIP, 80, "tcp")


def test_flows_that_were_forgotten_for_their_server_was_down_are_logged(director, bed):
    it = director(text=CONFIG)
    held = {}
    while "web1" not in held:
        sock, name, _ = tcp(bed.client, VIP)
        if name in held:
            sock.close()
        else:
            held[name] = sock
    bed.inner.cut(bed.hosts["web1"])
    try:
        it.process.wait_for_line("Server web/web1 is DOWN")
        line = of(it, port_of(held["web1"]))
        assert (line["server"], line["end"]) == ("web1", "DD")
    finally:
        for sock in held.values():
            sock.close()


def test_how_they_end(director, bed):
    it = director(text=CONFIG)
    # By a reset.
    sock, _, _ = tcp(bed.client, VIP)
    reset = port_of(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    # By somebody's order.
    sock, _, _ = tcp(bed.client, VIP_2)
    killed = port_of(sock)
    bed.forget_flows()
    assert of(it, killed)["end"] == "KD"
    sock.close()
    # No answer.
    bed.inner.cut(bed.hosts["web1"])
    with Asker(bed.client, VIP, 8080).sock as asker:
        asker.send(query())
        unanswered = of(it, port_of(asker))
        assert (unanswered["udp_end"], unanswered["packets_out"]) == ("sH", "0")
    assert of(it, reset)["end"] == "-D"


def test_who_is_not_asked_for_is_not_in_it(director, bed):
    it = director(text=CONFIG)
    with asking(bed.client, VIP_2) as asker:
        asker.ask()
    it.process.wait_for_line("frontends.dns.flow_log: queries are balanced each on its own")
    others = []
    for port, to in ((81, VIP_2), (8000, VIP), (8080, ADDRESSES["web2"])):
        sock, _, _ = tcp(bed.client, to, port)
        others.append(port_of(sock))
        sock.close()
    sock, _, _ = tcp(bed.client, VIP_2)
    port = port_of(sock)
    sock.close()
    # Only its end, and by then that of the others would have been there.
    of(it, port)
    ports = [int(match["client_port"]) for line in list(it.process.out) if (match := LINE.fullmatch(line))]
    assert ports.count(port) == 1
    assert set(ports).isdisjoint(others)
    assert "53" not in {match["service_port"] for match in map(LINE.fullmatch, list(it.process.out)) if match}


def listening(bed: Bed, pid: int) -> list[int]:
    """The groups of conntrack's events that a process has asked for."""
    with bed.director:
        rows = [line.split() for line in Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]]
    inodes = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return [int(row[3], 16) for row in rows if row[1] == "12" and f"socket:[{row[9]}]" in inodes and int(row[3], 16)]


def test_settings_are_put_back_and_nobody_listens_where_nothing_is_logged(director, bed):
    before = directors.Director.setting
    with bed.director:
        found = {name: Path("/proc/sys", name).read_text() for name in (TIMESTAMP, EVENTS)}
    it = director(text=CONFIG)
    assert (it.setting(TIMESTAMP), it.setting(EVENTS)) == ("1", "1")
    assert listening(bed, it.kernel) == [5]
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert {name: before(it, name) + "\n" for name in found} == found
    quiet = director(text=QUIET)
    assert {name: before(quiet, name) + "\n" for name in found} == found
    assert listening(bed, quiet.kernel) == []


def test_only_ends_are_listened_to_where_no_more_is_wanted(director, bed):
    it = director(("flow_log: both", "flow_log: end"), text=CONFIG)
    assert listening(bed, it.kernel) == [4]


def test_after_one_that_was_killed_settings_are_put_back_by_one_that_does_not_log(director, bed):
    with bed.director:
        found = Path("/proc/sys", TIMESTAMP).read_text()
    it = director(text=CONFIG)
    it.process.signal(signal.SIGKILL)
    it.process.wait()
    it.process.end()
    assert it.setting(TIMESTAMP) == "1"
    quiet = director(text=QUIET, run=it.run)
    until(lambda: quiet.setting(TIMESTAMP) + "\n" == found, "it is put back")
    assert TIMESTAMP.replace("/", ".") + " put back to 0" in quiet.process.said()


def test_a_flow_of_before_the_process_was_killed_is_logged_by_the_next(director, bed):
    it = director(text=CONFIG)
    sock, name, _ = tcp(bed.client, VIP)
    with sock:
        port = port_of(sock)
        of(it, port, is_end=False)
        killed = it.kernel
        os.kill(killed, signal.SIGKILL)
        until(lambda: it.process.said().count("the kernel's rules are in place") == 2, "the next one is there")
    line = of(it, port)
    assert (line["server"], line["end"]) == (name, "--")
    assert listening(bed, it.kernel) == [5]


def test_a_flood_is_logged_or_counted_and_surgery_comes_first(director, bed):
    """More than is read, and at once; all others have their turn."""
    it = director(text=CONFIG)
    held = []
    while not held or held[-1][1] != "web1":
        held.append(tcp(bed.client, VIP))
    port = port_of(held[-1][0])
    number = 40_000
    of(it, port, is_end=False)
    with bed.director:
        # There is room for half as many.
        os.kill(it.kernel, signal.SIGSTOP)
        fill(entry(client, (VIP, 80), (ADDRESSES["web2"], 80)) for client in islice(clients(number), number // 2))
        bed.inner.cut(bed.hosts["web1"])
        os.kill(it.kernel, signal.SIGCONT)
        fill(entry(client, (VIP, 80), (ADDRESSES["web2"], 80)) for client in islice(clients(number), number // 2, None))
    try:
        it.process.wait_for_line("Server web/web1 is DOWN")
        until(lambda: not any(port in flow.client for flow in flows(bed, "web1")), "it is forgotten", within=2)
    finally:
        for sock, _, _ in held:
            sock.close()

    def lost() -> float:
        return it.metric("haproxy_process_dropped_logs_total")

    def missing() -> float:
        written = sum(line.startswith("10.") and line.endswith(" +0/+0 +0/+0") for line in list(it.process.out))
        return number - lost() - written

    until(lambda: missing() <= 0, "all are there or known to be lost", within=60)
    # Some of the others may be among the lost.
    assert missing() >= -3 * len(held)
    assert lost() > 0
    # What is lost is told at once; all of it at the end, which comes before half a minute is over.
    counted = lost()
    it.process.signal(signal.SIGTERM)
    it.process.wait()
    told = re.compile(r"(\d+) flows that .* are missing from the log")
    assert sum(int(match[1]) for line in list(it.process.out) if (match := told.search(line))) >= counted


def flows(bed: Bed, server: str) -> list[Flow]:
    service = Service("web", "tcp", 4, VIP, 80)
    with bed.director:
        return [flow for flow in Conntrack().flows([service]) if flow.server[0] == ADDRESSES[server]]


def test_where_the_kernel_tells_nothing_the_rest_is_done(plan, memory, tmp_path, monkeypatch):
    """And what it is not asked for, nobody listens to."""
    asked = []

    def refuse(*_: Any, **__: Any) -> None:
        asked.append(True)
        raise PermissionError(1, "not you")

    monkeypatch.setattr(flowlog, "Events", refuse)
    for flow_log in ("none", "end"):
        desk = test_kerneld.Desk(plan, memory, tmp_path, 2, "tcp")
        front = desk.plan.config.frontends["f"].model_copy(update={"flow_log": flow_log})
        logged = desk.plan.config.model_copy(
            update={"frontends": {"f": front}, "global_": Global(log=Log(target="stdout"))}
        )
        desk.plan = dataclasses.replace(desk.plan, config=logged)
        desk.begin(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(counters, "read", lambda nft, services: {})
            desk.it._begin()
        assert len(desk.nft.texts) == 1
    assert asked == [True]
    assert "ERR flows cannot be logged: not you" in desk.said


def planned(plan: Any, memory: Any, condition: Condition = Condition.UP) -> tuple[Ledger, Any, ServerState]:
    """Of a frontend f with the server s of backend b."""
    front = {"mode": "tcp", "engine": "kernel", "bind": "192.0.2.1:80", "default_backend": "b"}
    known = plan({"frontends": {"f": front}, "backends": {"b": {"servers": {"s": "10.0.0.1:80"}}}})
    addresses = {pair: seat.address for pair, seat in known.seats.items()}
    planner = Planner(known.config, addresses, lambda *pair: known.seats[pair].index)
    state = ServerState(condition)
    return Ledger(memory(known).blocks[-1], known.layout), planner.services(lambda _: state), state


@as_root
def test_a_reader_of_the_log_that_hangs_loses_nothing_while_there_is_room(plan, memory):
    """More than a pipe holds waits in the kernel, and comes when it is read again."""
    number = 3000
    ledger, services, state = planned(plan, memory)
    reader, writer = os.pipe()
    net = Net()
    with net:
        log = AccessLog([Log(target="stdout")], stdout=writer)
        it = FlowLog(log, services, {"f": True}, ledger, lambda _: state)
        fill(entry(client, ("192.0.2.1", 80), ("10.0.0.1", 80)) for client in clients(number))
    os.close(writer)
    # Until the pipe is full: then it is tried again a little later, and nothing more is read.
    while not log.flush(0):
        it.turn()
    waiting = log.flush(0)
    it.turn()
    assert 0 < log.flush(0) == waiting <= 200
    assert not it.is_waiting
    seen = b""
    while seen.count(b"\n") < number:
        seen += os.read(reader, 1 << 20)
        if not it.is_waiting:
            it.turn()
    log.close()
    it.close()
    os.close(reader)
    net.close()
    assert log.dropped == 0
    lines = [LINE.fullmatch(line) for line in seen.decode().splitlines()]
    assert [(match["client"], int(match["client_port"])) for match in lines if match] == list(clients(number))


# By itself


class Told:
    """In place of the kernel."""

    def __init__(self, services: Any, *, frontends: Any, with_begins: bool) -> None:
        self.services, self.frontends, self.with_begins = list(services), frontends, with_begins
        self.waiting: list[Event | None] = []
        self.lost = 0
        self.is_closed = False
        self.error: OSError | None = None

    def fileno(self) -> int:
        return -1

    def read(self, limit: int) -> Iterator[Event | None]:
        if self.error is not None:
            raise self.error
        for _ in range(limit):
            if not self.waiting:
                return
            yield self.waiting.pop(0)

    def close(self) -> None:
        self.is_closed = True


class Lines:
    """Takes `room` lines."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.queue: list[Any] = []
        self.said: list[str] = []
        self.room = 10**9

    def write(self, record: Any) -> None:
        self.queue.append(record)

    def event(self, level: Any, text: str, *, kind: str = "") -> None:
        self.said.append(text)

    def flush(self, limit: int | None = None) -> int:
        number = min(self.room, len(self.queue), len(self.queue) if limit is None else limit)
        self.records += self.queue[:number]
        del self.queue[:number]
        self.room -= number
        return len(self.queue)


@pytest.fixture
def alone(plan: Any, memory: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(flowlog, "Events", Told)
    monkeypatch.setattr(flowlog.sysctl, "timeouts", lambda: {
        "SYN_SENT": 120, "SYN_RECV": 60, "ESTABLISHED": 432000, "TIME_WAIT": 120, "CLOSE": 10, "FIN_WAIT": 120,
        "UNACKNOWLEDGED": 300, "UDP": 30, "UDP_STREAM": 120,
    })  # fmt: skip

    def make(condition: Condition = Condition.UP, **wanted: bool) -> Any:
        ledger, services, state = planned(plan, memory, condition)
        log = Lines()
        it = FlowLog(log, services, wanted or {"f": False}, ledger, lambda _: state)  # type: ignore[arg-type]
        return SimpleNamespace(it=it, log=log, told=it._events, ledger=ledger)

    return make


def event(
    *, state: str = "TIME_WAIT", timeout: int = 0, is_assured: bool = True, age: float | None = 125.0,
    protocol: Any = "tcp", server: str = "10.0.0.1", packets_out: int = 3, is_end: bool = True,
) -> Event:  # fmt: skip
    at = 1_795_342_271.0
    flow = Flow(
        protocol, ("192.0.2.9", 1234), ("192.0.2.1", 80), (server, 80), state, timeout, 4, 400, packets_out, 300
    )
    return Event("0", is_end, flow, is_assured, None if age is None else at - age, at)


def one(it: Any, **what: Any) -> Any:
    it.told.waiting.append(event(**what))
    it.it.turn()
    (record,) = it.log.records
    return record


@pytest.mark.parametrize(
    ("what", "condition", "letters", "tc"),
    [
        ({}, Condition.UP, "--", 0),
        # Another connection of the same ends has taken its place.
        ({"timeout": 100}, Condition.UP, "--", 0),
        ({"state": "LAST_ACK"}, Condition.UP, "--", 0),
        ({"state": "CLOSE"}, Condition.UP, "-D", 0),
        ({"state": "CLOSE", "is_assured": False, "timeout": 119}, Condition.UP, "SC", -1),
        ({"state": "SYN_SENT", "is_assured": False, "packets_out": 0}, Condition.UP, "sC", -1),
        ({"state": "SYN_SENT", "is_assured": False, "packets_out": 0, "timeout": 9}, Condition.DOWN, "DC", -1),
        ({"state": "SYN_RECV", "is_assured": False}, Condition.UP, "CC", 0),
        ({"state": "ESTABLISHED"}, Condition.UP, "cD", 0),
        ({"state": "FIN_WAIT"}, Condition.UP, "cD", 0),
        ({"state": "ESTABLISHED", "timeout": 9}, Condition.DOWN, "DD", 0),
        ({"state": "ESTABLISHED", "timeout": 9}, Condition.UP, "KD", 0),
        # One of before the last start.
        ({"state": "ESTABLISHED", "timeout": 9, "server": "10.0.0.9"}, Condition.DOWN, "KD", 0),
        # A kernel that tells no state.
        ({"state": ""}, Condition.UP, "--", 0),
        ({"state": "", "protocol": "udp"}, Condition.UP, "--", 0),
        ({"state": "", "protocol": "udp", "packets_out": 0}, Condition.UP, "sH", -1),
        ({"state": "", "protocol": "udp", "timeout": 9}, Condition.DOWN, "DD", 0),
    ],
)
def test_letters(alone, what, condition, letters, tc):
    record = one(alone(condition), **what)
    assert (record.termination, record.tc) == (letters, tc)


@pytest.mark.parametrize(
    ("what", "milliseconds"),
    [
        ({}, 5000),
        ({"age": 120.01}, 10),
        ({"age": 119.99}, 0),
        ({"age": 60.0}, 60000),
        ({"state": "ESTABLISHED", "timeout": 431999}, 124000),
        # Data that nobody acknowledged.
        ({"state": "ESTABLISHED", "age": 310.0}, 10000),
        ({"state": "ESTABLISHED", "age": 432001.0}, 1000),
        ({"state": "CLOSE", "is_assured": False, "timeout": 119, "age": 0.001}, 1),
        ({"state": "", "protocol": "udp"}, 5000),
        ({"state": "", "protocol": "udp", "is_assured": False}, 95000),
        ({"state": "", "protocol": "udp", "timeout": 110}, 115000),
        ({"state": ""}, 125000),
        ({"age": None}, -1),
    ],
)
def test_how_long_it_was_used(alone, what, milliseconds):
    assert one(alone(), **what).tt == milliseconds


def test_whose_it_is_and_how_many_there_are(alone):
    it = alone()
    for kind, number in (("frontend", 3), ("backend", 2), ("server", 1)):
        name = ("f",) if kind == "frontend" else ("b", "s") if kind == "server" else ("b",)
        it.ledger[Entity(kind, *name)].scur = number
    record = one(it)
    assert record[:6] == ("192.0.2.9", 1234, 1_795_342_146.0, "f", "b", "s")
    assert (record.actconn, record.feconn, record.beconn, record.srvconn) == (3, 3, 2, 1)
    assert (record.bytes_in, record.bytes_out, record.packets_in, record.packets_out) == (400, 300, 4, 3)
    assert (record.service, record.service_port, record.server_address, record.server_port) == (
        "192.0.2.1", 80, "10.0.0.1", 80,
    )  # fmt: skip


def test_a_server_that_is_none_any_more_is_called_by_its_address(alone):
    record = one(alone(), server="10.0.0.9")
    assert (record.backend, record.server, record.srvconn) == ("b", "10.0.0.9:80", 0)


def test_what_is_read_at_once_is_bounded_and_others_have_as_long_a_turn(alone, monkeypatch):
    it = alone()
    it.told.waiting += [event()] * 500
    for left in (300, 100, 0):
        before = time.monotonic()
        it.it.turn()
        assert len(it.told.waiting) == left
        assert not it.it.is_waiting and before < it.it.due < time.monotonic() + 5
    # Nothing more: it is waited for.
    it.it.turn()
    assert it.it.is_waiting and it.it.due == inf
    assert len(it.log.records) == 500


def test_where_the_log_takes_no_more_nothing_is_read(alone):
    it = alone()
    it.log.room = 100
    it.told.waiting += [event()] * 500
    it.it.turn()
    for _ in range(3):
        it.it.turn()
        assert (len(it.told.waiting), len(it.log.queue)) == (300, 100)
        assert not it.it.is_waiting and it.it.due < inf
    it.log.room = 10**9
    while not it.it.is_waiting:
        it.it.turn()
    assert len(it.log.records) == 500


def test_losses_are_told_but_rarely(alone):
    it = alone()
    it.it.tell(1000.0)
    assert it.log.said == []
    it.told.lost = 7
    it.it.tell(1001.0)
    said = "7 flows that began or ended are missing from the log: it was more than could be written"
    assert (it.log.said, it.it.lost) == ([said], 7)
    it.told.lost = 9
    it.it.tell(1002.0)
    it.it.tell(1030.9)
    assert (it.log.said, it.it.lost) == ([said], 9)
    it.it.tell(1031.0)
    assert it.log.said[1:] == [said.replace("7", "2")]
    it.it.tell(2000.0)
    assert len(it.log.said) == 2
    # It is a number of 32 bits.
    it.it.lost = it.it._told = 2**32 - 1
    it.told.lost = 4
    it.it.tell(3000.0)
    assert it.log.said[2:] == [said.replace("7", "5")]


def test_what_cannot_be_read_is_tried_again(alone):
    it = alone()
    it.told.error = OSError(12, "no room")
    it.it.turn()
    assert it.log.said == ["flows cannot be logged: no room"]
    assert not it.it.is_waiting and time.monotonic() < it.it.due < inf
    it.told.error = None
    it.told.waiting.append(event())
    it.it.turn()
    assert len(it.log.records) == 1


def test_at_the_end_what_has_happened_is_logged(alone):
    it = alone()
    it.told.waiting += [event()] * 500
    it.told.lost = 1
    it.it.close()
    assert len(it.log.records) == 500 and it.told.is_closed
    assert it.log.said[0].startswith("1 flows")


@pytest.mark.parametrize(("is_wanted", "number"), [(False, 1), (True, 2)])
def test_begins_only_where_they_are_wanted(alone, is_wanted, number):
    it = alone(f=is_wanted)
    assert it.told.with_begins is is_wanted
    it.told.waiting += [event(is_end=False, age=None), None, event()]
    it.it.turn()
    assert len(it.log.records) == number
    if is_wanted:
        assert (it.log.records[0].is_end, it.log.records[0].tt, it.log.records[0].tc) == (False, 0, 0)
