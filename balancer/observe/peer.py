"""Who is at the other end of a Unix socket, by name.

Where users come from the network (LDAP, sssd: nsswitch.conf(5)), asking for a name may take minutes. So it is asked
in a thread, and who comes is `uid N` where that takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import socket
import struct
import threading
import time

__all__ = ["Names"]

# Seconds.
_PATIENCE = 1.0
_KEPT, _UNNAMED = 300.0, 10.0
# Names that are kept, and that are asked for at a time.
_MOST, _MOST_ASKED = 64, 4
_CREDENTIALS = struct.Struct("3i")


class Names:
    """Of one event loop."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, str]] = {}
        """By user: until when, and the name."""
        self._asked: dict[int, asyncio.Future[str]] = {}

    async def of(self, sock: socket.socket) -> str:
        """The user at the other end, as far as the kernel knows (SO_PEERCRED, unix(7)); "" where it does not."""
        try:
            _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except OSError:
            return ""
        until, name = self._known.get(uid, (0.0, ""))
        if time.monotonic() < until:
            return name
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._ask(uid)), _PATIENCE)
        # Those who come next need not wait.
        self._known[uid] = time.monotonic() + _UNNAMED, _unnamed(uid)
        return _unnamed(uid)

    def _ask(self, uid: int) -> asyncio.Future[str]:
        """One thread for all who wait for the same; it may never end, and is no reason for the process not to."""
        if uid in self._asked:
            return self._asked[uid]
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[str] = loop.create_future()

        def keep(name: str) -> None:
            self._asked.pop(uid, None)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[uid] = time.monotonic() + _KEPT, name
            if not asked.done():
                asked.set_result(name)

        def ask() -> None:
            try:
                name = pwd.getpwuid(uid).pw_name
            except (KeyError, OSError):
                name = _unnamed(uid)
            with contextlib.suppress(RuntimeError):
                # The loop may have ended.
                loop.call_soon_threadsafe(keep, name)

        try:
            if len(self._asked) >= _MOST_ASKED:
                raise RuntimeError
            threading.Thread(target=ask, daemon=True).start()
        except RuntimeError:
            # Nor can there be another thread.
            asked.set_result(_unnamed(uid))
        else:
            self._asked[uid] = asked
        return asked


def _unnamed(uid: int) -> str:
    return f"uid {uid}"
