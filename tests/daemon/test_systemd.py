from __future__ import annotations

import re
import socket
import time

import pytest

from balancer.daemon import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """A service manager's socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@pybalancer-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_it_is_told_what_happens(manager):
    systemd.ready()
    systemd.stopping()
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_what_is_shown_is_one_line_and_no_other_word(manager):
    systemd.status("not upgraded: a\nREADY=1\n" + 1000 * "x")
    heard = manager.recv(2000)
    assert heard.startswith(b"STATUS=not upgraded: a READY=1 xxx")
    assert b"\n" not in heard and len(heard) < 600


def test_a_reload_tells_its_time(manager):
    """Or systemd (Type=notify-reload) would not believe that it is this reload."""
    before = time.monotonic_ns() // 1000
    systemd.reloading()
    found = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(100))
    assert found and before <= int(found[1]) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("name", [None, "", "nonsense", "/nonexistent/socket", "@nobody-is-there"])
def test_where_nobody_listens_nothing_happens(name, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    systemd.ready()


def test_a_manager_that_does_not_read_holds_nobody_up(manager):
    for _ in range(1000):
        systemd.ready()
