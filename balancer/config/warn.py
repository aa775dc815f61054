"""What can be used as it is, but deserves a line: bad habits, keys without effect."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from balancer.config import effective
from balancer.config.certificate import expiry
from balancer.config.htpasswd import is_hash
from balancer.config.model import Backend, Balance, Config, Frontend, HttpCheck
from balancer.config.tree import Substituted
from balancer.config.vrrp import SyncGroup, VrrpInstance
from balancer.config.words import a_list_of

__all__ = ["warnings"]

# RFC 2338 section 5.3.6.2: eight octets of authentication data.
_VRRP_PASSWORD = 8
# With the others a client would leave its server for each step of a weight (pool.warmup).
_WARMING = (Balance.ROUNDROBIN, Balance.LEASTCONN, Balance.RANDOM)
# Priority of the owner of the addresses (RFC 9568 section 5.2.4).
_OWNER = 255
# Seconds in which a certificate should be renewed.
_SOON = 14 * 86400.0


def warnings(config: Config) -> list[str]:
    """A line each, beginning with the key that it is about."""
    lines = [*_passwords(config), *_certificate(config), *_programs(config)]
    for name, instance in config.vrrp.instances.items():
        lines += _preemption(config, f"vrrp.instances.{name}", instance)
    used: dict[str, list[str]] = {}
    for name, frontend in config.frontends.items():
        for backend_name in frontend.backends:
            used.setdefault(backend_name, []).append(name)
        lines += _frontend(config, name, frontend)
    lines += _acls(config)
    for name, backend in config.backends.items():
        changing = {server for server in backend.servers if effective.resolution(config, name, server) is not None}
        lines += _backend(f"backends.{name}", backend, is_used=name in used, changing=changing)
        slow = next(
            (each for each, its in backend.servers.items() if its.slowstart is not None and its.maxconn is None), None
        )
        if slow is not None and backend.balance not in _WARMING:
            at = f"backends.{name}.servers.{slow}.slowstart"
            lines.append(f"{at}: has no effect with balance {backend.balance}, where clients stay with their server")
        if backend.persistence_timeout is not None and not any(
            config.frontends[user].engine != "proxy" for user in used.get(name, ())
        ):
            lines.append(f"backends.{name}.persistence_timeout: has no effect without a frontend of engine kernel")
    if config.defaults.flow_log != "none" and all(each.engine == "proxy" for each in config.frontends.values()):
        lines.append("defaults.flow_log: has no effect without a frontend of engine kernel")
    return lines


def _certificate(config: Config) -> Iterator[str]:
    tls = config.stats.tls if config.stats is not None else None
    if tls is None:
        return
    try:
        until = expiry(Path(tls.crt).read_bytes())
    except OSError:
        return
    left = (until or math.inf) - time.time()
    if left < _SOON:
        assert until is not None
        word = "expires" if left > 0 else "expired"
        day = datetime.fromtimestamp(until, UTC).date().isoformat()
        yield f"stats.tls.crt: {tls.crt} {word} on {day}; SIGHUP takes a renewed one"


def _passwords(config: Config) -> Iterator[str]:
    if config.stats is not None:
        plain = sum(
            not isinstance(user.password, Substituted) and not is_hash(user.password)
            for user in config.stats.users.values()
        )
        if plain:
            # Not whose: a password may stand in the place of a name.
            what, it = ("a plain-text password", "it") if plain == 1 else (f"{plain} plain-text passwords", "one")
            yield f"stats.users: {what}; ${{NAME}} takes {it} from outside"
    for name, instance in config.vrrp.instances.items():
        own = instance.authentication
        if own is None or own.password is None:
            continue
        if not isinstance(own.password, Substituted):
            yield (
                f"vrrp.instances.{name}.authentication: plain-text password; it crosses the wire as plainly, "
                "so it guards against mistakes only"
            )
        if len(own.password.encode()) > _VRRP_PASSWORD:
            yield f"vrrp.instances.{name}.authentication: only the first {_VRRP_PASSWORD} octets of the password count"
    heartbeat = config.vrrp.heartbeat
    if heartbeat is not None and not isinstance(heartbeat.key, Substituted):
        yield "vrrp.heartbeat: plain-text key; ${NAME} takes it from outside"


def _programs(config: Config) -> Iterator[str]:
    """keepalived's script security: who can write what root runs is root. Nobody else's programs matter to us."""
    vrrp = config.vrrp
    if os.geteuid() != 0 or vrrp.script_user not in (None, "root"):
        return
    programs = {f"vrrp.scripts.{name}.script": script.script for name, script in vrrp.scripts.items()}
    told: dict[str, VrrpInstance | SyncGroup] = {}
    told.update((f"vrrp.instances.{name}", instance) for name, instance in vrrp.instances.items())
    told.update((f"vrrp.sync_groups.{name}", group) for name, group in vrrp.sync_groups.items())
    for at, each in told.items():
        for key in ("notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"):
            words = getattr(each, key)
            if words is not None:
                programs[f"{at}.{key}"] = words
    said = set()
    for at, words in programs.items():
        weak = _writable_by_others(Path(words[0]))
        if weak is not None and weak not in said:
            said.add(weak)
            yield f"{at}: runs as root, and others than root can write {weak}; chmod it, or set vrrp.script_user"


def _writable_by_others(program: Path) -> Path | None:
    """What of a program and the directories above it others than root can write: whoever can put a file in its place
    can write it too. None where it cannot be found."""
    try:
        real = program.resolve(strict=True)
        for place in (real, *real.parents, *program.absolute().parents):
            found = place.stat()
            is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            # In /tmp and the like nobody can take another's file away.
            if found.st_uid != 0 or (is_shared and not (place != real and found.st_mode & stat.S_ISVTX)):
                return place
    except (OSError, RuntimeError):
        # RuntimeError: symbolic links that lead in a circle.
        return None
    return None


def _preemption(config: Config, at: str, instance: VrrpInstance) -> Iterator[str]:
    if instance.preempt:
        return
    if instance.priority == _OWNER:
        yield f"{at}.preempt: has no effect with priority {_OWNER}: the owner always takes its addresses"
        return
    if instance.preempt_delay is not None:
        yield f"{at}.preempt_delay: has no effect with `preempt: false`"
    vrrp = config.vrrp
    weights = {f"track_interface {each.interface}": each.weight for each in instance.track_interface}
    for script in instance.track_script:
        own = vrrp.scripts[script.script].weight
        weights[f"track_script {script.script}"] = own if script.weight is None else script.weight
    for file in instance.track_file:
        own = vrrp.files[file.file].weight
        weights[f"track_file {file.file}"] = own if file.weight is None else file.weight
    weights |= {f"track_backend {each.backend}": each.weight for each in instance.track_backend}
    idle = [what for what, weight in weights.items() if weight]
    if idle:
        yield (
            f"{at}.preempt: where it is false on all directors, only FAULT (weight 0) moves the addresses, "
            f"not the weight of {a_list_of(idle)}"
        )


def _frontend(config: Config, name: str, frontend: Frontend) -> Iterator[str]:
    at = f"frontends.{name}"
    if "forwarding" in frontend.model_fields_set and frontend.engine == "proxy":
        yield f"{at}.forwarding: has no effect with engine {frontend.engine}"
    if frontend.flow_log not in (None, "none"):
        if frontend.engine == "proxy":
            yield f"{at}.flow_log: has no effect with engine proxy, which logs its connections without it"
        elif frontend.log == ():
            yield f"{at}.flow_log: has no effect with `log: false`"
    if "udp" in frontend.model_fields_set and frontend.mode != "udp":
        yield f"{at}.udp: has no effect with mode {frontend.mode}"
    if frontend.error_files.paths and frontend.mode != "http":
        yield f"{at}.error_files: has no effect with mode {frontend.mode}"
    if frontend.engine == "kernel":
        idle = list(_of_the_proxy(config, frontend))
        if idle:
            yield f"{at}.engine: kernel has no use for {a_list_of(idle, last='and')}: no effect"
        return
    yield from _unreached(at, frontend)
    yield from _schemes(config, at, frontend)
    if frontend.mode == "udp":
        return
    client = effective.frontend(config, name).timeouts.client
    server = max((effective.backend(config, each).timeouts.server for each in frontend.backends), default=0.0)
    if client < server:
        yield (
            f"{at}.timeout.client: {client:g}s is shorter than the server's {server:g}s: "
            "a slow answer is logged as the client's fault"
        )


def _unreached(at: str, frontend: Frontend) -> Iterator[str]:
    """Rules behind one that is for all requests."""
    for i, request_rule in enumerate(frontend.http_request[:-1]):
        if request_rule.if_ is None and request_rule.is_final:
            yield f"{at}.http_request[{i}]: is for all requests, so the rules behind it have no effect"
            break
    for i, rule in enumerate(frontend.use_backend):
        if rule.if_ is None and (i + 1 < len(frontend.use_backend) or frontend.default_backend):
            yield f"{at}.use_backend[{i}]: is for all requests, so what comes behind it has no effect"
            return


def _acls(config: Config) -> Iterator[str]:
    conditions = [*config.acls.values()]
    for frontend in config.frontends.values():
        conditions += frontend.conditions
    used = {name for condition in conditions for _, inner in condition.within for name in inner.acl or ()}
    yield from (f"acls.{name}: is used nowhere" for name in config.acls if name not in used)


def _schemes(config: Config, at: str, frontend: Frontend) -> Iterator[str]:
    """Conditions on the scheme, where nobody is trusted to tell it."""
    if frontend.trusted_proxies or any(bind.accept_proxy for bind in frontend.bind):
        return
    rest = frontend.conditions
    seen: set[str] = set()
    while rest:
        for _, inner in rest.pop().within:
            if inner.scheme is not None:
                yield f"{at}: `scheme` is always http in its conditions without trusted_proxies or accept_proxy"
                return
            names = set(inner.acl or ()) - seen
            seen |= names
            rest += (config.acls[name] for name in sorted(names))


def _of_the_proxy(config: Config, frontend: Frontend) -> Iterator[str]:
    """Keys of a frontend of the kernel, and of its backend if that has no others, which only the proxy heeds."""
    yield from _given(frontend)
    name = frontend.default_backend
    users = (other for other in config.frontends.values() if other.default_backend == name)
    if name in config.backends and all(user.engine == "kernel" for user in users):
        backend = config.backends[name]
        yield from (f"backends.{name}.{key}" for key in _given(backend))
        for server, its in backend.servers.items():
            for key in ("maxconn", "minconn", "maxqueue", "slowstart"):
                if getattr(its, key) is not None:
                    yield f"backends.{name}.servers.{server}.{key}"


def _given(of: Frontend | Backend) -> Iterator[str]:
    for key in ("maxconn", "fullconn", "retries", "redispatch", "tcp_keepalive"):
        # `tcp_keepalive: false` reads as None.
        if getattr(of, key, None) is not None:
            yield key
    yield from (f"timeout.{key}" for key, value in of.timeout if value is not None)


def _backend(at: str, backend: Backend, *, is_used: bool, changing: Collection[str]) -> Iterator[str]:
    servers = backend.servers
    if is_used and "check" not in backend.model_fields_set:
        yield f"{at}.check: there is none, so its servers always count as up"
    if all(server.weight == 0 for server in servers.values()):
        yield f"{at}.servers: every weight is 0, so no new client is served"
    if all(server.backup for server in servers.values()):
        yield f"{at}.servers: all are backups, so they serve from the start"
    yield from _cookies(at, backend)
    if backend.fullconn is not None and all(server.minconn is None for server in servers.values()):
        yield f"{at}.fullconn: has no effect, as none of its servers has a `minconn`"
    if backend.timeout.queue is not None and not backend.is_limited:
        yield f"{at}.timeout.queue: has no effect, as none of its servers has a `maxconn`"
    if backend.cookie is None and backend.balance not in (Balance.SOURCE, Balance.URI, Balance.MAGLEV):
        idle = [name for name, server in servers.items() if server.maxqueue is not None]
        if idle:
            yield f"{at}.servers.{idle[0]}.maxqueue: has no effect without a cookie or a hash that leads to this server"
    first: dict[str, str] = {}
    for name, server in servers.items():
        twin = first.setdefault(str(server.address), name)
        # Servers whose name is resolved while it runs take an address each.
        if twin != name and name not in changing:
            yield f"{at}.servers.{name}: has the address of {twin} ({server.address})"
    hashes = (Balance.SOURCE, Balance.URI)
    if "hash_type" in backend.model_fields_set and backend.balance not in hashes:
        yield f"{at}.hash_type: has no effect with balance {backend.balance}"
    if isinstance(backend.check, HttpCheck) and backend.check.tls is not None:
        tls = backend.check.tls
        if tls.ca_file is not None and not tls.verify:
            yield f"{at}.check.tls.ca_file: has no effect without `verify: true`"


def _cookies(at: str, backend: Backend) -> Iterator[str]:
    if backend.cookie is None:
        lost = [name for name, server in backend.servers.items() if server.cookie is not None]
        if lost:
            yield f"{at}.servers.{lost[0]}.cookie: has no effect, as the backend has no `cookie`"
        return
    without = [name for name, server in backend.servers.items() if server.cookie is None and not server.backup]
    if without:
        yield f"{at}.servers.{without[0]}: has no cookie value, so its clients are not kept"
