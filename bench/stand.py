"""Where a measurement stands: servers behind, balancers in front of them, started and seen to do their work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

from balancers import Contestant, Frontend, Mode, Task
from load import Load
from rig import BALANCER_CORE, LOAD_CORE, BenchError, Process, Rig, free_port, wait_for
from servers import ask_dns, fetch, start_many, start_named, start_nginx

__all__ = ["READY_WITHIN", "Bench", "Kind", "wait_ready"]

Kind = Literal["haproxy", "dnsdist", "masters"]
"""Whom a work compares: by the first of them. `masters` can be told of a new configuration."""
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
    def many(self) -> tuple[str, ...]:
        """Addresses of as many servers as any work wants."""
        return start_many(self._rig)

    @cached_property
    def dns(self) -> tuple[int, ...]:
        return start_named(self._rig)

    def frontend(self, mode: Mode) -> Frontend:
        ports = self.dns if mode == "udp" else self.web
        return Frontend(mode=mode, port=free_port(), servers=tuple(f"127.0.0.1:{port}" for port in ports))

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

    def configure(self, contestant: Contestant, task: Task, *, over: Path | None = None) -> Path:
        """The file with its configuration, a new one or in the place of another."""
        text = contestant.render(task, directory=str(self._rig.directory))
        return self._rig.write(over.name if over else f"{self._rig.unique('task')}.{contestant.suffix}", text)

    def begin(self, name: str, command: Sequence[str]) -> Process:
        """A load that goes on while other things happen; to be ended by `end`."""
        return self._rig.start(self._rig.unique(name), command, core=LOAD_CORE)

    def end(self, process: Process) -> str:
        """What it said."""
        self._rig.end(process)
        return process.log.read_text(errors="replace")

    @contextmanager
    def starting(self, contestant: Contestant, task: Task, *, core: int | None = BALANCER_CORE) -> Iterator[Process]:
        """The balancer just started: it may not serve yet."""
        with self.serving(contestant, self.configure(contestant, task), core=core) as process:
            yield process

    @contextmanager
    def serving(self, contestant: Contestant, config: Path, *, core: int | None = BALANCER_CORE) -> Iterator[Process]:
        """The same with a configuration that stands in a file."""
        process = self._rig.start(self._rig.unique(contestant.name), contestant.command(str(config)), core=core)
        yield process
        self._rig.end(process)


def wait_ready(process: Process, frontend: Frontend) -> None:
    """Until each server has answered through the balancer, and the balancer is seen to do what the work is about.

    Raises BenchError if it does not.
    """
    seen: set[str] = set()

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


def _server_that_answered(process: Process, frontend: Frontend, head: str, body: str) -> str:
    server, _, client = body.partition(",")
    if frontend.mode == "http":
        if client != "127.0.0.1":
            raise BenchError(f"{process.name}: the server was told X-Forwarded-For {client!r}, not 127.0.0.1")
        name = next((name for name, address in frontend.named_servers if address == server), "")
        if f"set-cookie: serverid={name};" not in head.lower():
            raise BenchError(f"{process.name}: no SERVERID cookie for {name} in {head!r}")
    elif client:
        raise BenchError(f"{process.name}: X-Forwarded-For {client!r} in mode tcp")
    return server
