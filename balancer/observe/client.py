"""Who asks at the runtime socket: one command and its answer, or several on one connection."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from balancer.errors import BalancerError

__all__ = ["Answer", "ask", "ask_all", "listener"]

# The daemon gives an order's answer in 5 s at most.
_PATIENCE = 15.0
_PIECE = 64 * 1024
# One control process gives way to the next within this; and how often it is tried (seconds).
_BRIEF, _EVERY = 5.0, 0.05
# syslog's severities from error up.
_SEVERITY = re.compile(r"\[([0-7])\]: ")
_ERROR = 3
# Octets of a line, half of what the daemon takes.
_LONGEST_LINE = 8 * 1024
_FIRST = "set severity-output number"
# struct ucred (unix(7)).
_CREDENTIALS = struct.Struct("3i")


class Answer(NamedTuple):
    """What was said, in whole lines, and whether it is an error."""

    text: str
    is_error: bool


def ask(path: str, *words: str, patience: float | None = None) -> Answer:
    """Give a command to the daemon whose runtime socket is at `path`. `patience` is the seconds to wait for the next
    octet. BalancerError where that cannot be."""
    # With the severity in front an error can be told from an answer.
    said = _exchange(path, f"{_FIRST};{_line(words)}\n", _PATIENCE if patience is None else patience)
    # The first answer, to `set`, is an empty line alone.
    if not said.startswith("\n") or not said.endswith("\n\n"):
        raise _cut_off(path)
    return _answer(said[1:-1])


def ask_all(path: str, commands: Sequence[Sequence[str]], *, patience: float = _PATIENCE) -> list[Answer]:
    """Give commands, one after the other, and get as many answers, none of which may have an empty line in it.
    `patience` is the seconds to wait for the next octet. BalancerError where that cannot be, or not all of it."""
    answers: list[Answer] = []
    for batch in _batches([_line(words) for words in commands]):
        said = _exchange(path, f"{_FIRST};{';'.join(batch)}\n", patience)
        parts = [*_parts(said)]
        # The first is the answer to `set`, and nothing is behind the end of the last.
        if len(parts) != len(batch) + 2 or parts[-1]:
            raise _cut_off(path)
        answers += map(_answer, parts[1:-1])
    return answers


def _parts(said: str) -> Iterator[str]:
    """What stands before each empty line."""
    text: list[str] = []
    # Not `splitlines`: a server's words may hold what it takes for a line's end.
    for line in said.split("\n"):
        if line:
            text.append(f"{line}\n")
        else:
            yield "".join(text)
            text = []


def _batches(lines: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > _LONGEST_LINE:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    if batch:
        yield batch


def _line(words: Sequence[str]) -> str:
    return " ".join(re.sub(r"([\\;\s])", r"\\\1", word) for word in words)


def _answer(text: str) -> Answer:
    severity = _SEVERITY.match(text)
    return Answer(text[severity.end() :] if severity else text, severity is not None and int(severity[1]) <= _ERROR)


def _cut_off(path: str) -> BalancerError:
    return BalancerError(f"{path}: the connection was closed before the answer was complete")


def listener(path: str) -> int:
    """The process that was the last to listen at the socket, which may be gone by now: the kernel says so
    (SO_PEERCRED, unix(7)), whatever it would answer. 0 where it is of another PID namespace. BalancerError where nobody
    listens."""
    with _connected(path, _PATIENCE) as sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def _exchange(path: str, line: str, patience: float) -> str:
    """Who closes before it has read the line, as a control process that gives way to the next one, has done nothing:
    then the next one is asked."""
    until = time.monotonic() + _BRIEF
    while True:
        received = bytearray()
        with _connected(path, patience) as sock:
            try:
                sock.sendall(line.encode())
                while data := sock.recv(_PIECE):
                    received += data
            except (BrokenPipeError, ConnectionResetError):
                # unix(7): reset is who closes with something unread.
                if received or time.monotonic() >= until:
                    raise
            else:
                return received.decode("utf-8", "replace")
        time.sleep(_EVERY)


@contextlib.contextmanager
def _connected(path: str, patience: float) -> Iterator[socket.socket]:
    """BalancerError for whatever goes wrong with it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(patience)
            sock.connect(path)
            yield sock
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise BalancerError(f"pybalancer does not run here ({path}: {error.strerror})") from None
    except PermissionError as error:
        raise BalancerError(
            f"{path}: {error.strerror}; it is for whom global.user, global.group and the socket's mode allow"
        ) from None
    except TimeoutError:
        raise BalancerError(f"{path}: no answer in {patience:g} s") from None
    except OSError as error:
        raise BalancerError(f"{path}: {error.strerror or error}") from None
