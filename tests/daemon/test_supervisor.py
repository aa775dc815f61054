from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from balancer.config.model import Config
from balancer.daemon import supervisor
from balancer.daemon.limits import Book
from balancer.daemon.supervisor import Child, Supervisor
from balancer.pool import routers
from balancer.pool.routers import Standing
from tests.daemon.conftest import as_root, talks
from tests.e2e.bed.process import Process, is_alive, is_bound, members, until
from tests.e2e.bed.pybalancer import COMMAND, run
from tests.lab.space import why_not

CONFIG = """
global: {workers: 2, hard_stop_after: 20s}
frontends:
  f: {mode: tcp, bind: ["127.0.0.1:${port}", "${path}"], default_backend: b}
  u: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: b}
backends:
  b: {check: {type: tcp, interval: 200ms}, servers: {s: {address: "127.0.0.1:${server}"}}}
"""


@pytest.fixture
def start(balancer, echo, tmp_path):
    """start(): the daemon in front of the echo server, serving unless `wait` is false."""

    def start_(text=CONFIG, *, wait=True, **more):
        it = balancer(text, server=echo.port, path=str(tmp_path / "s.sock"), wait=wait, **more)
        if wait:
            it.process.wait_until(lambda: len(it.process.children) == 3 and talks(it.ports["port"]), "it serves")
        return it

    return start_


@pytest.fixture
def running(start):
    return start()


def descriptors(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return sorted(found)


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def zombies(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state == "Z" and int(ppid) == parent:
            found.append(int(stat.parent.name))
    return found


def is_up(running) -> bool:
    return running.metric("haproxy_server_status", proxy="b", server="s", state="UP") == 1


# Start


def test_it_starts_what_it_says(running):
    until(lambda: (len(running.workers), len(running.control)) == (2, 1), "each holds its sockets")
    running.wait_for_line("NOTICE: pybalancer starts, 2 workers")


def test_children_hold_their_own_sockets_alone(running):
    """Else a connection would wait in the queue of a socket that nobody accepts from."""
    until(lambda: (len(running.workers), len(running.control)) == (2, 1), "each holds its sockets")
    own = [{name for name in descriptors(pid) if name.startswith("socket:")} for pid in running.workers]
    listening = {
        f"socket:[{line.split()[9]}]"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if int(line.split()[1].rpartition(":")[2], 16) == running.ports["port"] and line.split()[3] == "0A"
    }
    assert len(listening) == 2
    assert all(len(held & listening) == 1 for held in own)
    assert own[0] & listening != own[1] & listening
    (control,) = running.control
    assert not listening & set(descriptors(control))


def test_at_rest_it_does_nothing_at_all(running):
    """It wakes for signals and deadlines only."""

    def switches() -> tuple[str, str]:
        now = status(running.process.pid)
        return now["voluntary_ctxt_switches"], now["nonvoluntary_ctxt_switches"]

    before = until(lambda: (one := switches()) == (time.sleep(0.3), switches())[1] and one, "it rests")
    time.sleep(1)
    assert switches() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("u: {mode: udp, bind: \"127.0.0.1:${udp}\"", "u: {mode: udp, bind: \"127.0.0.1:${taken}\""),
         r"frontends\.u\.bind: cannot bind 127\.0\.0\.1:\d+: Address already in use; is another copy or another "
         r"server running there\?"),
        (("${path}", "/nonexistent/s.sock"),
         r"frontends\.f\.bind: cannot bind /nonexistent/s\.sock: No such file or directory; is /nonexistent there, "
         r"and may we write to it\?"),
        (("{workers: 2,", "{workers: 2, log: {target: 'udp://nowhere.invalid:514'},"),
         r"global\.log\.target: no address found for nowhere\.invalid; write an address or mend the name"),
        pytest.param(("{workers: 2,", "{workers: 2, user: nosuchuser,"),
         r"global\.user: there is no user 'nosuchuser'; create it with: useradd --system --user-group nosuchuser",
         marks=as_root),
    ],
    ids=["port taken", "no folder", "no log host", "no user"],
)  # fmt: skip
def test_what_it_cannot_start_with_is_one_line_and_leaves_nothing(start, tmp_path, change, said):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        running = start(CONFIG.replace(*change), wait=False, taken=holder.getsockname()[1])
        running.expected_status = 1
        assert running.process.wait() == 1
    lines = [line for line in running.process.err if line]
    assert len(lines) == 1 and re.fullmatch(said, lines[0]), running.process.said()
    assert not is_bound(running.ports["port"])
    assert not (tmp_path / "s.sock").exists()


def test_too_few_open_files_to_serve_anybody(start):
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -9
    done = subprocess.run(
        ["prlimit", "--nofile=64:64", sys.executable, "-m", "balancer", "-c", it.file],
        capture_output=True, text=True, timeout=60, preexec_fn=_lose_the_right_to_raise_limits,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert re.match(r"64 open files are too few to serve anybody, .*raise it \(LimitNOFILE=, ulimit -n\)$", done.stderr)


def _lose_the_right_to_raise_limits() -> None:
    """prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE): what is executed next has it no more."""
    ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)


def test_fewer_open_files_than_maxconn_needs(balancer, echo, tmp_path):
    """HAProxy refuses to start; we serve fewer, say so, and show it."""
    text = CONFIG.replace("{workers: 2,", "{workers: 2, maxconn: 1000000000,").replace(', "${path}"', "")
    running = balancer(text, server=echo.port, path="")
    line = running.wait_for_line("WARNING: global.maxconn 1000000000 needs")
    served = int(re.findall(r"(\d+) connections are served", line)[0])
    assert 0 < served < 1000000000
    assert running.metric("haproxy_process_max_connections") == served
    assert talks(running.ports["port"])


@pytest.mark.parametrize("closed", ["1>&-", "0<&- 1>&- 2>&-"])
def test_standard_files_that_are_closed(start, tmp_path, closed):
    """A listening socket with number 1 would get our log lines."""
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -9
    again = Process(["sh", "-c", f"exec {sys.executable} -m balancer -c {it.file} {closed}"], cwd=tmp_path)
    try:
        until(lambda: is_bound(it.ports["port"]) and talks(it.ports["port"]), "it serves")
        names = [str(Path(f"/proc/{again.pid}/fd/{number}").readlink()) for number in range(3)]
        assert not any("socket" in name or "eventfd" in name or "eventpoll" in name for name in names)
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


def test_nobody_reads_what_it_says_and_it_goes_on(start, tmp_path):
    """stderr is a pipe that is full: no event may wait for its reader."""
    it = start(CONFIG.replace("{workers: 2,", "{workers: 2, log: {target: none},"), wait=False)
    it.process.kill()
    it.expected_status = -9
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    with subprocess.Popen([sys.executable, "-m", "balancer", "-c", it.file], stderr=writer) as again:
        try:
            until(lambda: is_bound(it.ports["port"]) and talks(it.ports["port"]), "it serves")
            for _ in range(2):
                before = set(_children(again.pid))
                os.kill(min(before), signal.SIGKILL)
                until(lambda b=before: len(set(_children(again.pid)) - b) == 1, "it is replaced")
            again.terminate()
            assert again.wait(20) == 0
        finally:
            again.kill()
    os.close(reader)
    os.close(writer)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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
        assert {status(pid)["Uid"].split()[0] for pid in _children(again.pid)} == {"65534"}
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


# Second copy


def test_a_second_copy_is_refused_and_the_first_does_not_feel_it(running):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"before")
        assert client.recv(6) == b"before"
        done = run("-c", running.file)
        assert done.returncode == 1
        assert re.fullmatch(
            r"frontends\.f\.bind: cannot bind .*Address already in use; is another copy .*\n", done.stderr
        )
        client.sendall(b"after")
        assert client.recv(5) == b"after"
    assert Path(running.config["frontends"]["f"]["bind"][1]).is_socket()
    assert all(talks(running.ports["port"]) for _ in range(20))


# Replacement


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
    program = "import sys; from balancer.daemon import supervisor as s; s._YOUNG = 0; from balancer.cli import main; "
    again = Process([sys.executable, "-c", f"{program} sys.exit(main())", "-c", it.file], cwd=it.file.parent)
    try:
        until(lambda: len(again.children) == 3 and talks(it.ports["port"]), "it serves")
        before = descriptors(again.pid)
        for _ in range(50):
            victims = set(_children(again.pid))
            os.kill(max(victims), signal.SIGKILL)
            until(lambda v=victims: len(now := set(_children(again.pid))) == 3 and now != v, "it is replaced")
        assert descriptors(again.pid) == before
        assert until(lambda: zombies(again.pid) == [], "no zombies")
        assert until(lambda: talks(it.ports["port"]), "it still serves")
        for pid in _children(again.pid):
            # Nor does a late child inherit what an early one did not.
            assert len(descriptors(pid)) < 40
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


class Time:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 0.0


@pytest.fixture
def quiet(monkeypatch):
    """A supervisor that was not started, its clock, and what it says."""
    config = Config.model_validate(
        {
            "frontends": {"f": {"mode": "tcp", "bind": "127.0.0.1:1", "default_backend": "b"}},
            "backends": {"b": {"servers": {"s": {"address": "127.0.0.1:9"}}}},
        },
        strict=False,
    )
    clock, said = Time(), []
    monkeypatch.setattr(supervisor, "time", clock)
    it = Supervisor(config)
    # Nobody hangs here.
    it._watched_at = float("inf")
    monkeypatch.setattr(it, "_say", lambda level, text: said.append(text))
    return it, clock, said


def runs(*children: Child) -> SimpleNamespace:
    """A generation of these."""
    return SimpleNamespace(memory=SimpleNamespace(beat=[0], book=Book(4)), children=list(children))


def test_control_that_hangs_is_replaced_unless_we_hung_ourselves(quiet, monkeypatch):
    it, clock, said = quiet
    killed = []
    monkeypatch.setattr(supervisor.os, "kill", lambda pid, number: killed.append((pid, number)))
    it._current = runs(Child("worker 0", lambda: None, pid=7), Child("control", lambda: None, pid=8, started=clock.now))
    it._watched_at = clock.now

    def moves(seconds, *, looks=True):
        clock.now += seconds
        if looks:
            it._watch_control()

    for _ in range(3):
        it._current.memory.beat[0] = int(clock.now * 1e6)
        moves(5.0)
    moves(30.0)
    assert not killed, "we were late as well"
    it._current.memory.beat[0] = int(clock.now * 1e6)
    moves(5.0)
    moves(5.0)
    assert not killed
    moves(5.0)
    assert killed == [(8, signal.SIGKILL)]
    assert said == ["control has not moved for 15 s, killed"]


def test_one_that_dies_young_again_and_again_is_started_ever_less_often(quiet):
    it, clock, said = quiet
    child = Child("worker 0", lambda: None)
    pauses = []
    for _ in range(8):
        child.started = clock.now
        clock.now += 0.5
        it._on_death(child, 256)
        pauses.append(child.start_at - clock.now)
        clock.now = child.start_at
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert said[:2] == [
        "worker 0 ended with status 1, starting another in 0.1 s",
        "worker 0 ended with status 1, starting another in 0.2 s",
    ]
    child.started = clock.now
    clock.now += 60
    it._on_death(child, 9)
    assert child.start_at == clock.now, "one that lived is replaced at once"
    assert said[-1] == "worker 0 killed by signal 9 (Killed), starting another"


def test_when_the_system_has_no_room_for_a_process_it_tries_again(quiet, monkeypatch):
    it, clock, said = quiet

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    child = Child("control", lambda: None)
    it._current = runs(child)
    monkeypatch.setattr(os, "fork", refuse)
    it._start_due()
    assert child.pid == 0
    assert said == ["control could not be started: Resource temporarily unavailable, starting another in 0.1 s"]
    assert it._until_next() == pytest.approx(0.1)
    it._start_due()
    assert len(said) == 1, "not before its time"
    clock.now += 0.1
    monkeypatch.setattr(it, "_fork", lambda _: 77)
    it._start_due()
    assert child.pid == 77
    assert it._until_next() == float("inf")


def test_children_of_others_are_none_of_its_business(start, tmp_path):
    """A shell's job that outlived its `exec`, orphans where it is process 1."""
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -9
    command = f"sleep 0.01 & sleep 60 & echo $! >{tmp_path}/stray; exec {sys.executable} -m balancer -c {it.file}"
    again = Process(["sh", "-c", command], cwd=tmp_path)
    try:
        until(lambda: is_bound(it.ports["port"]) and talks(it.ports["port"]), "it serves")
        stray = int((tmp_path / "stray").read_text())
        os.kill(stray, signal.SIGKILL)
        until(lambda: not zombies(again.pid) and not is_alive(stray), "it is reaped")
        assert not any("starting another" in line for line in again.out)
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


def test_a_signal_that_must_not_kill(running):
    """SIGHUP: their terminal is gone. To the supervisor it is a wish to reload."""
    for pid in running.process.children:
        os.kill(pid, signal.SIGHUP)
    assert talks(running.ports["port"])
    assert len(running.process.children) == 3
    assert not any("starting another" in line for line in running.log)


# End


def ends_well(running, within: float = 15) -> None:
    assert running.process.wait(within=within) == 0
    until(lambda: not members(running.process.pid), "no process is left")
    assert not is_bound(running.ports["port"]) and not is_bound(running.ports["udp"], udp=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_once_it_lets_what_is_in_flight_finish(running, number):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        # As a terminal does: to all of them.
        os.killpg(running.process.pid, number) if number == signal.SIGINT else running.process.signal(number)
        until(lambda: not is_bound(running.ports["port"]), "it accepts no more")
        assert not talks(running.ports["port"])
        client.sendall(b"two")
        assert client.recv(3) == b"two"
        # Until the last one has finished, servers are checked and statistics are shown.
        assert is_up(running)
    ends_well(running)
    running.wait_for_line("NOTICE: stopped")


def test_told_twice_it_ends_at_once(running):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        running.process.signal(signal.SIGTERM)
        until(lambda: not is_bound(running.ports["port"]), "it accepts no more")
        running.process.signal(signal.SIGINT)
        ends_well(running, within=5)


def test_a_frozen_worker_does_not_keep_it_from_ending(start):
    running = start(CONFIG.replace("20s", "300ms"))
    for pid in running.workers:
        os.kill(pid, signal.SIGSTOP)
    running.process.signal(signal.SIGTERM)
    ends_well(running, within=10)


def test_with_its_workers_gone_a_frozen_control_is_waited_for_no_longer(start):
    """Not for as long as connections would have been."""
    running = start()
    until(lambda: running.control, "control holds its socket")
    os.kill(running.control[0], signal.SIGSTOP)
    running.process.signal(signal.SIGTERM)
    ends_well(running, within=10)


def test_a_child_killed_during_the_stop_is_not_replaced(running):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        (control,) = running.control
        running.process.signal(signal.SIGTERM)
        until(lambda: not is_bound(running.ports["port"]), "it accepts no more")
        os.kill(control, signal.SIGKILL)
        client.sendall(b"two")
        assert client.recv(3) == b"two"
    ends_well(running)
    assert not any("starting another" in line for line in running.log)


def test_told_at_any_moment_of_its_start_it_leaves_nothing(start, tmp_path):
    """From before its handlers stand to when it serves."""
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -9
    for i, delay in enumerate((0.05, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8)):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        again = Process([sys.executable, "-m", "balancer", "-c", it.file], cwd=tmp_path)
        try:
            time.sleep(delay)
            os.killpg(again.pid, number)
            ended = again.wait(within=15)
            # What Python and its imports make of Ctrl-C before anything of ours runs.
            assert ended in (0, -number, 130, 1), again.said()
            assert not members(again.pid)
            assert not is_bound(it.ports["port"])
            if ended == 0:
                assert not any("Traceback" in line for line in (*again.err, *again.out)), again.said()
                assert not (tmp_path / "s.sock").exists()
        finally:
            again.end()


def test_kill_9_ends_all_and_it_starts_again_at_once(running):
    clients = [socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) for _ in range(20)]
    for client in clients:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    children = list(running.process.children)
    running.process.signal(signal.SIGKILL)
    running.process.wait()
    running.expected_status = -9
    until(lambda: not any(map(is_alive, children)), "its children die with it", within=2)
    for client in clients:
        client.close()
    again = Process([sys.executable, "-m", "balancer", "-c", running.file], cwd=running.file.parent)
    try:
        until(lambda: is_bound(running.ports["port"]) and talks(running.ports["port"]), "it serves")
        assert Path(running.config["frontends"]["f"]["bind"][1]).is_socket()
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    finally:
        again.end()


def test_the_socket_file_is_removed_at_the_end(running):
    path = Path(running.config["frontends"]["f"]["bind"][1])
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
    running.process.signal(signal.SIGTERM)
    ends_well(running)
    assert not path.exists()


# A child that fails


def test_a_child_that_fails_says_why_in_one_line(quiet, monkeypatch):
    it, _, said = quiet
    ended = []

    def leave(status):
        ended.append(status)
        raise SystemExit

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "_exit", leave)
    for name in ("set_wakeup_fd", "signal", "pthread_sigmask"):
        monkeypatch.setattr(signal, name, lambda *_: None)
    monkeypatch.setattr(supervisor.privileges, "drop", lambda _: None)
    monkeypatch.setattr(supervisor.privileges, "die_with_parent", lambda _: None)
    it._identity = None
    it._pipe = socket.socketpair()
    it._selector = it._pipe[0]
    for main, text in (
        (fail, "control: [Errno 28] No space left on device"),
        (lambda: {}["x"], "control: KeyError: 'x' ("),
    ):
        with pytest.raises(SystemExit):
            it._be(Child("control", main), os.getppid())
        assert said[-1].startswith(text)
        assert "\n" not in said[-1]
    assert ended == [1, 1]


# Virtual routers

SPEAKING = """
global: {workers: 2, hard_stop_after: 5s, log: {target: stdout}, runtime_socket: {path: FOLDER/run/admin.sock}}
frontends:
  f: {mode: tcp, bind: "127.0.0.1:8000", default_backend: b}
backends:
  b: {servers: {s: {address: "127.0.0.1:9"}}}
stats: {bind: FOLDER/stats.sock, metrics: /metrics}
vrrp:
  instances:
    VI:
      interface: eth0
      virtual_router_id: 51
      version: 3
      advert_int: 100ms
      priority: 100
      virtual_ipaddress: 192.0.2.200
      notify: FOLDER/notify
"""
WIRE = """\
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip link set eth0 up
ip address add 192.0.2.1/24 dev eth0
exec "$@"
"""


class Speaking:
    """The daemon on a host of its own, with one network card."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.file = folder / "balancer.yaml"
        self.file.write_text(text.replace("FOLDER", str(folder)))
        notify = folder / "notify"
        # Late on purpose: nobody may wait for it.
        notify.write_text(f'#!/bin/sh\n[ "$3" = STOP ] && sleep 1\necho "$@" >>{folder}/notified\n')
        notify.chmod(0o755)
        self.process = Process(["unshare", "--net", "sh", "-ec", WIRE, "sh", COMMAND, "-c", self.file], cwd=folder)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(*words, "-c", self.file)

    def says(self, text: str, *words: str) -> bool:
        return text in self.ask(*words).stdout

    def metrics(self) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.folder / "stats.sock"))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return answer.decode()

    def metric(self, name: str, **labels: str) -> float:
        wanted = [
            line for line in self.metrics().splitlines()
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items())
        ]  # fmt: skip
        return float(wanted[0].rpartition(" ")[2])

    @property
    def notified(self) -> list[str]:
        try:
            return (self.folder / "notified").read_text().splitlines()
        except FileNotFoundError:
            return []


@pytest.fixture
def speaking(tmp_path):
    """speaking(change…): the daemon as master, unless `wait` is false. At the end it stops as it should."""
    made = []

    def start(*changes, wait=True):
        text = SPEAKING
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        it = Speaking(tmp_path, text)
        made.append(it)
        if wait:
            it.process.wait_for_line("(VI) Entering MASTER STATE")
            it.process.wait_until(lambda: it.says("VI  MASTER", "why"), "it says why")
        return it

    yield start
    for it in made:
        if it.process.status is None:
            it.process.signal(signal.SIGTERM)
            assert it.process.wait() == 0, it.process.said()
        it.process.end()
        assert "Traceback" not in it.process.said()


alone = pytest.mark.skipif(why_not() != "", reason=why_not())


@alone
def test_it_tells_why_and_takes_orders(speaking):
    it = speaking()
    why = it.ask("why", "VI")
    assert (why.returncode, why.stderr) == (0, "")
    assert [line.split() for line in why.stdout.splitlines()[1:4]] == [
        ["100", "priority"], ["----"], ["100", "effective", "priority"],
    ]  # fmt: skip
    state = {"iname": "VI", "ip_address": "192.0.2.200"}
    assert it.metric("keepalived_vrrp_state", **state) == 2
    assert it.metric("keepalived_advertisements_sent_total", iname="VI") > 0
    seen = len(it.process.out)
    done = it.ask("vrrp", "release", "VI", "--for", "30s")
    assert (done.returncode, done.stderr) == (0, "") and "VI" in done.stdout
    it.process.wait_for_line("(VI) Entering BACKUP STATE: released", after=seen)
    assert it.ask("vrrp", "hold").returncode == 0
    until(lambda: it.says("VI  MASTER", "why") and it.metric("keepalived_vrrp_state", **state) == 2, "it is back")
    unknown = it.ask("vrrp", "release", "VX")
    assert (unknown.returncode, unknown.stdout) == (1, "") and "VX" in unknown.stderr
    # Who takes the place of a dead control finds it all.
    (control,) = [pid for pid in it.process.children if _is_control(pid)]
    os.kill(control, signal.SIGKILL)
    until(lambda: it.says("VI  MASTER", "why") and it.ask("vrrp", "hold").returncode == 0, "the next one knows too")


def _reload(it, change=lambda text: text) -> str:
    """What was said of it."""
    it.file.write_text(change(it.file.read_text()))
    seen = len(it.process.out)
    it.process.signal(signal.SIGHUP)
    return it.process.wait_for_line("reloaded: ", after=seen)


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
        assert "3000 servers added" in _reload(it, lambda text: text.replace(one, one + more))
        for _ in range(3):
            _reload(it)
        assert "3000 servers removed" in _reload(it, lambda text: text.replace(more, ""))
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
        _reload(it)
        assert it.says("VI  MASTER", "why")
        seen = len(it.process.out)
        assert it.ask("vrrp", "release", "VI", "--for", "30s").returncode == 0
        it.process.wait_for_line("(VI) Entering BACKUP STATE: released", after=seen)
        assert it.ask("vrrp", "hold").returncode == 0
        it.process.wait_for_line("(VI) Entering MASTER STATE", after=seen)


@alone
def test_virtual_routers_are_not_reloaded(speaking):
    it = speaking()
    it.file.write_text(it.file.read_text().replace("priority: 100", "priority: 90"))
    it.process.signal(signal.SIGHUP)
    it.process.wait_for_line("ERR: vrrp: what is changed there needs a restart")
    it.process.wait_for_line("is not loaded, all goes on as before")
    assert it.says("VI  MASTER", "why")


def socket_in(pid: int, *kind: int) -> socket.socket:
    """A socket in the network namespace of a process."""
    with Path("/proc/self/ns/net").open() as own, Path(f"/proc/{pid}/ns/net").open() as its:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(its.fileno(), 0x40000000) == 0
        try:
            return socket.socket(kind[0], kind[1], socket.htons(kind[2]))
        finally:
            assert libc.setns(own.fileno(), 0x40000000) == 0


def _is_control(pid: int) -> bool:
    """It listens where commands come."""
    listening = _unix_sockets(pid, kind="0001")
    return bool(listening & set(descriptors(pid)))


def _unix_sockets(pid: int, *, kind: str) -> set[str]:
    """Those of a type that are bound to a path, or the ends of a pair (proc(5): SOCK_STREAM is 0001)."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return {
        f"socket:[{row[6]}]" for row in rows
        if row[4] == kind and (row[7:] and row[7].endswith("admin.sock") if kind == "0001" else not row[7:])
    }  # fmt: skip


@alone
def test_a_frozen_supervisor_is_not_taken_at_its_word_and_does_no_order_later(speaking):
    it = speaking()
    os.kill(it.process.pid, signal.SIGSTOP)
    try:
        told = it.ask("vrrp", "release", "VI", "--for", "1h")
        assert (told.returncode, told.stdout) == (1, "")
        assert "The supervisor does not answer; the order has expired." in told.stderr
        until(lambda: it.says("The supervisor has been silent for", "why"), "it is noticed")
        assert it.says("The supervisor has been silent for", "vrrp", "show")
        metrics = it.metrics()
        assert "\nkeepalived_up 0\n" in metrics and "keepalived_vrrp_state" not in metrics
    finally:
        os.kill(it.process.pid, signal.SIGCONT)
    # Orders are taken in their turn.
    assert it.ask("vrrp", "hold").returncode == 0
    until(lambda: it.says("VI  MASTER", "why") and "\nkeepalived_up 1\n" in it.metrics(), "it goes on")
    assert not it.says("silent", "why")
    assert "released" not in it.process.said()


@alone
def test_the_line_to_the_supervisor_is_controls_alone(speaking):
    it = speaking()
    line = _unix_sockets(it.process.pid, kind="0005")
    children = list(it.process.children)
    assert len(children) == 3
    held = {pid: len(line & set(descriptors(pid))) for pid in (it.process.pid, *children)}
    (control,) = [pid for pid in children if _is_control(pid)]
    assert held == {it.process.pid: 2} | dict.fromkeys(children, 0) | {control: 1}


@alone
def test_workers_that_hang_cost_the_priority(speaking):
    it = speaking()
    workers = [pid for pid in it.process.children if not _is_control(pid)]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 1, "it would leave the addresses")
    assert it.says("-254  workers: no worker serves here", "why")
    os.kill(workers[0], signal.SIGCONT)
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 100, "one is enough")
    os.kill(workers[1], signal.SIGCONT)


@alone
def test_programs_that_are_told_of_the_end_are_waited_for(speaking):
    """A service manager kills what is left when the daemon is gone."""
    it = speaking()
    until(lambda: "INSTANCE VI MASTER 100" in it.notified, "it was told")
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert it.notified[-1] == "INSTANCE VI STOP 100"
    assert not (it.folder / "run" / "admin.sock").exists()
    assert it.ask("why").stderr.startswith(f"pybalancer does not run here ({it.folder}/run/admin.sock: ")


@alone
def test_programs_that_hang_are_waited_for_no_longer_than_that(speaking, tmp_path):
    (tmp_path / "hang").write_text("#!/bin/sh\necho $$ >hung\nexec sleep 60\n".replace("hung", f"{tmp_path}/hung"))
    (tmp_path / "hang").chmod(0o755)
    it = speaking(("notify: FOLDER/notify", "notify_stop: FOLDER/hang"))
    began = time.monotonic()
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert 4.5 < time.monotonic() - began < 15
    os.kill(int((tmp_path / "hung").read_text()), signal.SIGKILL)


@alone
def test_a_second_signal_while_it_stops_does_no_harm(speaking):
    it = speaking()
    it.process.signal(signal.SIGTERM)
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert sum("Entering STOPPED STATE" in line for line in it.process.out) == 1


@alone
def test_scripts_of_a_user_that_is_not_there(speaking):
    it = speaking(("vrrp:\n", "vrrp:\n  script_user: nosuchuser\n"), wait=False)
    assert it.process.wait() == 1
    assert it.process.err == [
        "vrrp.script_user: there is no user 'nosuchuser'; create it with: useradd --system --user-group nosuchuser"
    ]


class Mute:
    """A speaker that has news when the test says, and does as it is told."""

    due = float("inf")

    def __init__(self) -> None:
        self.has_news = False
        self.told = self.held = self.stopped = 0
        self.ends: list[tuple[int, int]] = []

    def standing(self) -> Standing:
        self.has_news = False
        self.told += 1
        return Standing(at=float(self.told))

    def hold(self, name: str | None) -> list[str]:
        self.held += 1
        return []

    def stop(self) -> None:
        self.stopped += 1

    def ended(self, pid: int, status: int) -> bool:
        self.ends.append((pid, status))
        return True


@pytest.fixture
def beside(quiet, plan, memory):
    """A supervisor with a speaker of that kind, and its clock."""
    it, clock, _ = quiet
    vrrp = {"instances": {"VI": {"interface": "eth0", "virtual_router_id": 1, "virtual_ipaddress": "192.0.2.200"}}}
    it._current = runs()
    it._current.memory = memory(plan({"vrrp": vrrp}))
    it._speaker = Mute()
    it._selector = selectors.DefaultSelector()
    read, write = os.pipe()
    it._speaker.fileno = lambda: read
    it._selector.register(it._speaker, selectors.EVENT_READ)
    it._selector.register(it._current.memory.line.supervisor, selectors.EVENT_READ)
    yield it, clock, it._speaker
    it._selector.close()
    os.close(read)
    os.close(write)


def test_news_are_told_at_most_five_times_a_second(beside):
    it, clock, speaker = beside
    told = []
    for _ in range(100):
        clock.now += 0.01
        speaker.has_news = True
        it._tell_control(speaker)
        told.append(speaker.told)
    assert speaker.told == 5
    assert told[0] == 1, "the first at once"
    assert it._until_next() == pytest.approx(it._told_at + 0.2 - clock.now)
    clock.now += 0.2
    it._tell_control(speaker)
    assert routers.look(it._current.memory.notice) == Standing(at=6.0)
    assert it._until_next() == float("inf"), "no news is no reason to wake up"


def test_the_end_is_told_whatever_was_told_just_before_and_comes_once(beside):
    it, _, speaker = beside
    speaker.has_news = True
    it._tell_control(speaker)
    for _ in range(2):
        it._fall_silent()
    assert (speaker.stopped, speaker.told) == (1, 2)
    assert routers.look(it._current.memory.notice) == Standing(at=2.0)
    assert it._speaker is None


@pytest.mark.parametrize("is_flooded", [False, True])
def test_after_the_end_an_order_wakes_nobody(beside, is_flooded):
    it, _, speaker = beside
    line = it._current.memory.line
    if is_flooded:
        line.control.send(b"{}")
        it._take_orders(speaker)
    it._fall_silent()
    line.control.send(b"{}")
    assert it._selector.select(0) == []


def test_control_cannot_keep_it_from_speaking(beside):
    """However much it asks for."""
    it, clock, speaker = beside
    line = it._current.memory.line
    packet = json.dumps({"id": 1, "order": "hold", "name": None, "until": time.monotonic() + 4.0}).encode()
    turns = 0
    end = clock.now + 1
    while clock.now < end:
        with contextlib.suppress(BlockingIOError):
            while True:
                line.control.send(packet)
        wakes = bool(it._selector.select(0))
        if wakes:
            it._take_orders(speaker)
            turns += 1
        else:
            clock.now += max(it._until_next(), 0.001)
            it._take_orders(speaker)
    assert turns <= 20 and 0 < speaker.held <= 100


def test_children_that_are_not_its_own_are_the_speakers(beside):
    it, _, speaker = beside
    own, script = Child("worker 0", lambda: None, number=0), os.fork()
    if not script:
        os._exit(3)
    it._current.children = [own]
    until(lambda: it._reap() or speaker.ends, "it was reaped")
    assert speaker.ends == [(script, 3 << 8)]
    it._fall_silent()
    late = os.fork()
    if not late:
        os._exit(0)
    # Started as we stopped.
    until(lambda: it._reap() or not is_alive(late), "it was reaped")
    assert speaker.ends[1:] == [(late, 0)]
