"""Reload, seen from clients: nobody loses a connection, and what changed holds."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from websockets.sync.client import connect
from websockets.sync.server import serve

from tests.e2e.bed.clients import Load, get
from tests.e2e.bed.process import PATIENCE, Process, free_port, is_bound, members, until
from tests.e2e.bed.pybalancer import Balancer

CONFIG = """
global: {workers: 2, hard_stop_after: 6s}
frontends:
  http: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: echo}
  udp: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: datagrams}
backends:
  web:
    check: {type: http, path: /health, interval: 500ms}
    servers:
      web1: {address: "127.0.0.1:${web1}"}
      web2: {address: "127.0.0.1:${web2}"}
  echo: {check: {type: tcp, interval: 500ms}, servers: {e: {address: "127.0.0.1:${echo}"}}}
  datagrams: {servers: {d1: {address: "127.0.0.1:${d1}"}, d2: {address: "127.0.0.1:${d2}"}}}
"""


class Echo(threading.Thread):
    """TCP: sends back what it gets."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Datagrams(threading.Thread):
    """UDP: answers each datagram with its name and who asked."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.label = name
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.peers: set[int] = set()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.sock.recvfrom(65536)
                if not data:
                    return
                self.peers.add(peer[1])
                self.sock.sendto(f"{self.label} {peer[1]} ".encode() + data, peer)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self.join(PATIENCE)
        self.sock.close()


@pytest.fixture
def servers() -> Iterator[dict[str, int]]:
    echo, first, second = Echo(), Datagrams("d1"), Datagrams("d2")
    yield {"echo": echo.port, "d1": first.port, "d2": second.port}
    for each in (echo, first, second):
        each.close()


@pytest.fixture
def running(balancer, web, servers) -> Balancer:
    it = balancer(CONFIG, web1=web[0].port, web2=web[1].port, **servers)
    it.wait_until_up("web/web1", "web/web2", "echo/e")
    return it


def write(running: Balancer, change: Callable[[dict], None] | None = None) -> None:
    config = yaml.safe_load(running.file.read_text())
    if change is not None:
        change(config)
    running.file.write_text(yaml.safe_dump(config, sort_keys=False))


def reload(running: Balancer, change: Callable[[dict], None] | None = None) -> str:
    """Change the file, have it loaded, and give the line that tells of it."""
    write(running, change)
    seen = len(running.log)
    running.process.signal(signal.SIGHUP)
    return running.wait_for_line("reloaded: ", after=seen)


def old_ones_have_ended(running: Balancer) -> None:
    until(lambda: len(running.process.children) == 3, f"only the new ones are left: {running.process.children}")


@contextlib.contextmanager
def talking(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """A TCP connection to the echo server."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:

        def say(data: bytes) -> bytes:
            peer.sendall(data)
            answer = b""
            while len(answer) < len(data):
                part = peer.recv(65536)
                assert part, "it was closed"
                answer += part
            return answer

        assert say(b"hello") == b"hello"
        yield say


def test_nothing_changed_and_all_processes_are_new(running):
    before = running.process.children.keys()
    line = reload(running)
    assert "nothing has changed, all workers are new" in line
    old_ones_have_ended(running)
    running.wait_for_line("NOTICE: the workers of before the reload have ended")
    assert not before & running.process.children.keys()
    assert get(running.ports["http"])


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "a connection a request"])
def test_under_load_no_request_fails(running, keep_alive):
    with Load(running.ports["http"], clients=16, keep_alive=keep_alive) as load:
        load.wait_for(200)
        for _ in range(5):
            reload(running)
            load.wait_for(200)
    assert (load.failed, load.cut) == ([], [])
    old_ones_have_ended(running)


def test_servers_that_are_added_and_removed(running, web):
    def change(config):
        config["backends"]["web"]["servers"]["web3"] = {"address": f"127.0.0.1:{web[2].port}"}
        del config["backends"]["web"]["servers"]["web1"]

    with Load(running.ports["http"], clients=4) as load:
        load.wait_for(50)
        line = reload(running, change)
        load.wait_for(50)
    assert "1 server added (web/web3); 1 server removed (web/web1)" in line
    assert (load.failed, load.cut) == ([], [])
    old_ones_have_ended(running)
    running.wait_until_up("web/web2", "web/web3")
    assert {get(running.ports["http"])["server"] for _ in range(8)} == {"web2", "web3"}


def test_frontends_that_are_added_and_removed(running):
    port = free_port()

    def change(config):
        config["frontends"]["more"] = {"mode": "http", "bind": f"127.0.0.1:{port}", "default_backend": "web"}
        del config["frontends"]["tcp"]
        del config["backends"]["echo"]

    with talking(running.ports["tcp"]) as say:
        line = reload(running, change)
        assert "1 frontend added (more); 1 frontend removed (tcp)" in line
        assert get(port)
        until(lambda: not is_bound(running.ports["tcp"]), "nobody listens any more")
        assert say(b"still") == b"still", "who has connected goes on"
    old_ones_have_ended(running)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frontends: [", "balancer.yaml:"),
        ("", "balancer.yaml:"),
        (None, "balancer.yaml:1:1: cannot be read: No such file or directory"),
        (lambda text: text.replace("mode: http", "mode: htpt"), "frontends.http.mode"),
        (lambda text: text + "vrrp: {instances: {V: {interface: nosuch0, virtual_router_id: 1, "
         "virtual_ipaddress: 192.0.2.1}}}\n", "vrrp"),
        (lambda text: text.replace("workers: 2", "workers: 2\n  user: daemon"), "global.user: None is to"),
    ],
    ids=["syntax", "empty", "gone", "a word", "vrrp", "user"],
)  # fmt: skip
def test_a_bad_file_changes_nothing(running, text, said):
    good = running.file.read_text()
    before = running.process.children.keys()
    if text is None:
        running.file.unlink()
    else:
        running.file.write_text(text(good) if callable(text) else text)
    seen = len(running.log)
    with Load(running.ports["http"], clients=2) as load:
        running.process.signal(signal.SIGHUP)
        running.wait_for_line("is not loaded, all goes on as before", after=seen)
        load.wait_for(20)
    assert (load.failed, load.cut) == ([], [])
    assert any(said in line for line in running.log[seen:]), running.process.said()
    assert running.process.children.keys() == before
    running.file.write_text(good)
    reload(running)


def test_a_port_that_is_taken_changes_nothing(running):
    before = running.process.children.keys()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mine = free_port()

        def change(config):
            config["frontends"]["one"] = {"mode": "tcp", "bind": f"127.0.0.1:{mine}", "default_backend": "echo"}
            config["frontends"]["two"] = {"mode": "tcp", "bind": f"127.0.0.1:{port}", "default_backend": "echo"}

        write(running, change)
        running.process.signal(signal.SIGHUP)
        running.wait_for_line(f"ERR: frontends.two.bind: cannot bind 127.0.0.1:{port}: Address already in use")
        running.wait_for_line("is not loaded")
    assert running.process.children.keys() == before
    assert not is_bound(mine)
    reload(running)
    with talking(mine), talking(port):
        pass


def test_connections_go_on_over_many_reloads(running):
    """Each in the worker that it came to."""
    reload(running, lambda config: config["global"].update(hard_stop_after="1m"))
    old_ones_have_ended(running)
    with contextlib.ExitStack() as open_ones:
        says = []
        for _ in range(12):
            says.append(open_ones.enter_context(talking(running.ports["tcp"])))
            those = set(running.workers)
            reload(running)
            # Who comes in this moment may still be theirs.
            until(lambda those=those: not those & set(running.workers), "they take nobody any more")
        assert all(say(b"still") == b"still" for say in says)
        assert not any("are ended" in line for line in running.log)
    old_ones_have_ended(running)


def _goes_on(say: Callable[[bytes], bytes]) -> bool:
    try:
        return say(b"more") == b"more"
    except (AssertionError, OSError):
        return False


def test_a_long_download_arrives_whole(running):
    with socket.create_connection(("127.0.0.1", running.ports["http"]), PATIENCE) as peer:
        peer.sendall(b"GET /slow/file HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        got = peer.recv(1000)
        reload(running)
        reload(running)
        while part := peer.recv(65536):
            got += part
    assert len(got.partition(b"\r\n\r\n")[2]) == 300 * 1024
    old_ones_have_ended(running)


def test_a_websocket_goes_on(balancer):
    def answer(connection) -> None:
        for message in connection:
            connection.send(f"you said {message}")

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running = balancer(
            "global: {workers: 2, hard_stop_after: 6s}\n"
            "frontends: {f: {mode: http, bind: '127.0.0.1:${http}', default_backend: b}}\n"
            "backends: {b: {servers: {s: {address: '127.0.0.1:${server}'}}}}\n",
            server=server.socket.getsockname()[1],
        )
        with connect(f"ws://127.0.0.1:{running.ports['http']}/", proxy=None) as client:
            for turn in range(5):
                client.send(str(turn))
                assert client.recv() == f"you said {turn}"
                reload(running)
        old_ones_have_ended(running)
        server.shutdown()


def test_datagrams_keep_their_server_and_their_port(running):
    """Three reloads; each flow on the same socket all along."""
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
    for client in clients:
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", running.ports["udp"]))

    def ask(client: socket.socket) -> bytes:
        client.send(b"x")
        return client.recv(100)

    first = [ask(client) for client in clients]
    assert len({answer.split()[0] for answer in first}) == 2
    for _ in range(3):
        reload(running)
        assert [ask(client) for client in clients] == first
    old_ones_have_ended(running)
    assert [ask(client) for client in clients] == first
    until(lambda: running.metric("haproxy_frontend_current_sessions", proxy="udp") == 20, "they are counted")
    # Twenty, and never more: a flow that goes on does not begin.
    assert running.metric("haproxy_frontend_sessions_total", proxy="udp") == 20
    for client in clients:
        client.close()


def test_no_datagram_is_lost(running):
    """A client that asks all the time, over reloads in a row."""
    asked = answered = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal asked, answered
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", running.ports["udp"]))
            while not stop.is_set():
                client.send(b"x")
                asked += 1
                client.recv(100)
                answered += 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    for _ in range(5):
        reload(running)
    stop.set()
    thread.join(PATIENCE * 2)
    assert asked == answered > 100


def test_counters_do_not_run_backwards(running):
    names = [f"haproxy_{name}_total" for name in ("frontend_connections", "backend_http_responses", "backend_sessions")]
    second = dict(running.config["backends"]["web"]["servers"]["web2"])
    with Load(running.ports["http"], clients=4) as load:
        load.wait_for(50)
        seen = dict.fromkeys(names, 0.0)
        for turn in range(4):

            def change(config, is_there=turn % 2 == 1):
                servers = config["backends"]["web"]["servers"]
                # A server that is no more leaves what it has served to its backend.
                if is_there:
                    servers["web2"] = second
                else:
                    del servers["web2"]

            reload(running, change)
            load.wait_for(20)
            for name in names:
                label = {"proxy": "http"} if "frontend" in name else {"proxy": "web"}
                now = running.metric(name, **label)
                assert now >= seen[name], (turn, name)
                seen[name] = now
    old_ones_have_ended(running)
    done = load.done.total()
    until(lambda: running.metric(names[1], proxy="web", code="2xx") == done, f"{done} answers")
    until(lambda: running.metric("haproxy_frontend_current_sessions", proxy="http") == 0, "nobody is connected")


def test_servers_stay_as_they_were(running, web):
    """Neither do good ones go through anything, nor does a bad one come back for a moment."""
    web[1].kill()
    running.wait_for_line("Server web/web2 is DOWN")
    seen = len(running.log)
    down = running.metric("haproxy_server_check_up_down_total", proxy="web", server="web2")
    for _ in range(3):
        reload(running)
        assert running.metric("haproxy_server_status", proxy="web", server="web1", state="UP") == 1
        assert running.metric("haproxy_server_status", proxy="web", server="web2", state="DOWN") == 1
        assert {get(running.ports["http"])["server"] for _ in range(6)} == {"web1"}
    assert not [line for line in running.log[seen:] if re.search(r"Server (web|echo)/", line)]
    assert running.metric("haproxy_server_check_up_down_total", proxy="web", server="web2") == down


def test_twenty_wishes_in_a_second_are_a_few_reloads(running):
    with Load(running.ports["http"], clients=4, keep_alive=False) as load:
        for _ in range(20):
            running.process.signal(signal.SIGHUP)
            time.sleep(0.05)
        load.wait_for(100)
    assert (load.failed, load.cut) == ([], [])
    running.wait_for_line("reloaded: ")
    until(lambda: _count(running, "reloading ") == _count(running, "reloaded: "), "the last one is over")
    assert 1 < _count(running, "reloaded: ") <= 20
    old_ones_have_ended(running)


def _count(running: Balancer, text: str) -> int:
    return sum(f"NOTICE: {text}" in line for line in running.log)


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
def test_the_end_during_a_reload(running, pause):
    running.process.signal(signal.SIGHUP)
    time.sleep(pause)
    running.process.signal(signal.SIGTERM)
    assert running.process.wait(within=10) == 0
    until(lambda: not members(running.process.pid), "no process is left")
    assert not is_bound(running.ports["http"])


@pytest.mark.parametrize("pause", [0.05, 0.15, 0.25])
def test_kill_9_during_a_reload_ends_all_of_them(running, pause):
    """Those that read, those that come and those that go."""
    with talking(running.ports["tcp"]):
        reload(running)
        running.process.signal(signal.SIGHUP)
        time.sleep(pause)
        running.process.signal(signal.SIGKILL)
        running.process.wait()
        running.expected_status = -signal.SIGKILL
        until(lambda: not members(running.process.pid), "no process is left")
    assert not is_bound(running.ports["http"])


def test_whatever_dies_during_a_reload_it_comes_to_an_end(running):
    """A child, killed some time after the signal: the one that reads, a worker that comes or goes, control of before or
    after. Then the new ones serve, or those of before, and nothing is left of it."""
    for _ in range(2):
        reload(running)
        old_ones_have_ended(running)
    before = until(lambda: (one := _held(running)) == (time.sleep(0.3), _held(running))[1] and one, "it rests")
    kills = 10
    with Load(running.ports["http"], clients=8) as load:
        for number in range(kills):
            seen = len(running.log)
            running.process.signal(signal.SIGHUP)
            time.sleep(number * 0.025)
            # The youngest, one after the other.
            children = sorted(running.process.children, reverse=True)
            with contextlib.suppress(ProcessLookupError):
                os.kill(children[number % len(children)], signal.SIGKILL)
            until(
                lambda seen=seen: any("reloaded: " in line or "is not loaded" in line for line in running.log[seen:]),
                "it is over",
            )
            load.wait_for(20)
    # What was in the hands of the dead, one request of each client at most.
    assert len(load.failed) + len(load.cut) <= kills * 8
    old_ones_have_ended(running)
    for _ in range(2):
        reload(running)
        old_ones_have_ended(running)
    assert until(lambda: _held(running) == before, f"{_held(running)} instead of {before}")
    until(lambda: running.metric("haproxy_frontend_current_sessions", proxy="http") == 0, "nobody is connected")


def _held(running: Balancer) -> tuple[int, int, list[int]]:
    """Descriptors and shared mappings of the first process, descriptors of the others."""
    pid = running.process.pid
    maps = Path(f"/proc/{pid}/maps").read_text()
    children = sorted(len(list(Path(f"/proc/{child}/fd").iterdir())) for child in running.process.children)
    shared = maps.count("/dev/zero") + maps.count("memfd:")
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), shared, children


def test_thirty_reloads_leave_nothing(running):
    """Descriptors, processes, memory: of the supervisor and of all the others."""
    for _ in range(3):
        reload(running)
        old_ones_have_ended(running)
    before = until(lambda: (one := _held(running)) == (time.sleep(0.3), _held(running))[1] and one, "it rests")
    rss = _resident(running.process.pid)
    for _ in range(30):
        reload(running)
    for _ in range(2):
        # What is gone when a reload begins is forgotten by it.
        old_ones_have_ended(running)
        reload(running)
    old_ones_have_ended(running)
    assert until(lambda: _held(running) == before, f"{_held(running)} instead of {before}")
    assert _resident(running.process.pid) - rss < 4096


def test_reloads_with_a_log_elsewhere_leave_nothing(balancer):
    """What is logged elsewhere the first process says on standard error too."""
    it = balancer(
        """
        global: {workers: 1, log: {target: none}}
        frontends: {tcp: {mode: tcp, bind: "127.0.0.1:${port}", default_backend: b}}
        backends: {b: {servers: {s: {address: "127.0.0.1:9"}}}}
        """
    )

    def held() -> int:
        return len(list(Path(f"/proc/{it.process.pid}/fd").iterdir()))

    counts = []
    for number in range(4):
        it.process.signal(signal.SIGHUP)
        until(lambda n=number: sum("have ended" in line for line in it.process.err) > n, "it has reloaded")
        counts.append(held())
    assert counts[1:] == counts[:-1]


def _resident(pid: int) -> int:
    """KiB."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0])


def test_more_workers_and_fewer(running):
    for number in (3, 1, 2):

        def change(config, number=number):
            config["global"]["workers"] = number

        with talking(running.ports["tcp"]) as say:
            assert f"{number} workers instead of" in reload(running, change)
            assert say(b"still") == b"still"
        until(lambda number=number: len(running.process.children) == number + 1, "no others are left")
        assert all(get(running.ports["http"]) for _ in range(10))


def test_a_bind_that_gets_narrower(balancer, web, servers):
    """From all addresses to one of them: its own sockets are not in its way."""
    running = balancer(CONFIG.replace("127.0.0.1:${http}", "*:${http}"), web1=web[0].port, web2=web[1].port, **servers)
    port = running.ports["http"]

    def change(config):
        config["frontends"]["http"]["bind"] = f"127.0.0.1:{port}"

    with Load(port, clients=4) as load:
        load.wait_for(20)
        reload(running, change)
        load.wait_for(20)
    assert (load.failed, load.cut) == ([], [])
    old_ones_have_ended(running)
    assert select.select([], [], [], 0) == ([], [], [])


ENDS = "shutdown-sessions"
PATCHED = """
import os, signal, sys, time
from balancer import cli
from balancer.daemon import changeover, worker
changeover._UNTIL_READY = 1.0
build = worker.Worker._build
def _build(self, loop):
    if "bad" in self._config.frontends:
        {what}
    build(self, loop)
worker.Worker._build = _build
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9 (Killed)"),
        ("raise KeyError(7)", "ended with status 1"),
        ("time.sleep(60)", "the new workers were not ready within 1 s"),
    ],
    ids=["killed", "a defect", "hangs"],
)
def test_new_workers_that_do_not_come_up_change_nothing(balancer, web, servers, what, said, tmp_path):
    it = balancer(CONFIG, wait=False, web1=web[0].port, web2=web[1].port, **servers)
    it.process.kill()
    it.expected_status = -signal.SIGKILL
    again = Process([sys.executable, "-c", PATCHED.format(what=what), "-c", it.file], cwd=tmp_path)
    try:
        again.wait_until(lambda: is_bound(it.ports["http"]) and len(again.children) == 3, "it serves")
        before = again.children.keys()
        port = free_port()

        def change(config):
            config["frontends"]["bad"] = {"mode": "tcp", "bind": f"127.0.0.1:{port}", "default_backend": "echo"}

        write(it, change)
        with Load(it.ports["http"], clients=4, keep_alive=False) as load:
            again.signal(signal.SIGHUP)
            again.wait_for_line(said)
            again.wait_for_line("is not loaded, all goes on as before")
            load.wait_for(20)
        assert (load.failed, load.cut) == ([], [])
        until(lambda: again.children.keys() == before, "the new ones are gone")
        assert not is_bound(port)
        # Nor does it hinder the next.
        write(it, lambda config: config["frontends"].pop("bad"))
        again.signal(signal.SIGHUP)
        again.wait_for_line("reloaded: ")
        assert get(it.ports["http"])
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


def test_an_idle_connection_is_told_before_it_is_closed(running):
    """Its client may be about to send."""
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=PATIENCE)
    connection.request("GET", "/")
    connection.getresponse().read()
    reload(running)
    time.sleep(0.5)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert (response.status, response.getheader("connection")) == (200, "close")
    response.read()
    connection.close()
    old_ones_have_ended(running)


def test_the_end_does_not_wait_for_an_idle_connection_of_before_a_reload(running):
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=PATIENCE)
    connection.request("GET", "/")
    connection.getresponse().read()
    reload(running)
    began = time.monotonic()
    running.process.signal(signal.SIGTERM)
    assert running.process.wait(within=PATIENCE) == 0
    assert time.monotonic() - began < 4
    connection.close()


def test_a_unix_socket_stays_and_one_that_goes_leaves_no_file(balancer, web, servers, tmp_path):
    text = CONFIG.replace('bind: "127.0.0.1:${tcp}"', f"bind: {tmp_path}/tcp.sock")
    running = balancer(text, web1=web[0].port, web2=web[1].port, **servers)
    path = tmp_path / "tcp.sock"
    inode = path.stat().st_ino

    def says() -> bool:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(str(path))
            peer.sendall(b"x")
            return peer.recv(1) == b"x"

    for _ in range(2):
        reload(running)
        assert says()
        assert path.stat().st_ino == inode
    old_ones_have_ended(running)
    assert says()

    def change(config):
        config["frontends"]["tcp"]["bind"] = f"127.0.0.1:{free_port()}"

    reload(running, change)
    until(lambda: not path.exists(), "nothing is left of it")


def test_a_session_ends_with_its_server_also_in_workers_of_before(balancer, web, servers):
    server = '{address: "127.0.0.1:${echo}"'
    text = CONFIG.replace("interval: 500ms", "interval: 100ms").replace(server, f"{server}, on_marked_down: {ENDS}")
    echo = Echo()
    running = balancer(text, web1=web[0].port, web2=web[1].port, **(servers | {"echo": echo.port}))
    running.wait_until_up("echo/e")
    with talking(running.ports["tcp"]) as say:
        reload(running)
        assert say(b"still") == b"still"
        echo.close()
        running.wait_for_line("Server echo/e is DOWN")
        until(lambda: not _goes_on(say), "it is ended")


def test_control_that_dies_after_a_reload_knows_it_all(running):
    with Load(running.ports["http"], clients=2) as load:
        load.wait_for(50)
        with talking(running.ports["tcp"]):
            reload(running)
            name = "haproxy_frontend_http_requests_total"
            total = until(lambda: running.metric(name, proxy="http"), "requests are counted")
            (control,) = running.control
            os.kill(control, signal.SIGKILL)
            until(lambda: running.control not in ([], [control]), "it is replaced")
            assert running.metric(name, proxy="http") >= total
            until(lambda: running.metric("haproxy_frontend_current_sessions", proxy="tcp") == 1, "the old one counts")
    assert (load.failed, load.cut) == ([], [])


def test_the_service_manager_is_told(balancer, web, servers, tmp_path):
    it = balancer(CONFIG, wait=False, web1=web[0].port, web2=web[1].port, **servers)
    it.process.kill()
    it.expected_status = -signal.SIGKILL
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        again = Process([sys.executable, "-m", "balancer", "-c", it.file], cwd=tmp_path, env=env)
        try:
            assert manager.recv(100) == b"READY=1"
            again.signal(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(100) == b"READY=1"
            it.file.write_text("nonsense")
            again.signal(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1\n")
            assert manager.recv(100) == b"READY=1"
            again.signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert again.wait() == 0
        finally:
            again.end()


LIMITED = """
import sys
from balancer import cli
from balancer.daemon import privileges
# It would help itself.
privileges.raise_open_files = lambda wanted: wanted
sys.exit(cli.main())
"""


def test_without_descriptors_nothing_changes_and_nothing_is_lost(balancer, web, servers, tmp_path):
    it = balancer(CONFIG, wait=False, web1=web[0].port, web2=web[1].port, **servers)
    it.process.kill()
    it.expected_status = -signal.SIGKILL
    again = Process([sys.executable, "-c", LIMITED, "-c", it.file], cwd=tmp_path)

    def held() -> int:
        return len(list(Path(f"/proc/{again.pid}/fd").iterdir()))

    try:
        again.wait_until(lambda: is_bound(it.ports["http"]) and len(again.children) == 3, "it serves")
        before = until(lambda: (one := held()) == (time.sleep(0.1), held())[1] and one, "it rests")
        limits = resource.prlimit(again.pid, resource.RLIMIT_NOFILE)
        ports = [free_port() for _ in range(10)]

        def change(config):
            config["frontends"]["http"]["bind"] = [f"127.0.0.1:{port}" for port in (it.ports["http"], *ports)]

        write(it, change)
        for room in range(1, 24, 2):
            seen = len(again.out)
            resource.prlimit(again.pid, resource.RLIMIT_NOFILE, (before + room, limits[1]))
            again.signal(signal.SIGHUP)
            again.wait_for_line("is not loaded, all goes on as before", after=seen)
            until(lambda: held() == before, f"{before} descriptors as before")
            assert get(it.ports["http"])
        resource.prlimit(again.pid, resource.RLIMIT_NOFILE, limits)
        again.signal(signal.SIGHUP)
        again.wait_for_line("reloaded: ")
        assert all(get(port) for port in ports)
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()
