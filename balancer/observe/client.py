"""Who asks at the runtime socket: one command, one answer."""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from balancer.errors import BalancerError

__all__ = ["Answer", "ask"]

# The daemon gives an order's answer in 5 s at most.
_PATIENCE = 15.0
_PIECE = 64 * 1024
# syslog's severities from error up.
_SEVERITY = re.compile(r"\[([0-7])\]: ")
_ERROR = 3


class Answer(NamedTuple):
    """What was said, in whole lines, and whether it is an error."""

    text: str
    is_error: bool


def ask(path: str, *words: str) -> Answer:
    """Give a command to the daemon whose runtime socket is at `path`. BalancerError where that cannot be."""
    # With the severity in front an error can be told from an answer.
    line = "set severity-output number;" + " ".join(re.sub(r"([\\;\s])", r"\\\1", word) for word in words) + "\n"
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            sock.sendall(line.encode())
            while data := sock.recv(_PIECE):
                received += data
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise BalancerError(f"pybalancer does not run here ({path}: {error.strerror})") from None
    except PermissionError as error:
        raise BalancerError(
            f"{path}: {error.strerror}; it is for whom global.user, global.group and the socket's mode allow"
        ) from None
    except TimeoutError:
        raise BalancerError(f"{path}: no answer in {_PATIENCE:g} s") from None
    except OSError as error:
        raise BalancerError(f"{path}: {error.strerror or error}") from None
    # The first answer, to `set`, is an empty line alone.
    said = received.decode("utf-8", "replace")
    if not said.startswith("\n") or not said.endswith("\n\n"):
        raise BalancerError(f"{path}: the connection was closed before the answer was complete")
    text = said[1:-1]
    severity = _SEVERITY.match(text)
    return Answer(text[severity.end() :] if severity else text, severity is not None and int(severity[1]) <= _ERROR)
