"""Somebody speaks while the supervisor becomes another version."""

from __future__ import annotations

import os
import select
import time
from types import SimpleNamespace
from typing import Any

import pytest

from balancer.daemon.standin import Standin, ask
from tests.e2e.bed.process import is_alive, until


class Voice:
    """A speaker that speaks into a pipe each 10 ms."""

    def __init__(self) -> None:
        self.hears, self._says = os.pipe()
        self._listens, self._other = os.pipe()
        self.due = 0.0
        self._routers: dict[str, Any] = {}
        self._group_roles = {"g": "said 0"}
        self._up: dict[str, bool] = {}
        self._peers = None
        self._scripts = SimpleNamespace(_checks=[], due=0.0)
        self._times = 0

    def fileno(self) -> int:
        return self._listens

    def turn(self) -> None:
        if time.monotonic() >= self.due:
            self._times += 1
            self._group_roles["g"] = f"said {self._times}"
            os.write(self._says, b".")
            self.due = time.monotonic() + 0.01

    def close(self) -> None:
        for file in (self.hears, self._says, self._listens, self._other):
            os.close(file)


@pytest.fixture
def voice():
    made = Voice()
    yield made
    made.close()


def test_it_speaks_until_it_is_asked_and_then_says_what_it_knows(voice):
    standin = Standin(voice)
    heard = b""
    while len(heard) < 5:
        heard += os.read(voice.hears, 100)
    known = ask(standin.line)
    assert os.waitpid(standin.pid, 0)[1] == 0
    while select.select([voice.hears], [], [], 0)[0]:
        heard += os.read(voice.hears, 100)
    assert known is not None
    assert known["groups"] == {"g": f"said {len(heard)}"}
    assert known["routers"] == {}


def test_one_that_nobody_wants_is_ended(voice):
    standin = Standin(voice)
    standin.end()
    assert not is_alive(standin.pid)
    assert standin.line.fileno() == -1


def test_who_has_died_says_nothing(voice):
    standin = Standin(voice)
    os.kill(standin.pid, 9)
    os.waitpid(standin.pid, 0)
    assert ask(standin.line) is None


def test_it_dies_with_the_supervisor(voice):
    reader, writer = os.pipe()
    supervisor = os.fork()
    if not supervisor:
        os.write(writer, str(Standin(voice).pid).encode())
        os._exit(0)
    os.waitpid(supervisor, 0)
    pid = int(os.read(reader, 100))
    until(lambda: not is_alive(pid), "it is gone")
    os.close(reader)
    os.close(writer)
