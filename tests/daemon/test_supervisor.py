from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from balancer.config.model import Config
from balancer.daemon import supervisor
from balancer.daemon.generation import Child
from balancer.daemon.supervisor import Supervisor
from tests.daemon.conftest import as_root, talks
from tests.daemon.whole import CONFIG, alone, ends_well, status, zombies
from tests.e2e.bed.process import Process, is_alive, is_bound, until
from tests.e2e.bed.pybalancer import run

# Start


def test_it_starts_what_it_says(running):
    until(lambda: (len(running.workers), len(running.control)) == (2, 1), "each holds its sockets")
    running.wait_for_line("NOTICE: pybalancer starts, 2 workers")


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
         r"log target udp://[^ ]+: no address found for nowhere\.invalid; write an address or mend the name"),
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


@alone
def test_scripts_of_a_user_that_is_not_there(speaking):
    it = speaking(("vrrp:\n", "vrrp:\n  script_user: nosuchuser\n"), wait=False)
    assert it.process.wait() == 1
    assert it.process.err == [
        "vrrp.script_user: there is no user 'nosuchuser'; create it with: useradd --system --user-group nosuchuser"
    ]


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


# The loop


@pytest.fixture
def quiet():
    """A supervisor that was not started, and what it says."""
    front = {"mode": "tcp", "bind": "127.0.0.1:1", "default_backend": "b"}
    backends = {"b": {"servers": {"s": {"address": "127.0.0.1:9"}}}}
    it, said = Supervisor(Config.model_validate({"frontends": {"f": front}, "backends": backends}, strict=False)), []
    it._events = SimpleNamespace(say=lambda _, text: said.append(text))
    it._lineage = SimpleNamespace(current=None)
    return it, said


def test_one_that_hangs_is_killed(quiet, monkeypatch):
    it, said = quiet
    killed = []
    monkeypatch.setattr(supervisor.os, "kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setattr(it._watch, "look", lambda *_: [(Child("control", lambda: None, pid=8), 15.1)])
    it._see_who_hangs()
    assert killed == [(8, signal.SIGKILL)]
    assert said == ["control has not moved for 15 s, killed"]


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


@pytest.mark.parametrize("whose", ["_children", "_changeover", "_upgrading", "_speaking"])
def test_who_has_ended_is_seen_to_by_whoever_has_it(quiet, whose):
    """What nobody else knows is the speaker's."""
    it, _ = quiet
    told = []
    parts = ["_children", "_changeover", "_upgrading", "_speaking"]
    for part in parts:
        setattr(it, part, SimpleNamespace(ended=lambda pid, *_, part=part: told.append((part, pid)) or part == whose))
    ended = os.fork()
    if not ended:
        os._exit(3)
    until(lambda: it._reap() or told, "it was reaped")
    assert told == [(part, ended) for part in parts[: parts.index(whose) + 1]]


def test_a_changeover_comes_to_nothing_rather_than_that_another_is_started(quiet):
    it, _ = quiet
    one, other = Child("worker 0", lambda: None), Child("worker 1", lambda: None)
    started = []
    it._changeover = SimpleNamespace(is_ended_by=lambda child, _: child is one)
    it._children = SimpleNamespace(start_later=lambda child, why: started.append((child, why)))
    it._make_up_for(one, "died")
    it._make_up_for(other, "died too")
    assert started == [(other, "died too")]


# The end


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
