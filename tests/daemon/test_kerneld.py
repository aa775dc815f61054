"""Balancing in the kernel by the real daemon, and by a process `kernel` without one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from balancer.daemon import kerneld
from balancer.daemon.kerneld import Engine
from balancer.errors import KernelError
from balancer.kernel import counters
from balancer.kernel.conntrack import Conntrack, Load, Usage
from balancer.kernel.counters import Tally
from balancer.kernel.strays import Strays
from balancer.pool.facts import Entity, Sums
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.services import decode
from tests.daemon import directors
from tests.daemon.directors import CAPABILITIES, CONFIG, IP_FORWARD, reload
from tests.e2e.bed.process import is_alive, until
from tests.e2e.bed.pybalancer import COMMAND
from tests.e2e.test_steering import say, stat
from tests.kernel.conftest import ADDRESSES, CLIENT, OUTSIDE, VIP, VIP_2, Bed, asking, seen_as, tcp, tried, who
from tests.kernel.stage import Service
from tests.kernel.table import entry, fill, forget_all, stuff

_bed, bed, director = directors._bed, directors.bed, directors.director

EARLY_DEMUX = "net/ipv4/ip_early_demux"


def listed(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_it_serves_tells_and_leaves_nothing_behind(director, bed):
    it = director()
    assert tried(6, lambda: who(bed.client, VIP)) == {"web1": 2, "web2": 2, "web3": 2}
    assert seen_as(bed.client, VIP) == CLIENT
    with asking(bed.client, VIP_2) as asker:
        assert {asker.ask()[0] for _ in range(4)} == {"web1", "web2"}
    # The proxy has a frontend too.
    assert (it.setting(IP_FORWARD), it.setting(EARLY_DEMUX)) == ("1", "1")
    # Rules as they are.
    shown = it.ask("show", "kernel")
    assert shown.startswith("table inet pybalancer {\n") and f"chain tcp_{VIP}_80 {{" in shown
    # Numbers, here and there.
    until(lambda: it.metric("haproxy_frontend_sessions_total", proxy="web") == 7, "all are counted")
    until(lambda: it.metric("haproxy_frontend_requests_total", proxy="dns") in (0, 4), "all are counted")
    for name in ("haproxy_server_sessions_total", "haproxy_server_loadbalanced_total"):
        assert it.metric(name, proxy="web") == 7
    assert it.metric("haproxy_backend_sessions_total", proxy="web") == 7
    assert it.metric("haproxy_server_sessions_total", proxy="dns", server="dns1") == 2
    assert 7 * 40 < it.metric("haproxy_frontend_bytes_in_total", proxy="web") < 7 * 1000
    assert it.metric("haproxy_backend_bytes_out_total", proxy="web") > 7 * 40
    lines = listed(it.ask("status", "-n"))
    assert lines[0][:4] == ["IP", "Virtual", "Server", "version"]
    assert lines[1:4] == [
        ["Prot", "LocalAddress:Port", "Scheduler", "Flags"],
        ["->", "RemoteAddress:Port", "Forward", "Weight", "ActiveConn", "InActConn"],
        ["TCP", f"{VIP}:80", "rr"],
    ]
    assert [line[:4] for line in lines[4:7]] == [["->", f"10.0.100.{n}:80", "Masq", "1"] for n in (2, 3, 4)]
    assert lines[7] == ["UDP", f"{VIP_2}:53", "rr", "ops"]
    assert lines[10:] == [["TCP", f"{VIP}:8000", "rr"], ["->", "10.0.100.4:8080", "Proxy", "1", "0", "0"]]
    stats = listed(it.ask("status", "-n", "--stats"))
    assert stats[3][:3] == ["TCP", f"{VIP}:80", "7"]
    assert stats[7][:3] == ["UDP", f"{VIP_2}:53", "4"]
    assert "web1:http" in it.ask("status")
    # The end.
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert "table inet pybalancer" not in it.tables
    assert it.setting(IP_FORWARD) == "0"
    assert not [line for line in it.process.out if "ALERT" in line]


def test_connections_are_listed(director, bed):
    it = director()
    sock, name, _ = tcp(bed.client, VIP)
    with sock:
        client = sock.getsockname()
        until(lambda: it.metric("haproxy_server_current_sessions", proxy="web", server=name) == 1, "it is counted")
        assert it.metric("haproxy_frontend_current_sessions", proxy="web") == 1
        said = it.ask("status", "-n", "--connections")
        assert said.startswith("IPVS connection entries\npro expire state       source ")
        (line,) = [line.split() for line in said.splitlines() if f"{client[0]}:{client[1]}" in line]
        assert (line[0], *line[2:]) == (
            "TCP", "ESTABLISHED", f"{CLIENT}:{client[1]}", f"{VIP}:80", f"{ADDRESSES[name]}:80",
        )  # fmt: skip
        assert f"{name}:http" in it.ask("status", "--connections")


HASHED = ("  web:\n    check:", "  web:\n    balance: maglev\n    check:")


def test_a_client_that_only_closes_is_heard_after_a_change_of_director(director, bed):
    it = director(HASHED)
    sock, name, _ = tcp(bed.client, VIP)
    server = bed.servers[name].connections[sock.getsockname()]
    # The one in its place hears as well.
    os.kill(it.kernel, signal.SIGKILL)
    it.process.wait_until(lambda: it.process.said().count("the kernel's rules are in place") == 2, "it has its rules")
    bed.forget_flows()
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    until(lambda: server.fileno() == -1, "the server has closed")
    sock.close()
    assert "does not show" not in it.process.said()


def test_where_another_is_shown_what_nobody_knows_clients_are_served_all_the_same(director, bed):
    with bed.director:
        other = Strays()
    try:
        it = director(HASHED)
        assert "the kernel does not show segments of connections that it does not know" in it.process.said()
        assert who(bed.client, VIP) in ("web1", "web2", "web3")
        assert "log group" not in it.ask("show", "kernel")
    finally:
        other.close()


def test_it_holds_two_rights_and_no_more(director):
    it = director()
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{it.kernel}/status").read_text().splitlines() if ":\t" in line
    )
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm")} == {CAPABILITIES}
    assert {int(status[kind], 16) for kind in ("CapInh", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Uid"].split()[0]) == ("1", "65534")
    others = [pid for pid in it.process.children if pid != it.kernel]
    assert len(others) == 2
    for pid in others:
        assert re.search(r"^CapEff:\s*0+$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)


def test_clients_of_a_server_that_dies_are_reset_and_go_elsewhere(director, bed):
    it = director()
    held = []
    while "web1" not in [name for _, name, _ in held] or "web2" not in [name for _, name, _ in held]:
        held.append(tcp(bed.client, VIP))
    try:
        bed.inner.cut(bed.hosts["web1"])
        it.process.wait_for_line("Server web/web1 is DOWN")
        for sock, name, _ in held:
            if name == "web1":
                with pytest.raises(ConnectionResetError):
                    assert sock.recv(1) != b""
            else:
                sock.send(b"still there")
                assert sock.recv(100) == b"still there"
        assert set(tried(4, lambda: who(bed.client, VIP))) == {"web2", "web3"}
        assert "10.0.100.2:80" not in it.ask("status", "-n")
        assert "10.0.100.2:80" not in it.ask("status", "-n", "--connections")
        assert "10.0.100.2:53" in it.ask("status", "-n")
    finally:
        for sock, _, _ in held:
            sock.close()


def test_connections_are_only_forgotten_where_nothing_is_said_of_resets(director, bed):
    """As with the proxy: they hang until they are used, but then they are answered."""
    it = director()
    held = []
    while "web2" not in [name for _, name, _ in held]:
        held.append(tcp(bed.client, VIP))
    try:
        sock = held[-1][0]
        bed.inner.cut(bed.hosts["web2"])
        it.process.wait_for_line("Server web/web2 is DOWN")
        until(lambda: "10.0.100.3:80" not in it.ask("status", "-n", "--connections"), "it is forgotten")
        sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(5)
        sock.send(b"anybody there?")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    finally:
        for sock, _, _ in held:
            sock.close()


def test_a_frontend_that_is_disabled_refuses_and_connections_go_on(director, bed):
    it = director(("admin.sock}", "admin.sock, level: admin}"))
    admin = str(it.folder / "admin.sock")

    def is_open(to: str) -> bool:
        try:
            if to == VIP:
                who(bed.client, VIP)
                return True
            with asking(bed.client, VIP_2) as asker:
                asker.ask()
            return True
        except (OSError, AssertionError):
            return False

    sock, *_ = tcp(bed.client, VIP)
    with sock:
        assert say(admin, "disable frontend web; disable frontend dns") == "\n\n"
        until(lambda: not is_open(VIP) and not is_open(VIP_2), "who comes is refused, at once")
        assert stat(admin)["web", "FRONTEND"]["status"] == "PAUSED"
        os.kill(it.kernel, signal.SIGKILL)
        said = "the kernel's rules are in place"
        it.process.wait_until(lambda: it.process.said().count(said) == 2, "it has its rules")
        assert not is_open(VIP) and not is_open(VIP_2), "another one does as it was said"
        sock.sendall(b"still")
        assert sock.recv(100) == b"still", "it goes on"
        assert "is of engine kernel: 'disable frontend' has it refuse" in say(admin, "shutdown frontend web")
        assert say(admin, "enable frontend web") == "\n"
        until(lambda: is_open(VIP), "again")
        assert not is_open(VIP_2)
    it.process.signal(signal.SIGHUP)
    it.process.wait_for_line("reloaded")
    until(lambda: is_open(VIP_2), "a reload opens it")


def test_without_a_server_clients_are_refused(director, bed):
    it = director()
    for host in bed.hosts.values():
        bed.inner.cut(host)
    it.process.wait_for_line("backend web has no server available!")

    def is_refused() -> bool:
        try:
            tcp(bed.client, VIP)[0].close()
        except ConnectionRefusedError:
            return True
        except (OSError, AssertionError):
            return False
        return False

    until(is_refused, "a reset, at once")
    for host in bed.hosts.values():
        bed.inner.mend(host)
    it.wait_until_up("web1")
    until(lambda: _answers(bed), "they are back")


def _answers(bed: Bed, port: int = 80) -> bool:
    try:
        return who(bed.client, VIP, port) in ADDRESSES
    except OSError:
        return False


def test_when_it_is_killed_nobody_notices(director, bed):
    it = director()
    sock, _, _ = tcp(bed.client, VIP)
    with sock:
        for _ in range(5):
            who(bed.client, VIP)
        # What is left of other tests may count too.
        until(lambda: it.metric("haproxy_frontend_sessions_total", proxy="web") >= 6, "all are counted")
        seen = len(it.process.out)
        killed = it.kernel
        os.kill(killed, signal.SIGKILL)
        until(lambda: not is_alive(killed), "it is dead")
        # The rules are there.
        for _ in range(3):
            who(bed.client, VIP)
            sock.send(b"x")
            assert sock.recv(1) == b"x"
        it.process.wait_for_line("kernel killed by signal 9", after=seen)
        it.process.wait_for_line("the kernel's rules are in place", after=seen)
        assert it.metric("haproxy_frontend_sessions_total", proxy="web") >= 6
        for _ in range(3):
            who(bed.client, VIP)
            sock.send(b"x")
            assert sock.recv(1) == b"x"
        until(lambda: it.metric("haproxy_frontend_sessions_total", proxy="web") >= 9, "it counts on")
        assert "Masq" in it.ask("status")
    # What was found at the very start is put back.
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert it.setting(IP_FORWARD) == "0"


KEPT = ("  web:\n    check:", "  web:\n    persistence_timeout: 60s\n    check:")


def test_when_it_is_killed_clients_stay_and_nothing_is_counted_twice_or_not_at_all(director, bed):
    it = director(KEPT)

    def carried() -> float:
        return it.metric("haproxy_frontend_sessions_total", proxy="web")

    (name,) = tried(3, lambda: who(bed.client, VIP))
    until(lambda: carried() == 3, "all are counted")
    for number in (6, 9):
        killed, seen = it.kernel, len(it.process.out)
        os.kill(killed, signal.SIGKILL)
        until(lambda killed=killed: not is_alive(killed), "it is dead")
        assert set(tried(3, lambda: who(bed.client, VIP))) == {name}
        it.process.wait_for_line("the kernel's rules are in place", after=seen)
        until(lambda number=number: carried() == number, "what was carried meanwhile is counted")
    assert set(tried(3, lambda: who(bed.client, VIP))) == {name}
    until(lambda: carried() == 12, "it counts on")


def test_when_all_is_killed_clients_stay_over_the_next_start(director, bed):
    it = director(KEPT)
    (name,) = tried(3, lambda: who(bed.client, VIP))
    children = list(it.process.children)
    os.kill(it.process.pid, signal.SIGKILL)
    it.process.wait()
    until(lambda: not any(map(is_alive, children)), "the children are gone too")
    again = director(KEPT)
    assert set(tried(3, lambda: who(bed.client, VIP))) == {name}
    until(lambda: again.metric("haproxy_frontend_sessions_total", proxy="web") == 3, "it counts its own")


def test_when_all_is_killed_the_rules_stay_until_the_next_start(director, bed):
    it = director()
    children = list(it.process.children)
    os.kill(it.process.pid, signal.SIGKILL)
    it.process.wait()
    until(lambda: not any(map(is_alive, children)), "the children are gone too")
    assert "table inet pybalancer" in it.tables
    again = director(('bind: "VIP:80"', 'bind: "VIP:8080"'), ("10.0.100.3:80", "10.0.100.3:8080"))
    assert set(tried(6, lambda: who(bed.client, VIP, 8080))) == set(ADDRESSES)
    with pytest.raises(OSError):
        who(bed.client, VIP, 80)
    assert again.process.status is None


@pytest.mark.parametrize("is_alive_still", [False, True])
def test_rules_of_one_that_was_killed_go_with_the_start_of_one_without(director, bed, is_alive_still):
    """But not those of a living one."""
    it = director()
    if not is_alive_still:
        children = list(it.process.children)
        os.kill(it.process.pid, signal.SIGKILL)
        it.process.wait()
        until(lambda: not any(map(is_alive, children)), "the children are gone too")
    assert "table inet pybalancer" in it.tables and it.setting(IP_FORWARD) == "1"
    other = director(text=PROXYS, wait=False, run=it.run)
    other.process.wait_for_line("pybalancer starts")
    if is_alive_still:
        assert "table inet pybalancer" in it.tables and it.setting(IP_FORWARD) == "1"
        assert it.run.joinpath("pybalancer/kernel").is_dir() and list(it.run.joinpath("pybalancer/kernel").iterdir())
        return
    assert "table inet pybalancer" not in it.tables
    assert it.setting(IP_FORWARD) == "0"
    assert "rules that an earlier run had left in the kernel are taken away" in other.process.said()
    until(lambda: _answers(bed, 8090), "the proxy serves")


PROXYS = """
global: {workers: 1, log: {target: stdout}, runtime_socket: {path: FOLDER/admin.sock}}
frontends: {web: {mode: tcp, bind: "VIP:8090", default_backend: web}}
backends: {web: {servers: {web1: {address: "10.0.100.2:80"}}}}
"""


BY_FLOW = 'dns: {mode: udp, engine: kernel, bind: "VIP_2:8080", default_backend: dns}'
# Somebody else's rules, for which the kernel keeps a table of connections.
OTHERS = (
    "add table inet others; add chain inet others c { type filter hook prerouting priority 0; };"
    "add rule inet others c ct state new accept"
)


def test_datagrams_of_before_the_rules_find_a_server_then(director, bed):
    """A client that never stops to send from one port."""
    bed.nft.run(OTHERS)
    with asking(bed.client, VIP_2, 8080) as early, asking(bed.client, VIP_2, 8080) as between:
        _lose(early)
        director(('dns: {mode: udp, engine: kernel, bind: "VIP_2:53", default_backend: dns}', BY_FLOW))
        until(lambda: _asks(early), "it is served")
        bed.nft.run(f"flush ruleset; {OTHERS}")
        _lose(between)
        until(lambda: _asks(between), "it is served")
        assert _asks(early)


def _lose(asker) -> None:
    asker.sock.settimeout(1)
    with contextlib.suppress(OSError):
        asker.ask()


def _asks(asker) -> bool:
    try:
        return asker.ask()[0] in ADDRESSES
    except OSError:
        return False


def test_connections_to_servers_that_were_removed_are_forgotten(director, bed):
    # So that there is a table.
    bed.nft.run(OTHERS)
    removed, kept, others = ("10.0.100.9", 80), ("10.0.100.2", 80), ("10.0.100.9", 81)
    with bed.director:
        fill([entry((CLIENT, 5001), (VIP, 80), removed), entry((CLIENT, 5002), (VIP, 80), kept),
              entry((CLIENT, 5003), (VIP, 81), others)])  # fmt: skip
    director()
    with bed.director:
        services = [Service("web", "tcp", 4, VIP, 80), Service("others", "tcp", 4, VIP, 81)]
        until(lambda: removed not in [flow.server for flow in Conntrack().flows(services)], "it is forgotten")
        assert {flow.server for flow in Conntrack().flows(services) if flow.client[1] in (5002, 5003)} == {kept, others}


def test_what_it_cannot_take_away_the_supervisor_does(director):
    """A second signal ends all at once."""
    it = director()
    kernel = it.kernel
    os.kill(kernel, signal.SIGSTOP)
    it.process.signal(signal.SIGTERM)
    it.process.wait_for_line("stopping")
    assert "table inet pybalancer" in it.tables
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert "table inet pybalancer" not in it.tables
    assert it.setting(IP_FORWARD) == "0"


VRRP = """
vrrp:
  instances:
    VI: {interface: eth0, virtual_router_id: 51, version: 3, advert_int: 100ms, priority: 100,
         virtual_ipaddress: 192.168.1.210}
"""


def test_a_director_without_rules_leaves_the_addresses(director):
    it = director(text=CONFIG + VRRP)
    it.process.wait_for_line("(VI) Entering MASTER STATE")
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 100, "it serves")
    kernel = it.kernel
    os.kill(kernel, signal.SIGSTOP)
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 1, "it would leave the addresses")
    assert "-254  workers: the kernel's rules are not in place here" in it.ask("why")
    it.process.wait_for_line("kernel has not moved for")
    os.kill(kernel, signal.SIGCONT)
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 100, "it serves again")


def test_rules_outlast_the_addresses_at_the_end(director, bed):
    """Until the servers know where the addresses are now: what comes here meanwhile goes on to its clients."""
    with bed.director:
        Path("/proc/sys", IP_FORWARD).write_text("1")
    it = director(text=CONFIG + VRRP)
    it.process.wait_for_line("(VI) Entering MASTER STATE")
    sock, _, _ = tcp(bed.client, VIP)
    with sock:
        began = time.monotonic()
        it.process.signal(signal.SIGTERM)
        until(lambda: "192.168.1.210" not in bed.director.ip("-4 -json address"), "it has left the address")
        assert "table inet pybalancer" in it.tables
        sock.send(b"still there")
        assert sock.recv(100) == b"still there"
    assert it.process.wait() == 0
    assert time.monotonic() - began >= 2
    assert "table inet pybalancer" not in it.tables


def test_a_second_signal_waits_for_nothing(director):
    it = director(text=CONFIG + VRRP)
    it.process.wait_for_line("(VI) Entering MASTER STATE")
    kernel = it.kernel
    it.process.signal(signal.SIGTERM)
    it.process.wait_for_line("stopping")
    it.process.signal(signal.SIGTERM)
    until(lambda: not is_alive(kernel), "it is dead")
    assert it.process.wait() == 0
    assert "table inet pybalancer" not in it.tables
    assert it.setting(IP_FORWARD) == "0"


def test_who_is_connected_goes_on_at_the_end_where_nobody_takes_over(director, bed):
    it = director(("hard_stop_after: 5s", "hard_stop_after: 30s"))
    sock, _, _ = tcp(bed.client, VIP)
    with sock:
        it.process.signal(signal.SIGTERM)
        # Refused, as by the proxy's address.
        it.process.wait_until(lambda: not _answers(bed), "no new client is served")
        assert it.process.status is None
        assert all(_goes_on(sock) for _ in range(3))
        began = time.monotonic()
    assert it.process.wait() == 0
    assert time.monotonic() - began < 10
    assert "pybalancer" not in it.tables
    assert it.setting(IP_FORWARD) == "0"


def test_who_does_not_end_is_waited_for_as_long_as_is_allowed(director, bed):
    it = director(("hard_stop_after: 5s", "hard_stop_after: 1s"))
    sock, _, _ = tcp(bed.client, VIP)
    with sock:
        it.process.signal(signal.SIGTERM)
        assert it.process.wait() == 0
    assert "pybalancer" not in it.tables
    assert it.setting(IP_FORWARD) == "0"


# Reload


def _goes_on(sock: socket.socket) -> bool:
    sock.send(b"x")
    return sock.recv(1) == b"x"


BY_PROXY = (f'engine: kernel, bind: "{VIP}:80"', f'engine: proxy, bind: "{VIP}:80"')
BY_KERNEL = BY_PROXY[::-1]


def test_flows_go_on_over_reloads(director, bed):
    it = director(('dns: {mode: udp, engine: kernel, bind: "VIP_2:53", default_backend: dns}', BY_FLOW))
    sock, _, _ = tcp(bed.client, VIP)
    with sock, asking(bed.client, VIP_2, 8080) as asker:
        server = asker.ask()[0]
        for _ in range(5):
            who(bed.client, VIP)
        until(lambda: it.metric("haproxy_frontend_sessions_total", proxy="web") >= 6, "all are counted")
        total = it.metric("haproxy_frontend_sessions_total", proxy="web")
        for _ in range(3):
            before = it.kernel
            reload(it)
            assert it.kernel != before
            assert it.setting(IP_FORWARD) == "1"
            assert _goes_on(sock)
            assert asker.ask()[0] == server
            assert it.metric("haproxy_frontend_sessions_total", proxy="web") >= total
            assert it.ask("status").count("Masq") == 5
        who(bed.client, VIP)
        until(lambda: it.metric("haproxy_frontend_sessions_total", proxy="web") > total, "it counts on")


def test_own_sockets_are_looked_for_where_the_proxy_serves_something(director):
    it = director()
    by_proxy, by_kernel = 'mode: tcp, bind: "VIP:8000"', 'mode: tcp, engine: kernel, bind: "VIP:8000"'
    by_proxy, by_kernel = by_proxy.replace("VIP", VIP), by_kernel.replace("VIP", VIP)
    for change, setting in (((by_proxy, by_kernel), "0"), ((by_kernel, by_proxy), "1")):
        reload(it, change)
        assert it.setting(EARLY_DEMUX) == setting


def test_no_connection_is_refused_while_it_reloads(director, bed):
    it = director()
    stop, failed, done = threading.Event(), [], []

    def connect() -> None:
        while not stop.is_set():
            try:
                done.append(who(bed.client, VIP))
            except (OSError, AssertionError) as error:
                failed.append(repr(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    for _ in range(3):
        reload(it)
    stop.set()
    thread.join(20)
    assert done and not failed


def test_with_no_room_for_connections_the_log_says_what_to_raise_and_all_is_well_with_room(director, bed):
    """The table really is full: the limit is that of the machine, the entries are of this namespace."""
    it = director()
    with bed.director:
        maximum = Conntrack().usage().maximum
        if maximum > 300_000:
            pytest.skip(f"{maximum} entries take too long to make")
        stuff(maximum)
    with bed.client, socket.socket() as late:
        late.settimeout(0.5)
        with pytest.raises(OSError):
            late.connect((VIP, 80))
    # Who comes after it looks at once. Checks are connections too.
    reload(it)
    it.process.wait_for_line("% full (")
    assert "raise net.netfilter.nf_conntrack_max" in it.process.said()
    it.process.wait_for_line("is DOWN")
    with bed.director:
        forget_all()
    it.wait_until_up("web1", "web2", "web3")

    def is_served() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return bool(who(bed.client, VIP))
        return False

    # The kernel's rules come after the word of it.
    until(is_served, "clients are served")


def test_what_changes_leaves_the_flows_of_the_rest(director, bed):
    it = director()
    sock, _, _ = tcp(bed.client, VIP)
    with sock:
        reload(it, (f'dns: {{mode: udp, engine: kernel, bind: "{VIP_2}:53", default_backend: dns}}',
                    f'more: {{mode: tcp, engine: kernel, bind: "{VIP}:8080", default_backend: web}}'))  # fmt: skip
        assert _goes_on(sock)
        for port in (80, 8080):
            assert who(bed.client, VIP, port)
        with asking(bed.client, VIP_2) as asker, pytest.raises(OSError):
            asker.ask()


def test_from_the_kernel_to_the_proxy_and_back(director, bed):
    """Whoever is connected goes on by the way that the connection began."""
    it = director()
    by_kernel, _, seen = tcp(bed.client, VIP)
    assert seen == CLIENT
    with by_kernel:
        reload(it, BY_PROXY)
        assert _goes_on(by_kernel)
        by_proxy, _, seen = tcp(bed.client, VIP)
        with by_proxy:
            assert seen != CLIENT
            reload(it, BY_KERNEL)
            assert _goes_on(by_kernel)
            assert _goes_on(by_proxy)
            assert seen_as(bed.client, VIP) == CLIENT
            reload(it, BY_PROXY)
            assert _goes_on(by_kernel)
            assert _goes_on(by_proxy)


def test_with_nothing_left_for_the_kernel_its_flows_go_on_until_the_end(director, bed):
    it = director()
    sock, _, _ = tcp(bed.client, VIP)
    with sock:
        dns = f'dns: {{mode: udp, engine: kernel, bind: "{VIP_2}:53"'
        reload(it, BY_PROXY, (dns, dns.replace("engine: kernel", "engine: proxy")))
        assert _goes_on(sock)
        assert it.setting(IP_FORWARD) == "1"
        assert seen_as(bed.client, VIP) != CLIENT
        reload(it)
        assert _goes_on(sock)
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert it.setting(IP_FORWARD) == "0"
    assert "pybalancer" not in it.tables


def test_another_has_the_kernel(director, bed):
    director(('bind: "VIP:8000"', 'bind: "VIP:8001"'))
    it = director(("engine: kernel, ", ""), wait=False)
    it.process.wait_for_line("pybalancer starts")
    until(lambda: len(it.process.children) == 2, "it runs")
    before = it.process.children.keys()
    it.file.write_text(it.file.read_text().replace("mode: tcp, bind", "mode: tcp, engine: kernel, bind"))
    it.process.signal(signal.SIGHUP)
    it.process.wait_for_line("has the rules of this network namespace")
    it.process.wait_for_line("is not loaded, all goes on as before")
    assert it.process.children.keys() == before


def test_there_is_one_only(director):
    it = director()
    other = director(("VIP:8000", "VIP:8001"), wait=False, run=it.run)
    assert other.process.wait() == 1
    assert other.process.err == [
        f"another pybalancer (process {it.process.pid}) has the rules of this network namespace: there is one table, "
        "so only one daemon can have frontends of engine kernel, or gateway.masquerade"
    ]
    assert "table inet pybalancer" in it.tables


def test_rules_that_somebody_takes_away_are_put_there_again(director, bed):
    it = director()
    bed.nft.run("flush ruleset")
    it.process.wait_for_line("the kernel's rules were taken away by somebody else")
    until(lambda: "table inet pybalancer" in it.tables, "they are back")
    # On a busy machine a check may have failed meanwhile.
    until(lambda: _answers(bed), "clients are served")


def test_what_was_changed_by_others_is_made_good(director, bed):
    """A change that does not fit: all is put there anew."""
    it = director()
    bed.nft.run("flush chain inet pybalancer prerouting; flush chain inet pybalancer output; "
                f"flush map inet pybalancer services4; delete chain inet pybalancer tcp_{VIP}_80")  # fmt: skip
    bed.inner.cut(bed.hosts["web3"])
    it.process.wait_for_line("Server web/web3 is DOWN")
    until(lambda: _answers(bed), "all is well")
    assert set(tried(4, lambda: who(bed.client, VIP))) == {"web1", "web2"}


def test_servers_go_out_as_the_director(director, bed):
    """With gateway.masquerade alone."""
    it = director(
        text="""
global: {workers: 1, log: {target: stdout}, runtime_socket: {path: FOLDER/admin.sock}}
gateway: {masquerade: [{source: 10.0.100.0/24, interface: eth0}]}
stats: {bind: FOLDER/stats.sock}
""",
        wait=False,
    )
    it.process.wait_for_line("the kernel's rules are in place, 0 services")
    with bed.client:
        listening = socket.create_server((CLIENT, 7777))
    with listening, bed.hosts["web1"]:
        listening.settimeout(5)
        with socket.create_connection((CLIENT, 7777), timeout=5):
            accepted, peer = listening.accept()
            accepted.close()
    assert peer[0] == OUTSIDE
    assert "masquerade" in it.ask("show", "kernel")


def test_the_kernel_where_it_will_do(director, bed):
    it = director(
        ('engine: kernel, bind: "VIP:80"', 'engine: auto, bind: "VIP:80"'),
        ("proxied: {mode: tcp,", "proxied: {mode: tcp, engine: auto, maxconn: 100,"),
    )
    it.process.wait_for_line("frontends.web: engine kernel, which will do")
    it.process.wait_for_line("frontends.proxied: engine proxy, for the kernel counts no connections (maxconn)")
    assert seen_as(bed.client, VIP) == CLIENT
    assert seen_as(bed.client, VIP, 8000) == "10.0.100.1"


NOBODYS = """
global: {log: {target: stdout}}
frontends:
  f: {mode: tcp, engine: kernel, bind: "192.168.1.200:8080", default_backend: b}
backends: {b: {servers: {s: {address: "10.0.100.2:80"}}}}
"""


@pytest.mark.parametrize("engine", ["kernel", "auto"])
def test_who_has_no_rights_is_told(engine, bed):
    """Where nothing else will do; elsewhere the proxy serves."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(NOBODYS.replace("kernel", engine))
        file.flush()
        Path(file.name).chmod(0o644)
        done = subprocess.run(
            ["nsenter", f"--net={bed.director.path}", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
             "timeout", "30" if engine == "kernel" else "8", COMMAND, "-c", file.name],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    if engine == "kernel":
        assert done.returncode == 1
        assert "CAP_NET_ADMIN" in done.stderr and done.stderr.count("\n") == 1
    else:
        why = "engine kernel and gateway.masquerade need CAP_NET_ADMIN"
        assert f"NOTICE: frontends.f: engine proxy, for {why}" in done.stdout


# Without a kernel

UP, DOWN = ServerState(Condition.UP), ServerState(Condition.DOWN)


class Nft:
    """Takes what it is given unless it has something against it, and counts nothing."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.says = ""
        self.is_gone = False

    def run(self, text: str) -> str:
        if self.says:
            raise KernelError(self.says)
        self.is_gone = False
        self.texts.append(text)
        return ""

    def list_json(self, command: str) -> list[object]:
        return []


class Flows:
    """Remembers what it was asked to forget."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, int]] = []
        self.found: dict[tuple[str, tuple[str, int]], Load] = {}
        self.counted = self.swept = 0
        self.error: OSError | None = None

    def counts(self, services):
        self.counted += 1
        return dict(self.found)

    def sweep(self, services, former):
        self.former = former
        if self.error is not None:
            raise self.error
        self.swept += 1
        return 0

    def delete(self, protocol, server, service, *, gone=None):
        if self.error is not None:
            raise self.error
        assert protocol == service.protocol and server in [(each.address, each.port) for each in service.targets]
        self.deleted.append(server)
        return 1

    def usage(self):
        return Usage(1, 1000, 0, 0)


class Settings:
    def apply(self, families, *, is_liberal, is_logged, is_passing):
        return []

    def findings(self, usage):
        return ["eth9 does not forward"]

    def restore(self):
        return []


class Desk:
    """An engine that was not started."""

    def __init__(self, plan, memory, tmp_path, servers: int, mode: str, **backend: object) -> None:
        self.plan = plan(
            {
                "frontends": {"f": {"mode": mode, "engine": "kernel", "bind": "192.0.2.1:80", "default_backend": "b"}},
                "backends": {"b": {"servers": {f"s{i}": f"10.0.0.{i}:80" for i in range(1, servers + 1)}} | backend},
            }
        )
        self.memory = memory(self.plan)
        self.said: list[str] = []
        for i in range(servers):
            self.memory.board[i] = UP
        self.nft, self.flows = Nft(), Flows()
        self.begin(tmp_path)

    def begin(self, tmp_path) -> None:
        """The one, or one in the place of another."""
        self.it = Engine(self.plan, self.memory, tmp_path / "state")
        self.it._log.event = lambda level, text, kind="": self.said.append(f"{level.name} {text}")
        self.it._nft, self.it._conntrack, self.it._sysctl = self.nft, self.flows, Settings()
        self.it._resets = SimpleNamespace(add=None)

    def put(self, **states: ServerState) -> None:
        for name, state in states.items():
            self.memory.board[self.plan.seats["b", name].index] = state
        self.it._look()


@pytest.fixture
def desk(plan, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(counters, "read", lambda nft, services: {})

    def make(servers=2, mode="tcp", **backend):
        it = Desk(plan, memory, tmp_path, servers, mode, **backend)
        monkeypatch.setattr(kerneld, "tables", lambda: [] if it.nft.is_gone else ["inet pybalancer"])
        return it

    return make


def test_a_change_of_the_board_is_a_change_of_the_rules_and_no_more(desk):
    it = desk()
    it.it._begin()
    (whole,) = it.nft.texts
    assert whole.startswith("add table inet pybalancer\ndelete table inet pybalancer\n")
    it.put(s1=UP)
    assert len(it.nft.texts) == 1
    it.put(s1=DOWN)
    assert len(it.nft.texts) == 2 and "delete table" not in it.nft.texts[1]
    # What has no weight in it is none.
    it.put(s1=DOWN._replace(last_change=5, check_failures=7))
    assert len(it.nft.texts) == 2


@pytest.mark.parametrize(
    ("state", "is_forgotten"),
    [
        (DOWN, True),
        (UP._replace(admin=Admin.MAINT), True),
        (UP._replace(admin=Admin.DRAIN), False),
        (UP._replace(weight=0), False),
    ],
)
def test_who_is_taken_out_loses_its_connections_but_not_who_drains(desk, state, is_forgotten):
    it = desk()
    it.it._begin()
    it.put(s1=state)
    assert it.flows.deleted == ([("10.0.0.1", 80)] if is_forgotten else [])
    it.put(s1=state._replace(last_change=5))
    assert len(it.flows.deleted) == is_forgotten


def test_of_many_those_that_have_connections_lose_them(desk):
    it = desk(servers=100)
    it.it._begin()
    it.flows.found = {("f", ("10.0.0.7", 80)): Load(1, 0), ("f", ("10.0.0.8", 80)): Load(0, 0)}
    it.put(**{f"s{i}": DOWN for i in range(1, 90)})
    assert (it.flows.deleted, it.flows.counted) == ([("10.0.0.7", 80)], 1)


def test_at_its_start_it_forgets_for_whoever_is_down(desk):
    it = desk()
    it.memory.board[1] = DOWN
    it.it._begin()
    assert it.flows.deleted == [("10.0.0.2", 80)]


def test_what_began_without_the_rules_is_forgotten_when_they_are_put_there(desk):
    it = desk()
    it.flows.error = OSError(105, "No buffer space available")
    it.it._begin()
    assert it.said[-2] == "ERR connections of before the rules cannot be deleted: No buffer space available"
    it.flows.error = None
    it.it._every_second(1000.0)
    assert it.flows.swept == 1
    it.put(s1=DOWN)
    it.it._every_second(1001.0)
    assert it.flows.swept == 1
    it.nft.is_gone = True
    it.it._every_second(1002.0)
    assert it.flows.swept == 2


def test_deletions_that_fail_are_tried_again(desk):
    it = desk()
    it.it._begin()
    it.flows.error = OSError(105, "No buffer space available")
    it.put(s1=DOWN)
    assert it.said[-1] == ("ERR connections to servers that are down cannot be deleted: No buffer space available")
    it.flows.error = None
    it.it._look()
    assert it.flows.deleted == [("10.0.0.1", 80)]


def test_datagrams_follow_a_server_that_moves_and_connections_go_on(desk, tmp_path):
    for mode in ("udp", "tcp"):
        it = desk(mode=mode)
        it.it._begin()
        it.put(s1=UP.at("10.0.0.9", 80), s2=UP._replace(weight=5))
        assert it.flows.deleted == ([("10.0.0.1", 80)] if mode == "udp" else [])
        assert "10.0.0.9" in it.nft.texts[-1]
        it.put(s2=UP)
        assert len(it.flows.deleted) == (mode == "udp")
        # Whoever comes next knows what became of the rest.
        it.begin(tmp_path)
        it.it._begin()
        assert it.flows.former == {"b": {("10.0.0.1", 80)}}
        it.it._end()
        it.begin(tmp_path)
        it.it._begin()
        assert it.flows.former == {}


def test_datagrams_to_where_a_server_is_again_go_on(desk):
    """Two that change places, and one that is back before it was seen to."""
    it = desk(mode="udp")
    it.it._begin()
    it.put(s1=UP.at("10.0.0.2", 80), s2=UP.at("10.0.0.1", 80))
    assert it.flows.deleted == []
    it.flows.error = OSError(105, "No buffer space available")
    it.put(s1=UP.at("10.0.0.9", 80), s2=UP.at("10.0.0.8", 80))
    assert it.said[-1] == "ERR flows to where servers were cannot be deleted: No buffer space available"
    it.flows.error = None
    it.put(s1=UP.at("10.0.0.2", 80))
    assert it.flows.deleted == [("10.0.0.1", 80), ("10.0.0.9", 80)]
    it.it._look()
    assert len(it.flows.deleted) == 2


def test_of_many_that_move_those_are_looked_for_that_have_datagrams(desk):
    it = desk(servers=100, mode="udp")
    it.it._begin()
    it.flows.found = {("f", ("10.0.0.7", 80)): Load(0, 1), ("f", ("10.0.0.8", 80)): Load(0, 0)}
    it.put(**{f"s{i}": UP.at(f"10.0.1.{i}", 80) for i in range(1, 90)})
    assert it.flows.deleted == [("10.0.0.7", 80)]


def test_the_rules_that_are_not_taken_when_a_server_moves_follow_later(desk, monkeypatch):
    it = desk(mode="udp")
    now = [1000.0]
    monkeypatch.setattr(kerneld.time, "monotonic", lambda: now[0])
    it.it._begin()
    it.nft.says = "Could not process rule: No buffer space available"
    it.put(s1=UP.at("10.0.0.9", 80))
    it.put(s2=UP.at("10.0.0.8", 80))
    assert it.flows.deleted == []
    it.nft.says = ""
    now[0] += 2
    it.it._look()
    assert it.flows.deleted == [("10.0.0.1", 80), ("10.0.0.2", 80)]


def test_a_server_that_moves_out_of_reach_is_told_of_once(desk):
    it = desk()
    it.it._begin()
    said = "WARNING backends.b.servers.s1: 2001:db8::1 is not of f's family IPv4; it gets nothing from there"
    for _ in range(2):
        it.put(s1=UP.at("2001:db8::1", 80))
        assert it.said.count(said) == 1
    it.put(s2=UP.at("10.0.0.9", 80))
    assert it.said.count(said) == 1


def test_what_the_kernel_does_not_take_is_said_once_and_tried_again(desk, monkeypatch):
    it = desk()
    now = [1000.0]
    monkeypatch.setattr(kerneld.time, "monotonic", lambda: now[0])
    it.nft.says = "Could not process rule: No such file or directory"
    it.it._begin()
    assert it.memory.applied[0] == 0
    for _ in range(5):
        now[0] += 1
        it.it._every_second(now[0])
    refused = [line for line in it.said if "does not take the rules" in line]
    assert refused == [
        "ALERT the kernel does not take the rules, tried again each second: "
        "Could not process rule: No such file or directory"
    ]
    assert it.memory.applied[0] == 0
    assert decode(it.it._answer("services", True)).trouble == it.nft.says
    it.nft.says = ""
    now[0] += 1
    it.it._every_second(now[0])
    assert "NOTICE the kernel has taken the rules" in it.said
    assert it.memory.applied[0] == now[0] * 1e6
    assert decode(it.it._answer("services", True)).trouble == ""
    it.nft.is_gone = True
    it.it._every_second(now[0] + 1)
    assert [text.startswith("add table") for text in it.nft.texts] == [True, True]


def test_findings_are_said_when_they_change(desk):
    it = desk()
    it.it._begin()
    for _ in range(3):
        it.it._look_around()
    assert it.said.count("WARNING eth9 does not forward") == 1
    it.it._sysctl.findings = lambda usage: []
    it.it._look_around()
    del it.it._sysctl.findings
    it.it._look_around()
    assert it.said.count("WARNING eth9 does not forward") == 2


def test_totals_do_not_run_backwards_when_it_is_started_anew(desk, tmp_path, monkeypatch):
    it = desk()
    counted = {("tcp 192.0.2.1 80", "s1"): Tally(5, 50, 500, 40, 400)}
    monkeypatch.setattr(counters, "read", lambda nft, services: dict(counted))
    it.flows.found = {("tcp 192.0.2.1 80", ("10.0.0.1", 80)): Load(3, 9)}

    def totals():
        sums = Sums.read(it.memory.blocks, it.plan.layout)
        front, back, own = (
            sums[Entity(*of)].counters for of in (("frontend", "f"), ("backend", "b"), ("server", "b", "s1"))
        )
        assert [each["stot"] for each in (front, back, own)] == [own["lbtot"]] * 3
        assert [each["scur"] for each in (front, back, own)] == [own["scur"]] * 3
        return own["stot"], own["bin"], own["bout"], own["scur"], own["smax"]

    it.it._begin()
    it.it._every_second(1000.0)
    assert totals() == (5, 500, 400, 3, 3)
    it.begin(tmp_path)
    assert totals() == (5, 500, 400, 0, 3)
    it.it._begin()
    # The table is the same; something was carried meanwhile.
    counted = {("tcp 192.0.2.1 80", "s1"): Tally(6, 60, 600, 50, 500)}
    it.it._every_second(1001.0)
    assert totals() == (6, 600, 500, 3, 3)
    # The table was made anew.
    counted = {("tcp 192.0.2.1 80", "s1"): Tally(2, 20, 200, 10, 100)}
    it.it._numbers._tallies_at = 0.0
    it.it._every_second(1002.0)
    assert totals() == (8, 800, 600, 3, 3)
    (service,) = decode(it.it._answer("services", True)).services
    assert service.targets[0].rate == (2, 20, 10, 200, 100)
    it.begin(tmp_path)
    it.it._begin()
    counted = {("tcp 192.0.2.1 80", "s1"): Tally(3, 30, 300, 20, 200)}
    it.it._every_second(1003.0)
    assert totals() == (9, 900, 700, 3, 3)
    (service,) = decode(it.it._answer("services", True)).services
    assert service.targets[0].totals == (9, 90, 70, 900, 700)


def test_what_an_earlier_daemons_rules_have_carried_is_not_this_ones(desk, monkeypatch):
    monkeypatch.setattr(kerneld, "adopt", lambda nft, desired: True)
    counted = {("tcp 192.0.2.1 80", "s1"): Tally(5, 50, 500, 40, 400)}
    monkeypatch.setattr(counters, "read", lambda nft, services: dict(counted))
    it = desk()
    it.it._begin()
    assert it.nft.texts == []
    counted = {("tcp 192.0.2.1 80", "s1"): Tally(6, 60, 600, 50, 500)}
    it.it._every_second(1000.0)
    assert Sums.read(it.memory.blocks, it.plan.layout)[Entity("server", "b", "s1")].counters["stot"] == 1


def test_the_least_busy_gets_more(desk):
    it = desk(balance="leastconn")
    it.it._begin()
    it.flows.found = {("tcp 192.0.2.1 80", ("10.0.0.1", 80)): Load(1000, 0)}
    it.it._every_second(1000.0)
    assert len(it.nft.texts) == 2
    (service,) = it.it._services
    assert set(service.slots) == {1}


def test_an_unknown_question_is_refused(desk):
    it = desk()
    it.it._begin()
    with pytest.raises(KernelError, match="'everything' is not known here"):
        it.it._answer("everything", False)
