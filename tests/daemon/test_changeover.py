"""With virtual routers. tests/e2e/test_reload.py and test_reload_rollback.py have what becomes of connections."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from itertools import pairwise

from tests.daemon.whole import SPEAKING, alone, reload, socket_in
from tests.e2e.bed.process import until


@alone
def test_virtual_routers_do_not_notice_a_reload(speaking):
    """With as many servers as take a while to read: advertisements go out in time, nobody changes."""
    it = speaking()
    # The wire's other end hears them all.
    with socket_in(it.process.pid, socket.AF_PACKET, socket.SOCK_RAW, 0x0003) as wire:
        wire.bind(("eth1", 0x0800))
        wire.settimeout(10)
        heard = []
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                packet = wire.recv(2000)
                if packet[23] == 112:
                    heard.append(time.monotonic())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        until(lambda: len(heard) > 5, "it advertises")
        seen = len(it.process.out)
        more = "".join(f', s{i}: {{address: "10.0.{i // 250}.{i % 250 + 1}:80"}}' for i in range(3000))
        one = 's: {address: "127.0.0.1:9"}'
        assert "3000 servers added" in reload(it, lambda text: text.replace(one, one + more))
        for _ in range(3):
            reload(it)
        assert "3000 servers removed" in reload(it, lambda text: text.replace(more, ""))
        so_far = len(heard)
        until(lambda: len(heard) > so_far + 5, "it still advertises")
        stop.set()
        thread.join(10)
    print("gaps:", sorted(round(later - earlier, 3) for earlier, later in pairwise(heard))[-5:], it.process.out)
    # Three intervals without one, and the other director would be master.
    assert max(later - earlier for earlier, later in pairwise(heard)) < 0.25
    assert not any("Entering" in line for line in it.process.out[seen:])
    assert sum("MASTER" in line for line in it.notified) == 1


@alone
def test_after_a_reload_control_knows_and_is_heard(speaking):
    it = speaking()
    for _ in range(2):
        reload(it)
        assert it.says("VI  MASTER", "why")
        seen = len(it.process.out)
        assert it.ask("vrrp", "release", "VI", "--for", "30s").returncode == 0
        it.process.wait_for_line("(VI) Entering BACKUP STATE: released", after=seen)
        assert it.ask("vrrp", "hold").returncode == 0
        it.process.wait_for_line("(VI) Entering MASTER STATE", after=seen)


@alone
def test_virtual_routers_are_reloaded_too(speaking):
    it = speaking()
    good = it.file.read_text()

    def others(text: str, said: str) -> None:
        it.file.write_text(text)
        seen = len(it.process.out)
        reload(it)
        assert any(said in line for line in it.process.out[seen:]), it.process.said()

    before = it.notified
    others(good.replace("priority: 100", "priority: 90"), "(VI) priority 100 -> 90, in place")
    assert it.metric("pybalancer_vrrp_base_priority", iname="VI") == 90
    others(
        good.replace("192.0.2.200", "[192.0.2.200, 192.0.2.201]"),
        "(VI) priority 90 -> 100; virtual_ipaddress +192.0.2.201, in place",
    )
    assert it.held == ["192.0.2.200", "192.0.2.201"]

    # What cannot be leaves all as it was.
    for text, why in (
        (good.replace("interface: eth0", "interface: eth9"), "vrrp.instances.VI: there is no interface eth9"),
        (good.replace("notify: ", "notify_fault: /no/such "), "notify_fault"),
        (good + "  script_user: nosuchuser\n", "vrrp.script_user: there is no user 'nosuchuser'"),
    ):
        it.file.write_text(text)
        seen = len(it.process.out)
        it.process.signal(signal.SIGHUP)
        it.process.wait_for_line("is not loaded, all goes on as before", after=seen)
        assert any(why in line for line in it.process.out[seen:]), it.process.said()
    assert it.held == ["192.0.2.200", "192.0.2.201"] and it.notified == before

    # None, and some again.
    gone = "virtual router VI removed: is master on eth0, and advertises priority 0; gives up 192.0.2.200, 192.0.2.201,"
    others(good.partition("vrrp:")[0], gone)
    assert it.held == []
    until(lambda: it.notified[len(before) :] == ["INSTANCE VI STOP 100"], "it is told of the end")
    assert it.ask("vrrp", "hold").returncode != 0
    seen = len(it.process.out)
    others(good, "1 virtual router added (VI)")
    it.process.wait_for_line("(VI) Entering MASTER STATE", after=seen)
    until(lambda: it.held == ["192.0.2.200"] and it.says("VI  MASTER", "why"), "it has begun")


PATCHED = """
import os, signal, sys
from balancer import cli
from balancer.daemon import control
serve = control.Control._serve
async def _serve(self):
    if "bad" in self._plan.config.frontends:
        os.kill(os.getpid(), signal.SIGKILL)
    await serve(self)
control.Control._serve = _serve
sys.exit(cli.main())
"""


@alone
def test_a_reload_that_goes_back_leaves_virtual_routers_as_they_were(speaking):
    it = speaking(command=(sys.executable, "-c", PATCHED))
    good = it.file.read_text()
    other = good.replace("priority: 100", "priority: 90").replace("192.0.2.200", "[192.0.2.200, 192.0.2.201]")
    bad = '  bad: {mode: tcp, bind: "127.0.0.1:8001", default_backend: b}\n'
    it.file.write_text(other.replace("frontends:\n", f"frontends:\n{bad}"))
    it.process.signal(signal.SIGHUP)
    it.process.wait_for_line("those of before the reload have taken over again")
    assert it.held == ["192.0.2.200"]
    assert it.says("VI  MASTER", "why") and it.metric("pybalancer_vrrp_base_priority", iname="VI") == 100
    # The next one finds what it needs.
    it.file.write_text(other)
    reload(it)
    assert it.held == ["192.0.2.200", "192.0.2.201"]
    assert sum("(VI) priority 100 -> 90" in line for line in it.process.out) == 1
    assert it.notified == ["INSTANCE VI BACKUP 100", "INSTANCE VI MASTER 100"]


@alone
def test_virtual_routers_come_with_a_reload(speaking):
    of_vrrp = SPEAKING[SPEAKING.index("vrrp:") :]
    it = speaking((of_vrrp, ""), wait=False)
    it.process.wait_until(lambda: len(it.process.children) == 3, "it serves")
    reload(it, lambda text: text + of_vrrp.replace("FOLDER", str(it.folder)))
    it.process.wait_for_line("(VI) Entering MASTER STATE")
    until(lambda: it.says("VI  MASTER", "why"), "control knows")
    assert it.ask("vrrp", "release", "VI", "--for", "30s").returncode == 0
    it.process.wait_for_line("(VI) Entering BACKUP STATE: released")
