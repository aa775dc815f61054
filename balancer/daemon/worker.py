"""A worker: one event loop that carries the traffic of every proxied frontend."""

from __future__ import annotations

import asyncio
import functools
import gc
import ipaddress
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal

import uvloop

from balancer.algorithms import registry
from balancer.config import effective, forwarding, model
from balancer.config.model import Bind
from balancer.daemon.effort import Effort
from balancer.daemon.faults import report_to
from balancer.daemon.handover import Giving, Taking
from balancer.daemon.heap import trim
from balancer.daemon.inquiries import Answering, Sessions, captured
from balancer.daemon.limits import PROCESS, Entry, unbounded
from balancer.daemon.memory import Memory, answer, ring
from balancer.daemon.plan import Plan
from balancer.observe.bounds import Door
from balancer.observe.log import AccessLog, Level
from balancer.pool.backend import Backend
from balancer.pool.captures import Captures
from balancer.pool.facts import Counters, Entity, Ledger, let_go
from balancer.pool.observer import Cells, Observer
from balancer.pool.outdated import Voice
from balancer.pool.places import PacedPlaces, Places
from balancer.pool.records import HttpRecord
from balancer.pool.server import Server
from balancer.pool.share import Share, batch_for
from balancer.pool.sources import Table
from balancer.pool.sticky import Persistence
from balancer.pool.waiting import LimitedBackend, PacedBackend, Room
from balancer.pool.warmup import FOLLOWING, scale_of
from balancer.proxy.cache import Cache
from balancer.proxy.compress import Budget, Compression
from balancer.proxy.dns import DnsForwarder
from balancer.proxy.exchange import Exchange, ForwardedFor, HttpBackend, HttpFrontend
from balancer.proxy.filters import FilteredExchange
from balancer.proxy.http import Entrance
from balancer.proxy.listen import Gate, Listener
from balancer.proxy.moves import Moves
from balancer.proxy.origin import Pool
from balancer.proxy.replies import Replies
from balancer.proxy.route import RoutedExchange, Router, nowhere
from balancer.proxy.sources import LimitedClient, LimitedReceiver, LimitedTcpFrontend, Limiter, RequestLimiter
from balancer.proxy.stream import Poller
from balancer.proxy.stream import Receiver as StreamReceiver
from balancer.proxy.sweep import INTERVAL, Clock, Sweeper
from balancer.proxy.tcp import TcpFrontend
from balancer.proxy.udp import FlowForwarder, Receiver
from balancer.proxy.upstream import Upstream
from balancer.proxy.wake import Bells
from balancer.wire.framing import NO_BOUND
from balancer.wire.http1 import Limits

__all__ = ["Worker"]

# Counters reach shared memory every so many sweeps: four times a second, with INTERVAL at 0.1 s.
_SWEEPS_PER_FLUSH = 3
_SWEEPS_PER_PURGE = 10
# What limits have refused beyond the records of it is said every five seconds.
_SWEEPS_PER_SUM = 50
# What was freed is given back every ten seconds.
_SWEEPS_PER_TRIM = 100
# Records written in one go, two milliseconds of work.
_LOG_BATCH = 256
# The time that reading server states took, this many times over, belongs to the traffic before they are read again.
_REST = 10
_DNS_PORT = 53
# EX_OSERR of sysexits(3).
_OUT_OF_MEMORY = 71
_DNS_TIMEOUT = 2.0
_FLOW_TIMEOUT = 30.0


class Worker:
    """The data plane in one process. `sockets` are this worker's own, by frontend; `predecessor` is the line to the
    worker of its number before a reload, where that one may have flows; `slot` is its own in all limits."""

    def __init__(
        self,
        plan: Plan,
        memory: Memory,
        number: int,
        sockets: dict[str, list[tuple[Bind, socket.socket]]],
        predecessor: socket.socket | None = None,
        *,
        slot: int = 0,
    ) -> None:
        self._plan = plan
        self._config = plan.config
        self._memory = memory
        self._number = number
        self._sockets = sockets
        self._predecessor = predecessor
        self._slot = slot
        self._ledger = Ledger(memory.blocks[number], plan.layout)
        self._process = self._ledger[Entity("process", "")]
        self._clock = Clock()
        self._sweeper = Sweeper(self._clock)
        self._log = AccessLog(plan.log, plan.records)
        self._log.keep = memory.journal.writer(f"worker {number}")
        self._dropped_before = self._process.log_dropped
        self._busy_before = self._process.busy
        self._process_share = self._share(PROCESS, plan.maxconn, plan.maxconn_per_worker)
        self._crowd = self._places("line", PROCESS)
        self._fullconn = effective.fullconn(self._config)
        self._made_replies: dict[tuple[tuple[int, str], ...], Replies] = {}
        """Backends with the same pages have the same ones."""
        self._backends: dict[str, Backend] = {}
        self._limited: list[LimitedBackend] = []
        self._pools: dict[str, Pool] = {}
        self.routers: dict[str, Router] = {}
        """By frontend; of those alone that have rules."""
        # Nobody else asks for them.
        has_socket = plan.config.global_.runtime_socket is not None
        self._captures = Captures(number, plan.workers) if has_socket else None
        self._limiters: dict[str, Limiter] = {}
        """By frontend; of those alone that have limits."""
        self._servers: list[Server] = []
        self._moves = Moves(self._sweeper.members)
        self._gates: list[Gate] = []
        self._listeners: list[Listener] = []
        self._doors: dict[str, Listener | DnsForwarder | FlowForwarder] = {}
        """By frontend."""
        self._seen_doors: dict[str, int] = {}
        self._forwarders: list[DnsForwarder | FlowForwarder] = []
        self._flows: dict[str, FlowForwarder] = {}
        self._is_going = False
        self._has_alarm = False
        self._handing: Giving | Taking | None = None
        self._upstreams: dict[str, Upstream] = {}
        self._budget: Budget | None = None
        self._caches: dict[str, Cache] = {}
        self._stop_at: float | None = None
        self._ticks = 0
        self._seen = bytearray()
        self._peaks = memory.peaks[0]
        self._read_at = 0.0
        self._reading: asyncio.TimerHandle | None = None
        self._failures: dict[Counters, int] = {}

    def run(self) -> None:
        """Once told to go, serve until SIGTERM or SIGUSR1 has been received and what was in flight is done."""
        # What was made before the fork stays shared with the parent as long as nobody walks it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report_to(self._log, runner.get_loop(), out_of_memory=self._give_up)
            runner.run(self._serve())
        self._log.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._effort = Effort()
        self._finished = asyncio.Event()
        self._poller = Poller(loop)
        self._build(loop)
        self._read_board()
        loop.add_reader(self._memory.worker_bells[self._number], self._on_bell)
        answering = self._answering(loop)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self._make_way)
        loop.add_signal_handler(signal.SIGUSR2, self._end_at_once)
        for gate in self._gates:
            gate.siblings = self._gates
        self._bells = Bells(loop)
        for limited in self._limited:
            self._bells.listen(limited.bell.bell, limited.look)
        self._bells.listen(self._crowd.bell, self._on_crowd)
        self._tick(loop)
        # Whoever waits for us to be ready need not wait for a tick.
        self._beat()
        self._go()
        await self._finished.wait()
        self._bells.close()
        self._effort.close()
        if answering is not None:
            answering.close()
        self._process.heartbeat = 0
        self._forget_peaks()
        self._flush()
        # What is idle, or was cut off, ends with us.
        let_go(self._memory.blocks[self._number], self._plan.layout)
        self._poller.close()

    def _answering(self, loop: asyncio.AbstractEventLoop) -> Answering | None:
        if not self._memory.inquiries:
            return None
        told = Sessions(self._sweeper.members, self._slot, self._config)
        line = self._memory.inquiries[self._number].worker
        answers = {"sessions": told.told, "oldest": told.oldest, "shut": told.shut}
        if self._captures is not None:
            answers["errors"] = functools.partial(captured, self._captures)
        return Answering(loop, line, answers)

    def _go(self) -> None:
        """Take clients, if told so by now."""
        if self._is_going or self._stop_at is not None or not self._memory.going[0]:
            return
        self._is_going = True
        self._see_to_doors()
        for gate in self._gates:
            gate.admit()
        for forwarder in self._forwarders:
            if isinstance(forwarder, DnsForwarder):
                forwarder.start()
        if self._predecessor is None or not self._flows:
            self._listen_for_flows()
        else:
            loop = asyncio.get_running_loop()
            self._handing = Taking(loop, self._predecessor, self._flows, self._listen_for_flows)

    def _listen_for_flows(self) -> None:
        self._handing = None
        for forwarder in self._flows.values():
            if self._stop_at is None:
                forwarder.start()

    # Building

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        # Its own choices, not those of the worker beside it.
        rng = random.Random()  # noqa: S311 (which server is no secret)
        for name, config in self._config.backends.items():
            self._backends[name] = self._backend(name, config, rng)
            settings = effective.backend(self._config, name)
            self._upstreams[name] = Upstream(
                self._poller,
                self._backends[name],
                connect_timeout=settings.timeouts.connect,
                retries=settings.retries,
                redispatch=settings.redispatch,
                keepalive=settings.tcp_keepalive,
            )
        for name, frontend in self._config.frontends.items():
            if frontend.engine == "kernel":
                continue
            if frontend.mode == "udp":
                forwarder = self._doors[name] = self._forwarder(loop, name, frontend)
                self._forwarders.append(forwarder)
                continue
            build = self._http if frontend.mode == "http" else self._tcp
            gate = self._gate(name)
            enter = build(name, frontend, gate)
            listener = Listener(
                self._poller,
                [(sock, enter(accept_proxy=bind.accept_proxy)) for bind, sock in self._sockets[name]],
            )
            gate.attach(listener)
            self._gates.append(gate)
            self._listeners.append(listener)
            self._doors[name] = listener

    def _backend(self, name: str, config: model.Backend, rng: random.Random) -> Backend:
        servers = []
        scale = scale_of(config)
        for server_name, server_config in config.servers.items():
            seat = self._plan.seats[name, server_name]
            server = Server(
                name, server_name, server_config, self._ledger[Entity("server", name, server_name)], seat.index
            )
            server.scale = scale
            server.follows = config.balance in FOLLOWING
            address = seat.at(self._memory.board[seat.index])
            server.sockaddr = address.sockaddr if address is not None else None
            if server_config.observe != "none":
                names = ("obs_run", "obs_ok", "obs_peak")
                cells = Cells(*(self._ledger.cell(server.counters, each) for each in names))
                Observer(server, time.monotonic, cells, self._on_errors)
            servers.append(server)
        self._servers += servers
        entity = Entity("backend", name)
        algorithm = registry.create(
            config.balance,
            hash_type=config.hash_type,
            rng=rng,
            servers=len(config.servers),
            last=self._memory.turns[name],
        )
        counters, touched = self._ledger[entity], self._ledger.touched
        if not config.is_limited:
            return Backend(name, config, servers=servers, algorithm=algorithm, counters=counters, touched=touched)
        bell = self._places("line", entity)
        rooms = {server: self._room(server, config) for server in servers if server.config.maxconn is not None}
        kind: Callable[..., LimitedBackend] = LimitedBackend
        if config.is_paced:
            kind = functools.partial(PacedBackend, fullconn=self._fullconn[name])
        limited = kind(
            name,
            config,
            servers=servers,
            algorithm=algorithm,
            counters=counters,
            touched=touched,
            bell=bell,
            rooms=rooms,
        )
        self._limited.append(limited)
        return limited

    def _room(self, server: Server, config: model.Backend) -> Room:
        entity = Entity("server", server.backend, server.name)
        seats = self._places("seats", entity) if server.config.maxqueue is not None else None
        if not config.is_paced:
            return Room(self._places("places", entity), seats)
        return Room(PacedPlaces(self._memory.limits[Entry("places", entity)], self._slot), seats)

    def _places(self, what: Literal["places", "seats", "line"], entity: Entity) -> Places:
        return Places(self._memory.limits[Entry(what, entity)], self._slot)

    def _gate(self, name: str) -> Gate:
        entity = Entity("frontend", name)
        own = effective.frontend(self._config, name).maxconn
        share = self._share(entity, own if own is not None else unbounded(self._plan.maxconn))
        return Gate(self._ledger[entity], share, self._process, self._process_share, self._crowd.ring)

    def _share(self, entity: Entity, total: int, most: float = inf) -> Share:
        return Share(self._places("places", entity), batch=batch_for(total, self._plan.workers), most=most)

    def _limiter(self, name: str, frontend: model.Frontend) -> Limiter | None:
        if frontend.limits is None:
            return None
        sources = self._memory.sources[name]
        others = [block for number, block in enumerate(sources.blocks) if number != self._number]
        table = Table(self._memory.secret, sources.blocks[self._number], others + sources.elders)
        limiter = self._limiters[name] = Limiter(name, frontend, table)
        return limiter

    def _tcp(self, name: str, frontend: model.Frontend, gate: Gate) -> Callable[..., Callable[[], StreamReceiver]]:
        front = effective.frontend(self._config, name)
        back = effective.backend(self._config, frontend.default_backend).timeouts
        limiter = self._limiter(name, frontend)
        make = functools.partial(LimitedTcpFrontend, limiter=limiter) if limiter is not None else TcpFrontend
        shared = make(
            name=name,
            clock=self._clock,
            sweeper=self._sweeper,
            gate=gate,
            upstream=self._upstreams[frontend.default_backend],
            client_timeout=front.timeouts.client,
            queue_timeout=back.queue,
            server_timeout=back.server,
            tunnel_timeout=back.tunnel if back.tunnel_given else None,
            client_fin=front.timeouts.client_fin,
            server_fin=back.server_fin,
            proxy_header_timeout=front.timeouts.http_request,
            keepalive=front.tcp_keepalive,
            log=self._log.writer(name),
            dontlognull=front.dontlognull,
        )
        return functools.partial(functools.partial, shared.accept)

    def _http(self, name: str, frontend: model.Frontend, gate: Gate) -> Callable[..., Callable[[], StreamReceiver]]:
        front = effective.frontend(self._config, name)
        of_all = self._config.global_
        forwarded_for = frontend.forwarded_for
        backends = {each: self._http_backend(name, each) for each in frontend.backends}
        filters = any(each.compression is not None or each.cache is not None for each in backends.values())
        replies = self._replies(front.error_files)
        default = backends.get(frontend.default_backend) or nowhere(self._poller, name, replies)
        if frontend.has_rules or filters:
            self.routers[name] = Router(
                frontend, self._config.acls, backends, nowhere(self._poller, name, replies), self._plan.pages
            )
        limiter = self._limiter(name, frontend)
        router = self.routers.get(name)
        exchange: Callable[..., Exchange] = Exchange
        if router is not None:
            exchange = functools.partial(FilteredExchange if filters else RoutedExchange, router)
        log: Callable[[HttpRecord], None] | None = self._log.writer(name)
        if limiter is not None:
            requests = RequestLimiter(limiter, frontend, exchange, router, nowhere(self._poller, name, replies))
            exchange, log = requests if requests.is_needed else exchange, requests.log(log)
        shared = HttpFrontend(
            name=name,
            loop=self._poller.loop,
            clock=self._clock,
            sweeper=self._sweeper,
            gate=gate,
            limits=Limits(head=of_all.max_header_size, uri=of_all.max_uri_size, fields=of_all.max_headers),
            default=default,
            exchange=exchange if exchange is not Exchange else None,
            replies=replies,
            max_body=front.max_body_size if front.max_body_size is not None else NO_BOUND,
            forwarded_for=_forwarded_for(forwarded_for) if forwarded_for is not None else None,
            client_timeout=front.timeouts.client,
            client_fin=front.timeouts.client_fin,
            request_timeout=front.timeouts.http_request,
            keep_alive_timeout=front.timeouts.http_keep_alive,
            keepalive=front.tcp_keepalive,
            log=log,
            dontlognull=front.dontlognull,
            captures=self._captures,
        )
        if limiter is not None:
            return functools.partial(functools.partial, LimitedClient, limiter, shared)
        return functools.partial(Entrance, shared)

    def _http_backend(self, frontend: str, name: str) -> HttpBackend:
        backend = self._backends[name]
        config = backend.config
        settings = effective.backend(self._config, name)
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = Pool(
                backend.servers, most=config.pool_max_conn, purge_delay=config.pool_purge_delay
            )
        return HttpBackend(
            backend=backend,
            upstream=self._upstreams[name],
            pool=pool,
            persistence=Persistence(config.cookie, backend.servers) if config.cookie is not None else None,
            cookie=config.cookie,
            reuse=config.http_reuse,
            is_pooled=config.http_reuse != "never"
            and all(server.config.send_proxy is None for server in backend.servers),
            queue_timeout=settings.timeouts.queue,
            server_timeout=settings.timeouts.server,
            server_fin=settings.timeouts.server_fin,
            tunnel_timeout=settings.timeouts.tunnel,
            replies=self._replies(settings.error_files),
            compression=self._compression(frontend, name),
            cache=self._cache(backend),
        )

    def _cache(self, backend: Backend) -> Cache | None:
        """One for all frontends."""
        config = backend.config.cache
        if config is not None and backend.name not in self._caches:
            voice = Voice(self._memory.outdated[backend.name], self._slot)
            self._caches[backend.name] = Cache(
                config, workers=self._plan.workers, counters=backend.counters, voice=voice
            )
        return self._caches.get(backend.name)

    def _compression(self, frontend: str, backend: str) -> Compression | None:
        config = effective.compression(self._config, frontend, backend)
        if config is None:
            return None
        if self._budget is None:
            of_all = self._config.global_
            share = of_all.maxcompcpuusage / 100
            self._budget = Budget(memory=of_all.maxcompmem // self._plan.workers, share=share)
        return Compression(config, self._budget)

    def _replies(self, files: dict[int, str]) -> Replies:
        pages = tuple(files.items())
        if pages not in self._made_replies:
            self._made_replies[pages] = Replies({status: self._plan.pages[path] for status, path in pages})
        return self._made_replies[pages]

    def _forwarder(
        self, loop: asyncio.AbstractEventLoop, name: str, frontend: model.Frontend
    ) -> DnsForwarder | FlowForwarder:
        backend = self._backends[frontend.default_backend]
        sockets: Sequence[socket.socket] = [sock for _, sock in self._sockets[name]]
        counters: Counters = self._ledger[Entity("frontend", name)]
        udp = frontend.udp
        limiter = self._limiter(name, frontend)
        receiver: Callable[[socket.socket], Receiver] = Receiver
        if limiter is not None:
            receiver = functools.partial(LimitedReceiver, limiter, counters)
        is_dns = udp.protocol == "dns" or (
            udp.protocol == "auto"
            and (backend.config.check.type == "dns" or any(bind.address.port == _DNS_PORT for bind in frontend.bind))
        )
        if is_dns:
            return DnsForwarder(
                loop,
                sockets,
                frontend=name,
                backend=backend,
                counters=counters,
                timeout=udp.timeout or _DNS_TIMEOUT,
                max_flows=udp.max_flows,
                log=self._log.writer(name),
                receiver=receiver,
            )
        flows = self._flows[name] = FlowForwarder(
            loop,
            sockets,
            frontend=name,
            backend=backend,
            counters=counters,
            timeout=udp.timeout or _FLOW_TIMEOUT,
            responses=udp.responses,
            max_flows=udp.max_flows,
            log=self._log.writer(name),
            receiver=receiver,
        )
        return flows

    # Running

    def _on_bell(self) -> None:
        answer(self._memory.worker_bells[self._number])
        self._go()
        self._see_to_doors()
        for gate in self._gates:
            # A limit may be another.
            gate.tidy()
        if self._reading is None:
            self._reading = asyncio.get_running_loop().call_at(self._read_at, self._read_board)

    def _on_crowd(self) -> None:
        """Clients wait to be let in, in one worker or another."""
        for gate in self._gates:
            gate.on_ring()

    def _read_board(self) -> None:
        """Take over what control has decided since the last look."""
        self._reading = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._forget_peaks()
        changed: set[str] = set()
        seats = self._plan.seats
        # A board without servers has a row all the same.
        for index, state in self._memory.board.changes(self._seen) if self._servers else ():
            server = self._servers[index]
            before = server.state
            server.apply(state)
            changed.add(server.backend)
            if state.place != before.place:
                self._moves.move(server, seats[server.backend, server.name].at(state))
            if before.takes_cookie and not state.takes_cookie:
                # Down, or in maintenance.
                pool = self._pools.get(server.backend)
                if pool is not None:
                    pool.empty(server)
                for session in list(server.sessions):
                    session.kill("D")
            if state.shutdowns != before.shutdowns:
                self._shut(server)
        for name in changed:
            self._backends[name].refresh()
        self._moves.look()
        now = loop.time()
        # Thousands of servers that flap must not keep us from the traffic.
        self._read_at = now + _REST * (now - began)

    def _forget_peaks(self) -> None:
        """If somebody wants them forgotten since the last look."""
        if self._peaks != self._memory.peaks[0]:
            self._peaks = self._memory.peaks[0]
            self._ledger.forget_peaks()

    def _see_to_doors(self) -> None:
        """Operators close frontends, and open them again; those before a reload may have left them closed."""
        if self._stop_at is not None or not self._is_going:
            return
        for name, listener in self._doors.items():
            door = self._memory.doors.get(name)
            # The memory of a version before may have none for it.
            if door is None or self._seen_doors.get(name) == door[0]:
                continue
            self._seen_doors[name] = door[0]
            if not isinstance(listener, Listener):
                listener.admit() if door[0] == Door.OPEN else listener.refuse()
                continue
            try:
                if door[0] == Door.OPEN:
                    listener.listen(self._config.global_.backlog)
                elif door[0] == Door.PAUSED:
                    listener.refuse()
                else:
                    listener.leave()
            except OSError as error:
                self._log.event(Level.ALERT, f"frontend {name} cannot be listened for: {error.strerror}")

    def _shut(self, server: Server) -> None:
        """An operator wants its sessions to end."""
        for member in list(self._sweeper.members):
            if member.server is server:
                member.kill("K")

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(INTERVAL, self._tick, loop)
        self._ticks += 1
        self._sweeper.sweep()
        now = self._clock.now
        for limited in self._limited:
            if limited.waiting:
                # Whoever has a place coming to him in another worker may hang.
                limited.look(is_patient=False)
        for gate in self._gates:
            gate.tidy()
        for forwarder in self._forwarders:
            forwarder.sweep(now)
        self._write_log(loop)
        if self._ticks % _SWEEPS_PER_FLUSH == 0:
            self._beat()
        if self._ticks % _SWEEPS_PER_PURGE == 0:
            for pool in self._pools.values():
                pool.purge(now)
            self._moves.look()
            for limited in self._limited:
                limited.tidy()
            for member in self._sweeper.members:
                member.report()
        if self._ticks % _SWEEPS_PER_TRIM == 0:
            trim()
        if self._ticks % _SWEEPS_PER_SUM == 0:
            for limiter in self._limiters.values():
                for text in limiter.tidy(now):
                    self._log.event(Level.WARNING, text)
        if self._stop_at is not None:
            self._see_whether_done(now)

    def _write_log(self, loop: asyncio.AbstractEventLoop) -> None:
        """A part at a time, with a turn for the traffic between them, for as long as the log takes them."""
        waiting = self._log.flush(0)
        if waiting and waiting - self._log.flush(_LOG_BATCH) >= _LOG_BATCH:
            loop.call_soon(self._write_log, loop)

    def _beat(self) -> None:
        self._process.heartbeat = int(time.monotonic() * 1e6)
        self._process.tasks = len(asyncio.all_tasks())
        self._process.busy = self._busy_before + self._effort.spent
        self._flush()

    def _on_errors(self) -> None:
        """A server has had too many in a row: control is to know at once."""
        if not self._has_alarm:
            self._has_alarm = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._has_alarm = False
        self._process.log_dropped = self._dropped_before + self._log.dropped
        failed = False
        for counters in self._ledger.touched:
            failures = counters.econ + counters.wretr + counters.wredis + counters.obs_run
            if failures and failures != self._failures.get(counters):
                self._failures[counters] = failures
                failed = True
        self._ledger.flush()
        if failed:
            ring(self._memory.control_bell)

    # Stopping

    def _stop(self) -> None:
        """SIGTERM: accept no more, let what is in flight finish."""
        if self._stop_at is None:
            self._accept_no_more()
        self._stop_at = min(self._stop_at or 0.0, self._latest_end)
        for gate in self._gates:
            gate.is_patient = False
        for forwarder in self._forwarders:
            forwarder.stop_accepting()
        for member in list(self._sweeper.members):
            member.finish_up()

    def _give_up(self) -> None:
        """Nobody knows what was left half done; the supervisor puts right what is shared, and starts another."""
        os._exit(_OUT_OF_MEMORY)

    def _end_at_once(self) -> None:
        """SIGUSR2: nor wait for that."""
        self._stop()
        self._stop_at = 0.0

    def _make_way(self) -> None:
        """SIGUSR1: hand over flows to the one that takes our place after a reload, and otherwise do as after SIGTERM.
        But whoever has an idle connection may be about to use it: the next response on it is the last."""
        if self._stop_at is not None:
            # Those after us had other servers; now they have another configuration.
            self._stop_at = min(self._stop_at, self._latest_end)
            return
        for gate in self._gates:
            gate.is_patient = True
        self._accept_no_more()
        if self._memory.has_time[0]:
            self._stop_at = inf
        for forwarder in self._forwarders:
            if isinstance(forwarder, DnsForwarder):
                forwarder.stop_accepting()
        if self._flows:
            line = self._memory.successions[self._number].old
            self._handing = Giving(asyncio.get_running_loop(), line, self._flows, self._when_handed_over)

    @property
    def _latest_end(self) -> float:
        return time.monotonic() + self._config.global_.hard_stop_after

    def _accept_no_more(self) -> None:
        self._stop_at = self._latest_end
        for gate in self._gates:
            gate.stopping = True
        for listener in self._listeners:
            listener.close()

    def _when_handed_over(self) -> None:
        self._handing = None
        for forwarder in self._flows.values():
            forwarder.stop_accepting()

    def _see_whether_done(self, now: float) -> None:
        busy = (
            bool(self._sweeper.members)
            or any(gate.has_parked for gate in self._gates)
            or not all(listener.is_closed for listener in self._listeners)
            or any(forwarder.outstanding for forwarder in self._forwarders)
            or self._handing is not None
        )
        if busy and now < (self._stop_at or 0):
            return
        for member in list(self._sweeper.members):
            member.kill("K")
        for forwarder in self._forwarders:
            forwarder.close()
        self._finished.set()


def _forwarded_for(config: forwarding.ForwardedFor) -> ForwardedFor:
    return ForwardedFor(
        header=config.header.encode(),
        lower=config.header.lower().encode(),
        exclude=tuple(ipaddress.ip_network(network) for network in config.exclude),
        if_none=config.if_none,
    )
