from __future__ import annotations

import errno
import os
import signal
import sys
from math import inf
from types import SimpleNamespace

import pytest

from balancer.daemon import children
from balancer.daemon.children import Children
from balancer.daemon.generation import Child
from balancer.daemon.lineage import Lineage
from tests.daemon.conftest import as_root, talks
from tests.daemon.whole import CONFIG, Time, children_of, descriptors, is_up, runs, status, zombies
from tests.e2e.bed.process import Process, is_bound, members, until


def test_a_killed_worker_is_replaced_and_its_sibling_goes_on(running):
    before = running.workers
    os.kill(before[0], signal.SIGKILL)
    # Connections that the kernel had given to the dead one wait for its successor: it holds the same socket.
    assert all(talks(running.ports["port"]) for _ in range(20))
    until(lambda: len(after := running.workers) == 2 and after != before, "it is replaced")
    assert before[1] in running.workers
    running.wait_for_line("killed by signal 9 (Killed), starting another")


def test_killed_control_is_replaced_and_knows_the_servers(running, echo):
    until(lambda: is_up(running), "checked")
    (before,) = running.control
    seen = len(running.log)
    os.kill(before, signal.SIGKILL)
    assert talks(running.ports["port"])
    until(lambda: running.control not in ([], [before]), "it is replaced")
    until(lambda: is_up(running), "it goes on")
    running.wait_for_line("ALERT: control killed by signal 9", after=seen)
    # What its predecessor knew is no news.
    assert not [line for line in running.log[seen:] if "Server b/s" in line or "server b/s" in line]
    echo.stop()
    running.wait_for_line("ALERT: Server b/s is DOWN", after=seen)
    os.kill(running.control[0], signal.SIGKILL)
    until(lambda: running.control, "it is replaced again")
    until(lambda: running.metric("haproxy_server_status", proxy="b", server="s", state="DOWN") == 1, "still down")
    assert sum("is DOWN" in line for line in running.log) == 1
    assert running.metric("haproxy_server_check_up_down_total", proxy="b", server="s") == 1


def test_totals_never_run_backwards(running):
    port = running.ports["port"]
    until(lambda: talks(port), "it serves")
    total = 0.0
    for _ in range(3):
        for _ in range(10):
            talks(port)
        until(lambda t=total: running.metric("haproxy_frontend_connections_total", proxy="f") >= t + 10, "counted")
        total = running.metric("haproxy_frontend_connections_total", proxy="f")
        before = running.workers
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda b=before: len(after := running.workers) == 2 and not set(after) & set(b), "they are replaced")
        now = running.metric("haproxy_frontend_connections_total", proxy="f")
        assert now >= total
        until(lambda: talks(port), "it serves")
    until(lambda: running.metric("haproxy_frontend_current_sessions", proxy="f") == 0, "nobody is connected")


def test_fifty_replacements_leak_nothing(start):
    """Descriptors, zombies, memory of the supervisor."""
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -9
    # Without the pause for those that die young.
    program = "import sys; from balancer.daemon import children as c; c._YOUNG = 0; from balancer.cli import main; "
    again = Process([sys.executable, "-c", f"{program} sys.exit(main())", "-c", it.file], cwd=it.file.parent)
    try:
        until(lambda: len(again.children) == 3 and talks(it.ports["port"]), "it serves")
        before = descriptors(again.pid)
        for _ in range(50):
            victims = set(children_of(again.pid))
            os.kill(max(victims), signal.SIGKILL)
            until(lambda v=victims: len(now := set(children_of(again.pid))) == 3 and now != v, "it is replaced")
        assert descriptors(again.pid) == before
        assert until(lambda: zombies(again.pid) == [], "no zombies")
        assert until(lambda: talks(it.ports["port"]), "it still serves")
        for pid in children_of(again.pid):
            # Nor does a late child inherit what an early one did not.
            assert len(descriptors(pid)) < 40
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


# Its parts, in this process


@pytest.fixture
def kept(monkeypatch):
    """kept(child…): those that nobody has started, with a clock, and what is said of them."""
    clock, said = Time(), []
    monkeypatch.setattr(children, "time", clock)

    def say(_: object, text: str) -> None:
        said.append(text)

    def make(*own: Child) -> Children:
        it = Children(
            Lineage(runs(*own), say=say),
            SimpleNamespace(has_rules=False),
            None,
            become=lambda: None,
            missing=lambda child, why: it.start_later(child, why),
            say=say,
        )
        return it

    return make, clock, said


def test_one_that_dies_young_again_and_again_is_started_ever_less_often(kept):
    make, clock, said = kept
    child = Child("control", lambda: None)
    it = make(child)
    pauses = []
    for _ in range(8):
        child.pid, child.started = 77, clock.now
        clock.now += 0.5
        assert it.ended(77, 256)
        pauses.append(child.start_at - clock.now)
        clock.now = child.start_at
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert said[:2] == [
        "control ended with status 1, starting another in 0.1 s",
        "control ended with status 1, starting another in 0.2 s",
    ]
    child.pid, child.started = 77, clock.now
    clock.now += 60
    assert it.ended(77, 9)
    assert child.start_at == clock.now, "one that lived is replaced at once"
    assert said[-1] == "control killed by signal 9 (Killed), starting another"


def test_when_the_system_has_no_room_for_a_process_it_tries_again(kept, monkeypatch):
    make, clock, said = kept

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    child = Child("control", lambda: None)
    it = make(child)
    monkeypatch.setattr(os, "fork", refuse)
    it.start()
    assert child.pid == 0
    assert said == ["control could not be started: Resource temporarily unavailable, starting another in 0.1 s"]
    assert it.due == pytest.approx(clock.now + 0.1)
    it.start()
    assert len(said) == 1, "not before its time"
    clock.now += 0.1
    monkeypatch.setattr(it, "_fork", lambda _: 77)
    it.start()
    assert child.pid == 77
    assert it.due == inf


def test_a_child_that_fails_says_why_in_one_line(kept, monkeypatch):
    make, _, said = kept
    it = make()
    ended = []

    def leave(status):
        ended.append(status)
        raise SystemExit

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(children.privileges, "drop", lambda _: None)
    monkeypatch.setattr(children.privileges, "die_with_parent", lambda _: None)
    for main, text in (
        (fail, "control: [Errno 28] No space left on device"),
        (lambda: {}["x"], "control: KeyError: 'x' ("),
    ):
        with pytest.raises(SystemExit):
            it._be(Child("control", main), os.getppid())
        assert said[-1].startswith(text)
        assert "\n" not in said[-1]
    assert ended == [1, 1]


def test_nobody_takes_the_place_of_whoever_dies_at_the_end(kept):
    make, _, said = kept
    child = Child("control", lambda: None, pid=77)
    it = make(child)
    it.start_no_more()
    it._lineage.current.bury = lambda child, was_killed: it._lineage.current.children.remove(child)
    assert it.ended(77, 9) and not it.ended(77, 9)
    it.start()
    assert (it._lineage.children, it.due, said) == ([], inf, [])


# Who they are


@as_root
def test_workers_and_control_run_as_the_user_written(start, tmp_path):
    tmp_path.chmod(0o755)
    running = start(CONFIG.replace("{workers: 2,", "{workers: 2, user: nobody,"))
    until(lambda: talks(running.ports["port"]) and is_up(running), "it serves")
    assert status(running.process.pid)["Uid"].split() == ["0"] * 4
    for pid in running.process.children:
        now = status(pid)
        assert (now["Uid"].split(), now["Gid"].split()) == (["65534"] * 4, ["65534"] * 4)
        assert now["Groups"].split() == []
        assert now["NoNewPrivs"] == "1"
        assert int(now["CapEff"], 16) == int(now["CapPrm"], 16) == 0
    # It dies with its parent all the same, and its successor is no more privileged.
    os.kill(running.control[0], signal.SIGKILL)
    until(lambda: running.control and is_up(running), "control is replaced")
    assert status(running.control[0])["Uid"].split() == ["65534"] * 4
    running.process.signal(signal.SIGKILL)
    until(lambda: not members(running.process.pid), "all are gone")
    running.expected_status = -9


@as_root
def test_who_is_not_root_stays_who_they_are(start):
    it = start(CONFIG.replace("{workers: 2,", "{workers: 2, user: nosuchuser,").replace(', "${path}"', ""), wait=False)
    it.process.kill()
    it.expected_status = -9
    # All that has to be read is read as root: tests run where others may not look.
    program = (
        "import os, sys; from balancer.config import read; from balancer.daemon import supervisor; "
        f"config = read.load({str(it.file)!r}, node='n', environ={{}}); os.setresuid(65534, 65534, 65534); "
        "sys.exit(supervisor.run(config))"
    )
    again = Process([sys.executable, "-c", program], cwd=it.file.parent)
    try:
        until(lambda: is_bound(it.ports["port"]) and talks(it.ports["port"]), "it serves")
        assert {status(pid)["Uid"].split()[0] for pid in children_of(again.pid)} == {"65534"}
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()
