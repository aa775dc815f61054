from __future__ import annotations

import errno
import gc
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.config.logs import Log
from balancer.errors import StartError
from balancer.observe import sinks
from balancer.observe.sinks import Level, Message, Sink, open_sink, prepare
from balancer.pool.records import HttpRecord

NOW = 1_795_342_271.0


def sink(target: str, *, stdout: int = 1, devlog: str = "/dev/null/none", facility: str = "local0") -> Sink:
    config = Log.model_validate({"target": target, "facility": facility})
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


@pytest.mark.parametrize("target", ["stdout", "FOLDER/log", "/dev/null", "udp://127.0.0.1:9", "tcp://127.0.0.1:9"])
def test_nothing_of_one_that_is_closed_waits_for_a_collector(target: str, tmp_path: Path) -> None:
    """Each reload makes new ones, in a process that has frozen the old."""
    gc.disable()
    try:
        it = sink(target.replace("FOLDER", str(tmp_path)))
        gone = weakref.ref(it)
        it.send(messages(2))
        it.close()
        del it
        assert gone() is None
    finally:
        gc.enable()


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


# Headers, and journald

HTTP = HttpRecord(
    client="10.0.1.2", client_port=33317, began=NOW, frontend="http-in", backend="static", server="srv1",
    tr_request=10, tw=0, tc=30, tr_response=69, ta=109, status=200, bytes_read=2750, termination="--VN",
    actconn=4, feconn=3, beconn=2, srvconn=1, retries=0, redispatched=False, srv_queue=0, backend_queue=0,
    request_line=b"GET /\xff\n HTTP/1.1",
)  # fmt: skip


def test_the_newer_syslog_header_is_rfc_5424s(local: tuple[socket.socket, str], monkeypatch) -> None:
    sock, path = local
    monkeypatch.setattr(socket, "gethostname", lambda: "lb 1\n")
    out = open_sink(Log(target="syslog", header="rfc5424"), lambda: NOW + 0.25, devlog=path)
    out.send([Message(Level.NOTICE, "one")])
    expected = f"<133>1 2026-11-22T10:11:11.250Z lb1 pybalancer {os.getpid()} - - one"
    assert sock.recv(9000).decode() == expected
    out.close()


def test_a_message_is_cut_where_it_is_asked_to_be(local: tuple[socket.socket, str]) -> None:
    sock, path = local
    out = open_sink(Log(target=f"unix:{path}", len=100), lambda: NOW)
    out.send([Message(Level.INFO, "x" * 200)])
    assert len(sock.recv(9000)) == 100
    out.close()
    # JSON that is cut is none.
    out = open_sink(Log(target=f"unix:{path}", len=100, format="json"), lambda: NOW)
    out.send([Message(Level.INFO, "x" * 200)])
    assert len(sock.recv(9000)) > 200
    out.close()


def test_journald_gets_the_fields_of_a_record(local: tuple[socket.socket, str]) -> None:
    sock, path = local
    out = open_sink(Log(target="journald", facility="daemon"), lambda: NOW, journal=path)
    out.send([Message(Level.INFO, "a line", HTTP), Message(Level.ALERT, "b has no server")])
    first, second = (sock.recv(9000).decode().splitlines() for _ in range(2))
    fields = dict(line.split("=", 1) for line in first)
    assert fields["MESSAGE"] == "a line"
    assert (fields["PRIORITY"], fields["SYSLOG_FACILITY"]) == ("6", "3")
    assert (fields["SYSLOG_IDENTIFIER"], fields["SYSLOG_PID"]) == ("pybalancer", str(os.getpid()))
    assert fields["PYBALANCER_TYPE"] == "http"
    assert (fields["PYBALANCER_STATUS"], fields["PYBALANCER_TERMINATION"]) == ("200", "--VN")
    assert fields["PYBALANCER_BEGAN"] == "2026-11-22T10:11:11.000Z"
    assert fields["PYBALANCER_REQUEST_LINE"] == "GET /#FF#0A HTTP/1.1"
    assert "PYBALANCER_WHY" not in fields
    # systemd.journal-fields(7): capital letters, digits and underscores.
    assert all(re.fullmatch("[A-Z][A-Z0-9_]{0,63}", name) for name in fields)
    assert second[:2] == ["MESSAGE=b has no server", "PRIORITY=1"]
    out.close()


# A connection


def frames(data: bytes) -> list[bytes]:
    """RFC 6587 section 3.4.1."""
    found = []
    while data:
        size, _, data = data.partition(b" ")
        found.append(data[: int(size)])
        data = data[int(size) :]
    return found


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock()


def connection(port: int, clock: Clock) -> Sink:
    encode = sinks._syslog(Log(target="tcp://x:1"), lambda: NOW)
    return sinks._Connection(socket.AF_INET, ("127.0.0.1", port), encode, clock)


def until_sent(out: Sink, batch: list[Message], clock: Clock) -> None:
    deadline = time.monotonic() + 5
    while batch:
        batch = batch[out.send(batch) :]
        clock.now += 20
        assert time.monotonic() < deadline


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_messages_have_their_length_before_them(family: int, clock: Clock) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        server.settimeout(5)
        name = f"[{host}]" if ":" in host else host
        out = open_sink(Log(target=f"tcp://{name}:{server.getsockname()[1]}"), lambda: NOW)
        until_sent(out, [*messages(40), Message(Level.ERR, "tw\u00f6\nlines")], clock)
        peer, _ = server.accept()
        with peer:
            out.close()
            found = frames(b"".join(iter(lambda: peer.recv(65536), b"")))
    assert [each.rpartition(b" - - ")[2] for each in found[:-1]] == [b"hello %d" % i for i in range(40)]
    assert found[0].startswith(b"<134>1 2026-11-22T10:11:11.000Z ")
    assert found[-1].startswith(b"<131>1 ") and found[-1].endswith("tw\u00f6\nlines".encode())
    assert out.lost == 0


def test_messages_wait_for_a_receiver_that_is_away(clock: Clock) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        out = connection(server.getsockname()[1], clock)
        for _ in range(3):
            assert out.send(messages(3)) == 0
            clock.now += 20
        server.listen()
        server.settimeout(5)
        until_sent(out, messages(3), clock)
        peer, _ = server.accept()
        with peer:
            assert len(frames(peer.recv(65536))) == 3
        # It restarts: what comes now is for the next one.
        clock.now += 20
        until_sent(out, messages(2), clock)
        peer, _ = server.accept()
        with peer:
            assert len(frames(peer.recv(65536))) == 2
    assert out.lost == 0
    out.close()


def test_a_receiver_that_reads_nothing_stops_nobody(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = connection(server.getsockname()[1], clock)
        until_sent(out, messages(1), clock)
        peer, _ = server.accept()
        sent = 1
        with peer:
            batch = messages(100, "z" * 1000)
            while (done := out.send(batch)) == 100:
                sent += done
                assert sent < 100_000
            sent += done
            assert out.send(batch) == 0
            assert out.lost == 0
            # And goes away with that.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        out.send(batch)
        assert 0 < out.lost <= 32
        out.close()


# A file

PLAIN = sinks._written(Log(), lambda: NOW)


def test_lines_of_a_file_may_begin_as_syslogs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lb1")
    for header, begin in (
        ("rfc3164", f"Nov 22 10:11:11 lb1 pybalancer[{os.getpid()}]: "),
        ("rfc5424", f"2026-11-22T10:11:11.000Z lb1 pybalancer {os.getpid()} - - "),
    ):
        path = tmp_path / header
        out = open_sink(Log.model_validate({"target": str(path), "header": header}), lambda: NOW)
        assert out.send(messages(1)) == 1
        assert path.read_text() == f"{begin}hello 0\n"
        out.close()


def test_a_file_that_is_rotated_away_is_made_anew(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "web.log"
    out = sinks._File(str(path), PLAIN, now=clock)
    assert out.send(messages(2)) == 2
    path.rename(tmp_path / "web.log.1")
    assert out.send([Message(Level.INFO, "still the old one")]) == 1
    clock.now += 1
    assert out.send([Message(Level.INFO, "new")]) == 1
    assert (tmp_path / "web.log.1").read_text() == "hello 0\nhello 1\nstill the old one\n"
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o640
    path.unlink()
    clock.now += 1
    out.send([Message(Level.INFO, "newer")])
    assert path.read_text() == "newer\n"
    assert out.lost == 0
    out.close()


def test_a_file_that_cannot_be_opened_costs_only_the_lines(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "gone" / "web.log"
    out = sinks._File(str(path), PLAIN, now=clock)
    assert out.send(messages(3)) == 3
    assert out.lost == 3
    path.parent.mkdir()
    clock.now += 1
    assert out.send(messages(2)) == 2
    assert (out.lost, len(path.read_text().splitlines())) == (3, 2)
    out.close()


def test_a_fifo_without_a_reader_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    out = sinks._File(str(path), PLAIN)
    assert out.send(messages(3)) == 3
    assert out.lost == 3
    out.close()


def test_files_are_made_before_rights_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    prepare([Log(target=str(path)), Log(target="stdout")], (os.getuid(), os.getgid()))
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(StartError, match=r"^log target /.*/no/web.log: No such file or directory$"):
        prepare([Log(target=str(tmp_path / "no" / "web.log"))], None)
    with pytest.raises(StartError, match="Is a directory"):
        prepare([Log(target=str(tmp_path))], None)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    clock = Clock()
    path, other = tmp_path / "web.log", tmp_path / "other"
    out = sinks._File(str(path), PLAIN, now=clock)
    assert out.send(messages(1)) == 1
    files = sinks.Files([Log(target=str(path))], (os.getuid(), os.getgid()), now=clock)
    path.rename(tmp_path / "web.log.1")
    path.symlink_to(other)
    clock.now += 1
    files.look()
    assert out.send([Message(Level.INFO, "to the old one")]) == 1
    assert (tmp_path / "web.log.1").read_text() == "hello 0\nto the old one\n"
    assert not other.exists()
    with pytest.raises(StartError, match=r"web\.log: a symbolic link is not followed; name the file itself"):
        prepare([Log(target=str(path))], None)
    assert not other.exists()
    assert out.lost == 0
    out.close()


def test_missing_files_are_made_without_a_line(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "web.log"
    files = sinks.Files([Log(target=str(path)), Log(target="stdout")], now=clock)
    assert path.read_bytes() == b""
    path.rename(tmp_path / "web.log.1")
    files.look()
    assert not path.exists()
    assert files.due == clock.now + 1
    clock.now = files.due
    files.look()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sinks.Files([Log(target="stdout")], now=clock).due == float("inf")
    # There is nowhere to make it.
    sinks.Files([Log(target=str(tmp_path / "no" / "web.log"))], now=clock)


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_only_what_was_made_here_is_given_away(tmp_path: Path) -> None:
    clock = Clock()
    path, other = tmp_path / "web.log", tmp_path / "of-root"
    prepare([Log(target=str(path))], (4711, 4712))
    files = sinks.Files([Log(target=str(path))], now=clock)
    out = sinks._File(str(path), PLAIN, now=clock)
    assert out.send(messages(1)) == 1
    path.unlink()
    clock.now += 1
    files.look()
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)
    # Another name of an empty file, in place of ours.
    other.touch()
    path.unlink()
    path.hardlink_to(other)
    clock.now += 1
    files.look()
    assert out.send(messages(1)) == 1
    prepare([Log(target=str(path))], (4711, 4712))
    assert other.stat().st_uid == 0
    out.close()


def test_a_file_that_nobody_can_make_again_costs_the_lines(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "logs" / "web.log"
    path.parent.mkdir()
    out = sinks._File(str(path), PLAIN, now=clock)
    assert out.send(messages(1)) == 1
    path.unlink()
    path.parent.rmdir()
    clock.now += 1
    assert out.send(messages(2)) == 2
    assert out.lost == 2
    out.close()
