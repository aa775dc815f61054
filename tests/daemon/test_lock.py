from __future__ import annotations

import os
import signal
import socket
import stat
import time

import pytest

from balancer.daemon import lock
from balancer.daemon.lock import exclusive
from balancer.errors import StartError
from tests.daemon.conftest import as_root
from tests.vrrp.conftest import Net

pytestmark = as_root
NOBODY = 65534


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A network namespace, and a /run."""
    monkeypatch.setattr(lock, "_DIRECTORY", tmp_path / "run")
    net = Net()
    with net:
        yield
    net.close()


@pytest.fixture
def child():
    """child(work): a process that does this, says so, and waits for its end."""
    made = []

    def start(work):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                kept = work()
                os.write(writer, b"+")
                time.sleep(60)
                del kept
            finally:
                os._exit(0)
        os.close(writer)
        made.append(pid)
        with os.fdopen(reader, "rb", 0) as said:
            assert said.read(1) == b"+"
        return pid

    yield start
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def squat(*, listens: bool) -> socket.socket:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    taken.bind("\0pybalancer.kernel")
    if listens:
        taken.listen(0)
    return taken


def is_refused(said: str = "another pybalancer") -> bool:
    with pytest.raises(StartError, match=said):
        exclusive(patience=0.0).close()
    return True


def test_one_at_a_time(alone, child):
    with exclusive(patience=0.0):
        assert is_refused(rf"another pybalancer \(process {os.getpid()}\) has the rules of this network namespace")
    exclusive(patience=0.0).close()
    pid = child(exclusive)
    assert is_refused(rf"process {pid}\)")


def test_one_that_is_killed_lets_go(alone, child):
    pid = child(exclusive)
    os.kill(pid, signal.SIGKILL)
    exclusive().close()


def test_who_has_another_run_is_kept_away_too(alone, tmp_path, monkeypatch):
    with exclusive(patience=0.0):
        monkeypatch.setattr(lock, "_DIRECTORY", tmp_path / "other")
        assert is_refused("another pybalancer has the rules")
    exclusive(patience=0.0).close()


def test_another_namespace_is_another_affair(alone):
    net = Net()
    with exclusive(patience=0.0):
        with net:
            exclusive(patience=0.0).close()
        assert is_refused()
    net.close()


@pytest.mark.parametrize("listens", [False, True])
def test_who_is_not_root_keeps_nobody_away(alone, child, listens):
    child(lambda: squat(listens=listens))
    with exclusive(patience=0.0):
        assert is_refused(rf"process {os.getpid()}\)")


def test_only_root_can_open_the_file(alone, tmp_path):
    with exclusive(patience=0.0):
        (path,) = (tmp_path / "run").iterdir()
        status = path.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)


def test_a_file_that_is_not_ours(alone, tmp_path):
    exclusive(patience=0.0).close()
    (path,) = (tmp_path / "run").iterdir()
    os.chown(path, NOBODY, NOBODY)
    assert is_refused("is somebody else's: remove it")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert is_refused("cannot open .*/run/lock")
    assert not (tmp_path / "elsewhere").exists()


def test_when_the_kernel_does_not_say_whose_it_is_it_counts(alone, child, monkeypatch):
    child(lambda: squat(listens=True))
    monkeypatch.setattr(lock, "_user", lambda: None)
    assert is_refused()
