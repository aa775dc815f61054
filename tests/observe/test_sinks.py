from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.config import model
from balancer.errors import StartError
from balancer.observe import sinks
from balancer.observe.sinks import Level, Message, Sink, open_sink

NOW = 1_795_342_271.0


def sink(target: str, *, stdout: int = 1, devlog: str = "/dev/null/none", facility: str = "local0") -> Sink:
    config = model.Log.model_validate({"target": target, "facility": facility})
    return open_sink(config, lambda: NOW, stdout=stdout, devlog=devlog)


def messages(count: int, text: str = "hello") -> list[Message]:
    return [Message(Level.INFO, f"{text} {i}") for i in range(count)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno == errno.EBADF


@pytest.fixture
def local(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        yield sock, path


def drain(fd: int) -> bytes:
    os.set_blocking(fd, False)
    got = b""
    try:
        while chunk := os.read(fd, 65536):
            got += chunk
    except BlockingIOError:
        pass
    return got


# Pipes and files


def test_lines_go_down_a_pipe_whose_mode_stays_as_it_was(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    out = sink("stdout", stdout=writer)
    assert out.send(messages(3)) == 3
    assert os.get_blocking(writer)
    assert drain(reader) == b"hello 0\nhello 1\nhello 2\n"
    out.close()


@pytest.mark.parametrize("proc", [True, False])
def test_a_pipe_that_nobody_reads_stops_nobody(
    pipe: tuple[int, int], proc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    if not proc:
        monkeypatch.setattr(os, "open", refuse)
    out = sink("stdout", stdout=writer)
    monkeypatch.undo()
    sent = 0
    while (done := out.send(messages(100, "x" * 200))) == 100:
        sent += done
        assert sent < 10_000
    sent += done
    assert out.send(messages(10)) == 0
    assert out.lost == 0
    got = drain(reader)
    assert got.count(b"\n") == sent and got.endswith(b"\n")
    assert out.send(messages(10)) == 10
    assert drain(reader).splitlines() == [b"hello %d" % i for i in range(10)]
    out.close()


def refuse(*_: object) -> int:
    raise PermissionError(errno.EACCES, "no /proc here")


def test_several_writers_of_one_pipe_do_not_mix_their_lines(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    got: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 65536):
            got.append(chunk)

    def write(letter: str) -> None:
        out = sink("stdout", stdout=writer)
        left = messages(300, letter * 300)
        while left:
            left = left[out.send(left) :]
        out.close()

    reading = threading.Thread(target=read)
    writing = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in (reading, *writing):
        thread.start()
    for thread in writing:
        thread.join()
    os.close(writer)
    reading.join()
    lines = b"".join(got).splitlines()
    assert len(lines) == 600
    assert all(len(set(line.split()[0])) == 1 for line in lines)


def test_a_reader_that_is_gone_costs_only_the_lines(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    out = sink("stdout", stdout=writer)
    os.close(reader)
    assert out.send(messages(5)) == 5
    assert out.lost == 5
    out.close()


def test_a_file_takes_everything(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        out = sink("stdout", stdout=file.fileno())
        assert out.send(messages(5000)) == 5000
        out.close()
    assert path.read_bytes().splitlines() == [b"hello %d" % i for i in range(5000)]


def test_a_full_disk_loses_lines_and_counts_them() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    out = sink("stdout", stdout=full)
    assert out.send(messages(500)) == 500
    assert out.lost == 500
    out.close()
    os.close(full)


def test_a_line_cut_off_by_a_full_disk_ends_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    write = os.write
    room = 12

    def limited(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(fd, data[:room])
        room -= taken
        return taken

    with path.open("wb") as file:
        out = sink("stdout", stdout=file.fileno())
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", limited)
            assert out.send(messages(3)) == 3
        assert out.send([Message(Level.INFO, "room again")]) == 1
        out.close()
    assert path.read_bytes() == b"hello 0\nhell\nroom again\n"


def test_a_stream_socket_is_written_without_waiting() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        out = sink("stdout", stdout=ours.fileno())
        sent: list[Message] = []
        batch = messages(1000, "y" * 100)
        while (done := out.send(batch)) == len(batch):
            sent += batch
        sent += batch[:done]
        assert ours.getblocking()
        theirs.setblocking(False)
        got = b""
        # What was taken over and cut in the middle is finished first.
        for last in (False, True):
            try:
                while chunk := theirs.recv(1 << 20):
                    got += chunk
            except BlockingIOError:
                pass
            if not last:
                assert out.send([Message(Level.INFO, "end")]) == 1
        assert got.decode().splitlines() == [message.text for message in sent] + ["end"]
        out.close()


def test_an_overlong_line_is_cut_to_what_a_pipe_takes_at_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    out = sink("stdout", stdout=writer)
    assert out.send([Message(Level.INFO, "z" * 10_000), Message(Level.INFO, "next")]) == 2
    first, second = drain(reader).splitlines()
    assert (len(first) + 1, second) == (4096, b"next")
    out.close()


# syslog


def test_a_local_message_has_priority_date_and_tag(local: tuple[socket.socket, str], monkeypatch) -> None:
    sock, path = local
    monkeypatch.setattr(sinks, "rfc3164_date", lambda at: "Nov 22 10:11:11")
    out = sink("syslog", devlog=path)
    out.send([Message(Level.INFO, "one"), Message(Level.ERR, "tw\u00f6")])
    tag = f"Nov 22 10:11:11 pybalancer[{os.getpid()}]: "
    assert sock.recv(9000).decode() == f"<134>{tag}one"
    assert sock.recv(9000).decode() == f"<131>{tag}tw\u00f6"
    out.close()


@pytest.mark.parametrize(
    ("facility", "level", "priority"),
    [("kern", Level.EMERG, 0), ("daemon", Level.WARNING, 28), ("ftp", Level.DEBUG, 95), ("local7", Level.DEBUG, 191)],
)
def test_priorities_are_rfc_5424s(local: tuple[socket.socket, str], facility: str, level: Level, priority: int) -> None:
    sock, path = local
    out = sink("syslog", devlog=path, facility=facility)
    out.send([Message(level, "x")])
    assert sock.recv(9000).startswith(b"<%d>" % priority)
    out.close()


def test_a_syslog_that_restarts_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    out = sink("syslog", devlog=path)
    assert out.send(messages(3)) == 3
    assert out.lost == 3  # nobody there yet
    for turn in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            sock.settimeout(5)
            assert out.send(messages(2, f"turn {turn}")) == 2
            assert sock.recv(9000).endswith(b"turn %d 0" % turn)
            assert sock.recv(9000).endswith(b"turn %d 1" % turn)
        Path(path).unlink()
    assert out.lost == 3
    assert out.send(messages(4)) == 4
    assert out.lost == 7
    out.close()


def test_a_syslog_that_reads_nothing_stops_nobody(local: tuple[socket.socket, str]) -> None:
    sock, path = local
    out = sink("syslog", devlog=path)
    sent = 0
    while (done := out.send(messages(100))) == 100:
        sent += done
        assert sent < 100_000
    sent += done
    assert out.send(messages(5)) == 0
    assert out.lost == 0
    sock.setblocking(False)
    for _ in range(sent):
        sock.recv(9000)
    assert out.send(messages(5)) == 5
    out.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_remote_syslog_gets_datagrams(host: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    if host == "localhost":
        family = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((socket.getaddrinfo(host, 0, family=family)[0][4][0], 0))
        sock.settimeout(5)
        port = sock.getsockname()[1]
        out = sink(f"udp://[{host}]:{port}" if ":" in host else f"udp://{host}:{port}")
        assert out.send(messages(2)) == 2
        assert sock.recv(9000).endswith(b"hello 0")
        assert sock.recv(9000).endswith(b"hello 1")
        out.close()


def test_a_remote_syslog_that_is_down_loses_nothing_once_it_is_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    out = sink(f"udp://127.0.0.1:{port}")
    for _ in range(3):
        assert out.send(messages(10)) == 10
    assert 0 < out.lost <= 30
    lost = out.lost
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        sock.settimeout(5)
        assert out.send(messages(10)) == 10
        assert [sock.recv(9000)[-1:] for _ in range(10)] == [b"%d" % i for i in range(10)]
    assert out.lost <= lost + 1
    out.close()


def test_a_name_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StartError, match=r"udp://log\.example:514.*Name or service not known"):
        sink("udp://log.example:514")


def test_none_takes_and_forgets() -> None:
    out = sink("none")
    assert out.send(messages(7)) == 7
    assert out.lost == 0
    out.close()
