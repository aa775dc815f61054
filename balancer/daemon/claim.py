"""The claim to the kernel's rules, and that none of ours outlive us.

The rules of a network namespace are one daemon's (lock). The process `kernel` makes them and takes them away; where it
cannot, as it was killed, or an earlier daemon has left some, the supervisor does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from balancer.daemon.privileges import Identity
from balancer.errors import BalancerError
from balancer.observe.log import Level

if TYPE_CHECKING:
    from balancer.daemon.eventlog import Say
    from balancer.daemon.lock import Lock

__all__ = ["Claim"]

# There if a daemon of this boot had rules in the kernel (kernelleft.state_file).
_TRACES = Path("/run/pybalancer/kernel")


class Claim:
    """`identity` is who the process `kernel` is; `left` an `estate` of another version."""

    def __init__(self, identity: Identity | None, say: Say, left: dict[str, Any] | None = None) -> None:
        self._identity = identity
        self._say = say
        self._lock: Lock | None = None
        self.state: Path | None = None
        """Where the settings that were found are kept, once there was a claim."""
        self.has_rules = False
        """Whether there may be some in the kernel."""
        if left is not None:
            self._lock, self.has_rules = left["lock"], left["has_rules"]
            self.state = Path(left["state"]) if left["state"] else None

    def estate(self) -> dict[str, Any]:
        """What another version needs to have it."""
        state = str(self.state) if self.state is not None else ""
        return {"lock": self._lock, "state": state, "has_rules": self.has_rules}

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    def take(self, *, waits: bool) -> None:
        """StartError where another daemon has it; `waits`: it gets time to go."""
        # The library, and what goes with it, is loaded by those only who need it.
        from balancer.daemon import kernelleft, lock

        self._lock = lock.exclusive() if waits else lock.exclusive(patience=0.0)
        self.state = kernelleft.state_file(self._identity)

    def drop(self) -> None:
        """As far as this process is concerned."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def give_back(self) -> None:
        """Once there is no process `kernel`: no rules of ours outlive it."""
        if self.has_rules and self.state is not None:
            from balancer.daemon import kernelleft

            try:
                kernelleft.clear(self.state)
            except BalancerError as error:
                self._say(Level.ALERT, f"the kernel's rules could not be taken away: {error}")
        self.drop()

    def clear_leftovers(self) -> None:
        """Rules of an earlier run that nobody uses any more."""
        if not _TRACES.is_dir():
            return
        from balancer.daemon import kernelleft

        try:
            for line in kernelleft.clear_leftovers():
                self._say(Level.NOTICE, line)
        except (BalancerError, OSError) as error:
            self._say(Level.ALERT, f"what an earlier run has left in the kernel cannot be taken away: {error}")
