from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.observe.client import Answer, ask
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
