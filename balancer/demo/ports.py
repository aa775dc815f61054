"""Which ports are free?"""

from __future__ import annotations

import socket
from collections.abc import Collection

from balancer.errors import StartError

__all__ = ["next_free"]

_LAST = 65535


def next_free(first: int, *, host: str = "127.0.0.1", reserved: Collection[int] = ()) -> int:
    """The first port from `first` on that nothing on `host` holds, neither TCP nor UDP, and that is not `reserved`.

    Ports that this user may not bind (those below 1024, mostly) are passed over. StartError when none is left.
    """
    for port in range(first, _LAST + 1):
        if port not in reserved and all(_is_free(host, port, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            return port
    raise StartError(f"no free port from {first} to {_LAST} on {host}")


def _is_free(host: str, port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            # Connections of an earlier run in TIME_WAIT do not count; for UDP the option would let anything pass.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            if kind is socket.SOCK_STREAM:
                probe.listen(1)
        except OSError:
            return False
    return True
