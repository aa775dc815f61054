from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

import pytest

from balancer.daemon import watch
from balancer.daemon.generation import Child
from balancer.daemon.watch import Watch
from tests.daemon.conftest import talks
from tests.e2e.bed.process import Process, holders


class Others:
    """Three processes, and when each moved last."""

    def __init__(self) -> None:
        self.children = [
            Child("worker 0", lambda: None, pid=7, number=0),
            Child("control", lambda: None, pid=8),
            Child("kernel", lambda: None, pid=9, is_of_network=True),
        ]
        self.times = dict.fromkeys(("worker 0", "control", "kernel"), 0.0)

    def moved(self, child: Child) -> float:
        return self.times[child.name]


@pytest.fixture
def scene(monkeypatch):
    """watch, others, step(seconds, who moves …) -> who is to be killed; how often the service manager was told."""
    monkeypatch.setattr(watch.time, "monotonic", lambda: 0.0)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    told = []
    monkeypatch.setattr(watch.systemd, "alive", lambda: told.append(now))
    it, others, now = Watch(), Others(), 0.0

    def step(seconds, *moving):
        nonlocal now
        now += seconds
        others.times |= dict.fromkeys(moving, now)
        return [(child.name, silence) for child, silence in it.look(others, now)]

    return it, others, step, told


ALL = ("worker 0", "control", "kernel")


@pytest.mark.parametrize("who", ["worker 0", "control"])
def test_who_hangs_is_named_and_the_watchdog_goes_hungry(scene, who):
    _, _, step, told = scene
    others = [name for name in ALL if name != who]
    assert step(5, *ALL) == []
    assert step(5, *others) == step(5, *others) == []
    assert len(told) == 3
    assert step(5, *others) == [(who, 15)]
    assert step(5, *others) == [(who, 20)]
    assert len(told) == 3
    assert step(5, *ALL) == []
    assert len(told) == 4


def test_changing_very_many_rules_is_given_time(scene):
    _, _, step, _ = scene
    for _ in range(12):
        assert step(5, "worker 0", "control") == []
    assert step(5, "worker 0", "control") == [("kernel", 65)]


def test_who_is_not_there_does_not_hang(scene):
    _, others, step, told = scene
    others.children[0].pid = 0
    for _ in range(5):
        assert step(5, "control", "kernel") == []
    assert len(told) == 5


def test_whoever_hung_with_us_gets_time_to_move(scene):
    """As after the machine was suspended."""
    _, _, step, told = scene
    assert step(5, *ALL) == []
    assert step(300) == []
    assert len(told) == 2
    assert step(5, *ALL) == []
    assert step(300) == []
    assert len(step(5)) == 3


def test_between_times_nothing_is_looked_at(scene):
    it, _, step, told = scene
    assert it.due == 5
    assert step(4.9) == []
    assert not told
    step(0.1, *ALL)
    assert (it.due, len(told)) == (10, 1)


@pytest.mark.parametrize(
    ("variables", "every"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 5),
        ({"WATCHDOG_USEC": "90000000"}, 5),
        ({"WATCHDOG_USEC": "0"}, 5),
        ({"WATCHDOG_USEC": "-1"}, 5),
        ({"WATCHDOG_USEC": "soon"}, 5),
        ({}, 5),
    ],
)
def test_the_watchdogs_time_counts(scene, monkeypatch, variables, every):
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Watch().due == every


SOON = """
import sys
from balancer import cli
from balancer.daemon import watch
watch._FROZEN = 2.0
sys.exit(cli.main())
"""


@pytest.mark.parametrize("who", ["worker", "control"])
def test_who_is_frozen_is_replaced_and_the_service_manager_hears_it(start, tmp_path, who):
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -signal.SIGKILL
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        # Three looks in that time.
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"}
        again = Process([sys.executable, "-c", SOON, "-c", it.file], cwd=tmp_path, env=env)
        try:
            again.wait_until(lambda: len(again.children) == 3 and talks(it.ports["port"]), "it serves")
            while (heard := manager.recv(100)) != b"WATCHDOG=1":
                assert heard == b"READY=1"
            workers = holders(it.ports["port"])
            frozen = next(pid for pid in again.children if (pid in workers) == (who == "worker"))
            os.kill(frozen, signal.SIGSTOP)
            # Without control everybody is served all the same.
            assert who == "worker" or all(talks(it.ports["port"]) for _ in range(20))
            again.wait_for_line(", killed")
            again.wait_until(lambda: len(again.children) == 3 and frozen not in again.children, "another is there")
            for _ in range(20):
                assert talks(it.ports["port"])
            manager.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while manager.recv(100):
                    pass
            manager.settimeout(30)
            assert manager.recv(100) == b"WATCHDOG=1"
            again.signal(signal.SIGTERM)
            assert again.wait() == 0
        finally:
            again.end()
