"""The virtual routers as the supervisor has them: a speaker, what control is told of it, and what control orders.

Times are monotonic seconds.
"""

from __future__ import annotations

import functools
import selectors
import socket
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from balancer.config.vrrp import Vrrp
from balancer.daemon import errands, privileges, standin
from balancer.daemon.spawn import spawn
from balancer.errors import StartError
from balancer.pool import routers

if TYPE_CHECKING:
    from balancer.daemon.generation import Generation
    from balancer.vrrp.coming import Coming
    from balancer.vrrp.speaker import Speaker
    from balancer.vrrp.track import Service

__all__ = ["Speaking", "script_identity"]

# What programs get that are told of the end.
_LAST_WORDS = 5.0
# Where the virtual routers stand is told to control at most so often, and its orders are taken so often (seconds).
_TELL_EVERY = 0.2
_TAKE_EVERY = 0.1


class Speaking:
    """`generation` is whose control is told and may order, `selector` that of the caller, and `log` takes a line and
    whether it is a warning.

    Drive it: `turn` when the selector says so and when `due` has come; `ended` for each child that is not one's own.
    What the virtual routers are to be is prepared first (`prepare`), and becomes true later (`change`), or not.
    """

    def __init__(
        self, generation: Generation, selector: selectors.BaseSelector, *, log: Callable[[str, bool], None]
    ) -> None:
        self._generation = generation
        self._selector = selector
        self._log = log
        self._speaker: Speaker | None = None
        """There once there was a virtual router."""
        self._has_begun = False
        self._vrrp = self._next = Vrrp()
        self._coming: Coming | None = None
        self._told_at = 0.0
        # When orders are taken again; 0: as they come.
        self._take_at = 0.0
        self._silent_since = 0.0
        self._left: dict[str, Any] = {}
        """By another version (succession), until it is taken up."""
        self.is_silent = False
        """Whether all has been given up."""
        if self._line is not None:
            selector.register(self._line, selectors.EVENT_READ)

    @property
    def _line(self) -> socket.socket | None:
        """From control; None where there is no virtual router."""
        line = self._generation.memory.line
        return line.supervisor if line is not None else None

    def prepare(self, vrrp: Vrrp, identity: privileges.Identity | None) -> None:
        """For `change`; `identity` is whose programs are. StartError where it cannot be: all goes on as before."""
        self.give_up()
        if vrrp == self._vrrp:
            return
        start = functools.partial(spawn, identity=identity)
        if self._speaker is not None:
            self._coming = self._speaker.prepare(vrrp, spawn=start)
        elif vrrp.instances:
            # Netlink comes with a large library, which only those load who need it.
            from balancer.vrrp.speaker import Speaker

            self._speaker = Speaker(vrrp, node=socket.gethostname(), log=self._log, spawn=start, service=self._service)
        self._next = vrrp

    @property
    def speaker(self) -> Speaker | None:
        """While it speaks."""
        return self._speaker if self._has_begun and not self.is_silent else None

    @property
    def masters(self) -> tuple[str, ...]:
        """The virtual routers that hold their addresses now."""
        return self.speaker.masters if self.speaker is not None else ()

    def estate(self) -> dict[str, Any] | None:
        """What another version needs to go on with; None where nobody speaks."""
        if self.speaker is None:
            return None
        from balancer.vrrp import succession

        heirloom, known = succession.heirloom(self.speaker), succession.known(self.speaker)
        return {"vrrp": self._vrrp, "heirloom": heirloom, "known": known, "line": None}

    def inherit(self, left: dict[str, Any]) -> None:
        """In another version: prepare to go on with it (`change`)."""
        from balancer.vrrp.speaker import Speaker

        self._left, self._next = left, left["vrrp"]
        self._speaker = Speaker(
            self._next,
            node=socket.gethostname(),
            log=self._log,
            spawn=functools.partial(spawn, identity=script_identity(self._next.script_user)),
            service=self._service,
            heirloom=left["heirloom"],
        )

    def _take_up(self, speaker: Speaker, left: dict[str, Any]) -> None:
        """Whoever has stood in says no more."""
        from balancer.vrrp import succession

        now = standin.ask(left["line"]) if left["line"] is not None else None
        succession.restore(speaker, {**(now or left["known"]), "scripts": left["known"]["scripts"]})

    def give_up(self) -> None:
        """What was prepared is not to be."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.close()
        elif self._speaker is not None and not self._has_begun:
            self._speaker.close()
            self._speaker = None

    def change(self) -> None:
        """The virtual routers are as was prepared; those that stay as they are do not notice. StartError where they
        cannot begin at all."""
        coming, self._coming = self._coming, None
        if self._speaker is None or self.is_silent:
            return
        if not self._has_begun:
            privileges.be_on_time()
            self._selector.register(self._speaker, selectors.EVENT_READ)
            self._has_begun = True
            if self._left:
                self._take_up(self._speaker, self._left)
                self._left = {}
            self._speaker.start()
        elif coming is not None:
            self._speaker.change(coming)
        else:
            return
        self._vrrp = self._next
        self._tell_standing(self._speaker, time.monotonic())

    def _service(self) -> Service:
        from balancer.vrrp.track import Service

        serving, now = self._generation.serving, time.monotonic()
        trouble = serving.trouble(now)
        is_serving = not trouble and serving.is_serving(self._generation.lives, now)
        return Service(is_serving, serving.servers(), *([trouble] if trouble else []))

    @property
    def due(self) -> float:
        """When `turn` is wanted at the latest."""
        if self._speaker is None or not self._has_begun:
            return inf
        times = [self._speaker.due]
        if self._speaker.has_news:
            times.append(self._told_at + _TELL_EVERY)
        if self._take_at:
            times.append(self._take_at)
        return min(times)

    def turn(self) -> None:
        """Speak, do what control orders, and tell it where the virtual routers stand."""
        if self._speaker is not None and self._has_begun and not self.is_silent:
            self._speaker.turn()
            self._take_orders(self._speaker)
            self._tell_control(self._speaker)

    def _take_orders(self, speaker: Speaker) -> None:
        """A few at a time: control must not be able to keep us from speaking."""
        line, now = self._line, time.monotonic()
        if line is None:
            return
        if self._take_at:
            if now < self._take_at:
                return
            self._take_at = 0.0
            self._selector.register(line, selectors.EVENT_READ)
        if errands.take(line, speaker):
            self._selector.unregister(line)
            self._take_at = now + _TAKE_EVERY

    def _tell_control(self, speaker: Speaker) -> None:
        now = time.monotonic()
        if speaker.has_news and now - self._told_at >= _TELL_EVERY:
            self._tell_standing(speaker, now)

    def _tell_standing(self, speaker: Speaker, now: float) -> None:
        self._told_at = now
        routers.post(speaker.standing(), self._generation.memory.notice)

    def follow(self, generation: Generation) -> None:
        """Another generation's control is told from now on, and may order."""
        self._hear_no_orders()
        self._take_at = 0.0
        self._generation = generation
        if self._line is not None:
            self._selector.register(self._line, selectors.EVENT_READ)
        if self._speaker is not None and self._has_begun:
            self._tell_standing(self._speaker, time.monotonic())

    def _hear_no_orders(self) -> None:
        if self._line is not None and not self._take_at:
            self._selector.unregister(self._line)

    def ended(self, pid: int, status: int) -> None:
        """A child process has ended: a program of ours, or nobody's."""
        if self._speaker is not None:
            self._speaker.ended(pid, status)

    def fall_silent(self) -> bool:
        """Give all addresses up, and hear nothing more; whether there was anything to give up."""
        if self.is_silent:
            return False
        self.give_up()
        self.is_silent = True
        self._hear_no_orders()
        if self._speaker is None:
            return False
        self._silent_since = time.monotonic()
        self._speaker.stop()
        self._tell_standing(self._speaker, self._silent_since)
        self._selector.unregister(self._speaker)
        return True

    @property
    def waits_until(self) -> float:
        """What programs get that were told of the end."""
        return self._silent_since + _LAST_WORDS

    def has_more_to_tell(self) -> bool:
        """Whether a program runs that was told of the end: the service manager kills it when we are gone."""
        if self._speaker is None or not self.is_silent:
            return False
        return self._speaker.is_notifying and time.monotonic() < self.waits_until

    def forget(self) -> None:
        """In a child: close what it inherited, of which it must not make use."""
        if self._coming is not None:
            self._coming.close()
        if self._speaker is not None:
            self._speaker.forget()

    def close(self) -> None:
        """Once silent: close all sockets."""
        if self._speaker is not None:
            self._speaker.close()


def script_identity(user: str | None) -> privileges.Identity | None:
    """Who check and notify scripts run as; None: as we were started. StartError."""
    try:
        return privileges.identity(user, None)
    except StartError:
        raise StartError(
            f"vrrp.script_user: there is no user {user!r}; create it with: useradd --system --user-group {user}"
        ) from None
