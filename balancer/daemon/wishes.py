"""What the supervisor is asked for, one after the other, and what each is told of what came of it.

    reload    the file, read again: SIGHUP, an order of control (reloads), or another version in our place
    servers   others, without the file: control's wish (logbook, shipyard)
    dry-run   a look at the file, an order of control: nothing is to change

A changeover carries out the first two.
"""

from __future__ import annotations

import selectors
from collections.abc import Collection

from balancer.daemon import systemd
from balancer.daemon.eventlog import Say
from balancer.daemon.generation import Generation
from balancer.daemon.logbook import Logbook, Refusal
from balancer.daemon.reload import Draft, Look, Source, draft, look
from balancer.daemon.reloads import Docket, Kind
from balancer.observe.log import Level
from balancer.observe.reloading import Outcome

__all__ = ["Wishes"]


class Wishes:
    """`source` is the file, None where there is none to read again."""

    def __init__(self, logbook: Logbook, source: Source | None, *, say: Say) -> None:
        self._logbook = logbook
        self._docket = Docket(logbook.reloads)
        self._source = source
        self._say = say
        self.is_reload_wanted = False
        """To be set by whoever wants one and waits for no answer."""
        # Of one that came during an upgrade's trial the version before has heard.
        self._is_wish_open = logbook.done < logbook.wish
        self._wish = 0
        """The number of the one that is being carried out; 0: the file is."""

    def register(self, selector: selectors.BaseSelector) -> None:
        """Wake whoever is to `hear`."""
        selector.register(self._logbook.wishes, selectors.EVENT_READ)
        selector.register(self._logbook.reloads.asked, selectors.EVENT_READ)

    def hear(self) -> None:
        """To be called where control has rung."""
        self._is_wish_open |= self._logbook.is_asked()
        self._docket.hear()

    @property
    def are_open(self) -> bool:
        """Whether there are any that nobody has begun with."""
        return self._docket.has_orders or self.is_reload_wanted or self._is_wish_open

    def begin(self) -> bool:
        """Begin with the next; False where it is no time for any, or nothing can come of it."""
        if self.is_reload_wanted or self._docket.wants("reload"):
            self.is_reload_wanted = False
            return self._begin("reload")
        if self._is_wish_open:
            self._is_wish_open = False
            self._wish = self._logbook.wish
            return True
        if self._docket.wants_a_look:
            return self._begin("dry-run")
        return False

    def _begin(self, kind: Kind) -> bool:
        self._wish = 0
        self._docket.begin(kind)
        if self._source is None:
            self._say(Level.WARNING, "SIGHUP: there is no file to read again")
            self._docket.end("refused", "", "there is no file to read again")
            return False
        if kind == "reload":
            systemd.reloading()
            self._say(Level.NOTICE, f"reloading {self._source.name}")
        return True

    # The one that is being carried out

    @property
    def is_of_servers(self) -> bool:
        """Nothing else is to be different, and control says what comes of it."""
        return self._wish != 0

    @property
    def is_look(self) -> bool:
        """Nothing is to change."""
        return self._docket.is_looking

    def read(self, current: Generation, masters: Collection[str] = ()) -> Draft | Look:
        """What is to come after `current`, whose virtual routers `masters` hold their addresses; for a process that may
        hang. StartError, ConfigError."""
        kept = self._logbook.read().values()
        if self._wish or self._source is None:
            return draft(current.plan.written, current.plan, kept, is_strict=True)
        made = draft(self._source.load(), current.plan, kept, sessions=current.sessions, masters=masters)
        return look(made, current.sockets) if self.is_look else made

    def find(self, body: bytes) -> None:
        """What would become different (reloading.body)."""
        self._docket.find(body)

    def show(self, made: Look) -> None:
        """What came of a look."""
        assert self._source is not None
        self._docket.find(made.body)
        self._docket.end("refused" if made.why else "checked", self._source.name, made.why)

    def grant(self) -> None:
        """It is as it was to be."""
        if self._wish:
            self._logbook.refuse(Refusal(self._wish, ""))
        elif self._source is not None:
            self._docket.end("reloaded", self._source.name)

    def refuse(self, why: str, outcome: Outcome = "refused", *, is_told: bool = False) -> None:
        """Nothing has changed; every line of the reason is one in the log, but the first where others tell it."""
        if self._wish:
            # Control says so.
            self._logbook.refuse(Refusal(self._wish, why))
            return
        assert self._source is not None
        is_look = self.is_look
        self._docket.end(outcome, self._source.name, why)
        if is_look:
            return
        for line in why.splitlines()[is_told:]:
            self._say(Level.ERR, line)
        if not is_told:
            self._say(Level.ALERT, f"{self._source.name} is not loaded, all goes on as before")
        systemd.ready()

    def stop(self) -> None:
        """The daemon ends."""
        if self._source is not None:
            self._docket.end("refused", self._source.name, "pybalancer is being stopped")
        self.is_reload_wanted = False
