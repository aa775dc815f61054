from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.observe.client import Answer, ask, ask_all, listener
from balancer.observe.command import commands


@pytest.fixture
def daemon(tmp_path: Path):
    """daemon(answer): a socket that answers once, and the lines it was sent."""
    path, heard, threads = str(tmp_path / "admin.sock"), [], []

    def start(answer: bytes) -> tuple[str, list[str]]:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            with listening, listening.accept()[0] as connection:
                heard.append(connection.recv(65536).decode())
                connection.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path, heard

    yield start
    for thread in threads:
        thread.join(10)


def test_who_goes_without_having_read_it_is_followed_by_another(tmp_path: Path) -> None:
    path, heard = str(tmp_path / "admin.sock"), []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            # Before and after it was sent.
            listening.accept()[0].close()
            with listening.accept()[0] as connection:
                select.select([connection], [], [], 10)
            with listening.accept()[0] as connection:
                heard.append(connection.recv(65536).decode())
                connection.sendall(b"\ndone\n\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert ask(path, "x") == Answer("done\n", False)
        thread.join(10)
    assert len(heard) == 1


def test_who_goes_each_time_is_not_asked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_BRIEF", 0.2)
    path = str(tmp_path / "admin.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:
                return
            with connection:
                select.select([connection], [], [], 10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with pytest.raises(BalancerError, match="Connection reset by peer"):
            ask(path, "x")
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def test_a_command_is_given_with_its_words_kept_apart(daemon: Callable[..., tuple[str, list[str]]]) -> None:
    path, heard = daemon(b"\none\ntwo\n\n")
    assert ask(path, "show", "vrrp", "why", "a b;c\\d") == Answer("one\ntwo\n", False)
    (line,) = heard
    assert commands(line) == [["set", "severity-output", "number"], ["show", "vrrp", "why", "a b;c\\d"]]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\n[6]: done\n\n", Answer("done\n", False)),
        (b"\n[3]: No such thing.\n\n", Answer("No such thing.\n", True)),
        (b"\n\n", Answer("", False)),
        (b"\n[x]:text\n\n", Answer("[x]:text\n", False)),
    ],
)
def test_an_error_can_be_told_from_an_answer(daemon, said: bytes, answer: Answer) -> None:
    path, _ = daemon(said)
    assert ask(path, "x") == answer


@pytest.mark.parametrize("said", [b"", b"\n", b"\nhalf an ans", b"Unknown command\n\n"])
def test_half_an_answer_is_none(daemon, said: bytes) -> None:
    path, _ = daemon(said)
    with pytest.raises(BalancerError, match="closed before the answer was complete"):
        ask(path, "x")


def test_nobody_there_and_not_even_a_file(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with pytest.raises(BalancerError, match=rf"^pybalancer does not run here \({path}: No such file or directory\)$"):
        ask(str(path), "x")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(BalancerError, match=rf"^pybalancer does not run here \({path}: Connection refused\)$"):
        ask(str(path), "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_that_is_not_for_us(daemon, tmp_path: Path) -> None:
    path, _ = daemon(b"")
    Path(path).chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(BalancerError, match=r"Permission denied; it is for whom global\.user, global\.group and"):
            ask(path, "x")
    finally:
        os.seteuid(0)
    with pytest.raises(BalancerError, match="before the answer"):
        ask(path, "x")


def test_who_never_answers_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path := str(tmp_path / "admin.sock"))
        mute.listen()
        with pytest.raises(BalancerError, match=r"no answer in 0\.1 s"):
            ask(path, "x")


def test_several_commands_have_as_many_answers(daemon) -> None:
    path, heard = daemon(b"\na\nb\n\n\n[3]: No such server.\n\n")
    assert ask_all(path, [("show", "a b"), ("x",), ("y",)]) == [
        Answer("a\nb\n", False), Answer("", False), Answer("No such server.\n", True)
    ]  # fmt: skip
    (line,) = heard
    assert commands(line)[1:] == [["show", "a b"], ["x"], ["y"]]


@pytest.mark.parametrize("said", [b"", b"\n", b"\na\n", b"\na\n\nb", b"\na\n\nb\n", b"\na\n\nb\n\n\n"])
def test_fewer_or_more_answers_than_commands_are_none(daemon, said: bytes) -> None:
    path, _ = daemon(said)
    with pytest.raises(BalancerError, match="closed before the answer was complete"):
        ask_all(path, [("x",), ("y",)])


def test_a_line_that_would_be_too_long_is_two(tmp_path: Path) -> None:
    """Five thousand servers, in lines that the daemon takes."""
    path, heard = str(tmp_path / "admin.sock"), []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            while len(heard) < 5000:
                with listening.accept()[0] as connection:
                    given = commands(connection.recv(65536).decode())[1:]
                    heard.extend(given)
                    connection.sendall(b"\n" + b"\n" * len(given))

        thread = threading.Thread(target=serve)
        thread.start()
        wanted = [("set", "server", f"web/server{i}", "state", "drain") for i in range(5000)]
        assert ask_all(path, wanted) == [Answer("", False)] * 5000
        thread.join(10)
    assert [tuple(each) for each in heard] == wanted


def test_who_listens_is_what_the_kernel_says(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        with pytest.raises(BalancerError, match="does not run here"):
            listener(path)
        listening.listen()
        assert listener(path) == os.getpid()
