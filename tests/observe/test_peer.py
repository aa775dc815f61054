from __future__ import annotations

import asyncio
import os
import pwd
import socket
import threading

import pytest

from balancer.observe import peer
from balancer.observe.peer import Names


@pytest.fixture
def sock():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        yield ours


def test_the_name_is_asked_for_once(sock, monkeypatch) -> None:
    asked, real = [], pwd.getpwuid
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: asked.append(uid) or real(uid))

    async def ask() -> list[str]:
        names = Names()
        return [*await asyncio.gather(names.of(sock), names.of(sock)), await names.of(sock)]

    assert asyncio.run(ask()) == [real(os.getuid()).pw_name] * 3
    assert asked == [os.getuid()]


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_who_has_no_name_is_a_number(sock, monkeypatch, error) -> None:
    def nobody(uid: int):
        raise error

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert asyncio.run(Names().of(sock)) == f"uid {os.getuid()}"


def test_where_there_can_be_no_thread_it_is_a_number(sock, monkeypatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert asyncio.run(Names().of(sock)) == f"uid {os.getuid()}"


def test_a_name_that_comes_late_hurts_nobody(sock, monkeypatch) -> None:
    """The second does not wait at all, and the loop may have ended by then."""
    over, ended, real = threading.Event(), threading.Event(), pwd.getpwuid

    def slow(uid: int):
        over.wait(20)
        ended.set()
        return real(uid)

    monkeypatch.setattr(pwd, "getpwuid", slow)
    monkeypatch.setattr(peer, "_PATIENCE", 0.05)

    async def ask() -> None:
        names = Names()
        assert await names.of(sock) == f"uid {os.getuid()}"
        monkeypatch.setattr(peer, "_PATIENCE", 60)
        async with asyncio.timeout(10):
            assert await names.of(sock) == f"uid {os.getuid()}"

    asyncio.run(ask())
    over.set()
    assert ended.wait(10)


def test_what_is_no_unix_socket_has_nobody() -> None:
    sock = socket.socket()
    sock.close()
    assert asyncio.run(Names().of(sock)) == ""
