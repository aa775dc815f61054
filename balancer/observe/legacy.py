"""What one control process leaves to the next of a client at the runtime socket: what it waits for, and has yet to say.

Who gave an order that takes other processes is answered by those, and who is at a prompt stays there over a reload.
"""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Heirs", "Legacy"]


class Heirs(Protocol):
    """The way from one to the next."""

    @property
    def legacies(self) -> socket.socket:
        """Can be read from when there is one."""

    def bequeath(self, client: int, state: bytes) -> bool:
        """Leave a connection (its descriptor stays ours). Whether that was possible."""

    def inherit(self) -> tuple[int, bytes] | None:
        """The next one that was left; its descriptor is ours."""


@dataclass(frozen=True, slots=True)
class Legacy:
    """One client."""

    answer: str | None
    """What is to be said to it once servers are as they are to be; None: it waits for nothing."""
    left: list[list[str]]
    """Commands of its line that are still to be obeyed."""
    unread: bytes
    """What it has said besides."""
    severity: str
    timeout: float | None
    is_interactive: bool
    has_prompt: bool
    tells_time: bool

    def encode(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields | {"unread": base64.b64encode(self.unread).decode("ascii")}).encode()

    @staticmethod
    def decode(octets: bytes) -> Legacy:
        """What another process of ours has encoded."""
        fields = json.loads(octets)
        return Legacy(**fields | {"unread": base64.b64decode(fields["unread"])})
