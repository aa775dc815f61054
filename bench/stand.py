"""Where a measurement stands: servers behind, balancers in front of them, started and seen to do their work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

from balancers import Contestant, Frontend, Mode, Task
from load import Load
from rig import BALANCER_CORE, LOAD_CORE, BenchError, Process, Rig, free_port, wait_for
from servers import ask_dns, fetch, start_named, start_nginx

__all__ = ["READY_WITHIN", "Bench", "Kind"]

Kind = Literal["haproxy", "dnsdist"]
READY_WITHIN = 15.0


class Bench:
    """The contestants, the load, and the servers, which start when the first work needs them."""

    def __init__(self, rig: Rig, contestants: Mapping[Kind, Sequence[Contestant]]) -> None:
        self.load = Load(rig)
        self.contestants = contestants
        self._rig = rig

    @cached_property
    def _nginx(self) -> tuple[Process, tuple[int, ...]]:
        return start_nginx(self._rig)

    @property
    def web(self) -> tuple[int, ...]:
        return self._nginx[1]

    @cached_property
    def dns(self) -> tuple[int, ...]:
        return start_named(self._rig)

    def frontend(self, mode: Mode) -> Frontend:
        return Frontend(mode=mode, port=free_port(), servers=self.dns if mode == "udp" else self.web)

    @contextmanager
    def web_beside_balancer(self) -> Iterator[None]:
        """The web server on the balancer's core, so that the load has the other for itself."""
        process, _ = self._nginx
        process.move(BALANCER_CORE)
        yield
        process.move(LOAD_CORE)

    @contextmanager
    def running(self, contestant: Contestant, task: Task, *, core: int | None = BALANCER_CORE) -> Iterator[Process]:
        """The balancer at its task, every server of every frontend in use; `core` None: on both."""
        with self.starting(contestant, task, core=core) as process:
            for frontend in task.frontends:
                if contestant.name.startswith("HAProxy") and frontend.mode == "udp":
                    continue
                wait_ready(process, frontend)
            yield process

    @contextmanager
    def starting(self, contestant: Contestant, task: Task, *, core: int | None = BALANCER_CORE) -> Iterator[Process]:
        """The balancer just started: it may not serve yet."""
        config = self._rig.write(f"{self._rig.unique('task')}.{contestant.suffix}", contestant.render(task))
        process = self._rig.start(self._rig.unique(contestant.name), contestant.command(str(config)), core=core)
        yield process
        self._rig.end(process)


def wait_ready(process: Process, frontend: Frontend) -> None:
    """Until each server has answered through the balancer, and the balancer is seen to do what the work is about.

    Raises BenchError if it does not.
    """
    seen: set[int] = set()

    def serves() -> bool:
        process.require_alive()
        if frontend.mode == "udp":
            return all(ask_dns(frontend.port) for _ in range(2 * len(frontend.servers)))
        answer = fetch(frontend.port, "/seen")
        if answer is not None:
            seen.add(_server_that_answered(process, frontend, *answer))
        return seen == set(frontend.servers)

    try:
        wait_for(f"{process.name} serves {frontend.mode} from every server", serves, within=READY_WITHIN)
    except BenchError as error:
        if process.ended():
            raise
        raise BenchError(f"{error}; {process.name} said: {process.last_words()}") from None


def _server_that_answered(process: Process, frontend: Frontend, head: str, body: str) -> int:
    port, _, client = body.partition(",")
    if frontend.mode == "http":
        if client != "127.0.0.1":
            raise BenchError(f"{process.name}: the server was told X-Forwarded-For {client!r}, not 127.0.0.1")
        if f"set-cookie: serverid=s{port};" not in head.lower():
            raise BenchError(f"{process.name}: no SERVERID cookie for s{port} in {head!r}")
    elif client:
        raise BenchError(f"{process.name}: X-Forwarded-For {client!r} in mode tcp")
    return int(port)
