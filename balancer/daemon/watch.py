"""Children that hang, and the service manager's watchdog, which is fed only while none does.

One that hangs holds what others wait for: a worker its listening sockets and the clients in their queues, control the
health checks. It is killed, and another starts; where even that does not help, or the supervisor itself hangs, nobody
feeds the watchdog any more and the service manager starts all anew (WatchdogSec=, systemd.service(5)).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from balancer.daemon import systemd

if TYPE_CHECKING:
    from balancer.daemon.generation import Child, Generation

__all__ = ["Watch"]

# Looked at this often, or three times in the watchdog's time.
_EVERY = 5.0
# What moves once a second at least and has not for so long hangs.
_FROZEN = 10.0
# Changing the rules of very many services takes the process `kernel` long, and nobody but it waits meanwhile.
_FROZEN_KERNEL = 60.0


class Watch:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._every = min(_EVERY, systemd.watchdog() / 3)
        self._looked = time.monotonic()

    @property
    def due(self) -> float:
        """When to look again."""
        return self._looked + self._every

    def look(self, generation: Generation, now: float) -> list[tuple[Child, float]]:
        """Those to be killed, and for how long they have not moved. Before its time comes nothing is looked at."""
        if now < self.due:
            return []
        late, self._looked = now - self.due, now
        if late > _EVERY:
            # We hung ourselves, and the others perhaps with us: they get time to move first.
            systemd.alive()
            return []
        hung = [
            (child, now - generation.moved(child))
            for child in generation.children
            if child.pid and now - generation.moved(child) > (_FROZEN_KERNEL if child.is_of_network else _FROZEN)
        ]
        if not hung:
            systemd.alive()
        return hung
