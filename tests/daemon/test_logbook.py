"""Where overrides are kept: another daemon, a bad file, a full disk, somebody else's directory."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balancer.daemon.logbook import Logbook, LogbookError, Refusal, Storage
from balancer.pool.overrides import Override, encode
from tests.daemon.conftest import as_root

DRAIN = Override(("web", "web1"), "state", "drain", "ready", "root", 1.0, "disk", 5.0)


@pytest.fixture
def book() -> Iterator[Callable[..., Logbook]]:
    made: list[Logbook] = []

    def make(storage: Storage | None = None) -> Logbook:
        made.append(Logbook(storage))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Place:
    """A directory that is not there yet, and whoever uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[Storage] = []

    def names(self) -> list[str]:
        return [each.name for each in self.path.iterdir()]

    def __call__(self, owner: tuple[int, int] | None = None, path: Path | None = None) -> Storage:
        self.made.append(Storage(str(path or self.path), owner))
        return self.made[-1]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "a" / "state")
    yield place
    for each in place.made:
        each.close()


def test_what_was_kept_is_there_after_a_restart(storage: Place, book) -> None:
    first = storage()
    assert first.load() == {} and first.problems == []
    first.save(encode([DRAIN]))
    first.close()
    second = storage()
    assert book(second).read() == {DRAIN.key: DRAIN}
    assert stat.S_IMODE((storage.path / "overrides.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(storage.path.stat().st_mode) == 0o700
    assert storage.names() == ["overrides.json"]


def test_others_see_at_once_what_is_written(book) -> None:
    logbook = book()
    assert logbook.read() == {} and not logbook.was_written
    if not (pid := os.fork()):
        logbook.write(encode([DRAIN]))
        os._exit(0)
    os.waitpid(pid, 0)
    assert logbook.read() == {DRAIN.key: DRAIN} and logbook.was_written


def test_too_much_is_refused_and_what_was_there_stays(book) -> None:
    logbook = book()
    logbook.write(encode([DRAIN]))
    with pytest.raises(LogbookError, match="too many runtime changes"):
        logbook.write(b"x" * (17 << 20))
    assert logbook.read() == {DRAIN.key: DRAIN}


@pytest.mark.parametrize("octets", [b"", b"\0" * 4096, b"{", b'{"version": 9, "overrides": []}', b" " * (17 << 20)])
def test_a_bad_file_is_set_aside(storage: Place, octets: bytes) -> None:
    storage.path.mkdir(parents=True)
    (storage.path / "overrides.json").write_bytes(octets)
    found = storage()
    assert found.load() == {}
    (problem,) = found.problems
    assert "overrides.json cannot be understood (" in problem and problem.endswith("overrides.json.bad now")
    assert storage.names() == ["overrides.json.bad"]
    found.save(encode([DRAIN]))
    assert found.load() == {DRAIN.key: DRAIN}


@pytest.mark.parametrize("kind", ["directory", "pipe", "link"])
def test_what_is_no_file_is_not_read(storage: Place, kind: str) -> None:
    storage.path.mkdir(parents=True)
    path = storage.path / "overrides.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/passwd")
    found = storage()
    assert found.load() == {}
    assert len(found.problems) == 1 and "cannot be read" in found.problems[0]


def test_one_daemon_at_a_time(storage: Place) -> None:
    storage()
    with pytest.raises(LogbookError, match="in use by another pybalancer; each needs its own"):
        storage()


def test_a_place_that_cannot_be_is_told(storage: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogbookError, match="cannot be opened: Not a directory"):
        storage(path=tmp_path / "file" / "state")


def test_a_full_disk_leaves_what_was_there(storage: Place) -> None:
    found = storage()
    found.save(encode([DRAIN]))
    before = (storage.path / "overrides.json").read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from balancer.daemon.logbook import LogbookError, Storage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "storage = Storage(sys.argv[1], None)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: storage.save(b'x' * 1000)\n"
        "except LogbookError as error: print(error)\n"
    )
    found.close()
    done = subprocess.run([sys.executable, "-c", code, storage.path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{storage.path}/overrides.json cannot be written: File too large\n"
    assert (storage.path / "overrides.json").read_bytes() == before
    assert storage.names() == ["overrides.json"]
    storage()


@as_root
def test_a_directory_is_given_to_whom_control_runs_as_if_nothing_else_is_there(storage: Place) -> None:
    """As systemd makes it: root's. One that has other things in it, or is open to others, stays whose it is."""
    storage.path.mkdir(parents=True)
    nobody = (65534, 65534)
    (storage.path / "other").write_text("")
    storage(nobody).close()
    assert storage.path.stat().st_uid == 0
    (storage.path / "other").unlink()
    storage.path.chmod(0o777)
    storage(nobody).close()
    assert storage.path.stat().st_uid == 0
    storage.path.chmod(0o700)
    storage(nobody)
    assert storage.path.stat().st_uid == nobody[0]


@as_root
def test_who_may_not_write_there_is_told(storage: Place, tmp_path: Path) -> None:
    found = storage()
    if not (pid := os.fork()):
        os.setresuid(65534, 65534, 65534)
        try:
            found.save(b"")
        except LogbookError as error:
            os._exit(0 if "Permission denied; it has to be of the user that control runs as" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_wishes_and_what_comes_of_them(book) -> None:
    logbook = book()
    assert not logbook.is_asked() and logbook.refused() is None
    assert [logbook.ask(), logbook.ask(), logbook.wish] == [1, 2, 2]
    assert logbook.is_asked() and not logbook.is_asked(), "once for both"
    logbook.refuse(Refusal(2, "ü" * 20_000))
    refusal = logbook.refused()
    assert refusal is not None and refusal.wish == 2 and 400 < len(refusal.why) < 20_000
    assert logbook.refused() is None
    logbook.close()
    logbook.close()


def test_a_client_is_left_to_whoever_comes_after(book) -> None:
    logbook = book()
    ours, theirs = socket.socketpair()
    assert logbook.inherit() is None
    assert logbook.bequeath(ours.fileno(), b"state")
    assert not logbook.bequeath(ours.fileno(), b"x" * (1 << 20))
    ours.close()
    found = logbook.inherit()
    assert found is not None and found[1] == b"state" and logbook.inherit() is None
    with socket.socket(fileno=found[0]) as again, theirs:
        again.sendall(b"hello")
        assert theirs.recv(5) == b"hello"
    logbook.close()
