"""What cannot be known of log targets, captures and formats by one key alone."""

from __future__ import annotations

from collections.abc import Iterator

from balancer.config.logformat import fields
from balancer.config.logs import Log
from balancer.config.model import Config, Frontend
from balancer.config.tree import Finding, Loc
from balancer.config.words import a_list_of

__all__ = ["check_logs"]

_KINDS = ("request_header", "response_header", "cookie")


def check_logs(config: Config) -> Iterator[Finding]:
    """Of all targets and frontends."""
    yield from _targets(("global", "log"), config.global_.log)
    for name, frontend in config.frontends.items():
        loc: Loc = ("frontends", name)
        yield from _targets((*loc, "log"), frontend.log or ())
        yield from _captures((*loc, "capture"), frontend)
        yield from _format((*loc, "log_format"), frontend)


def _targets(loc: Loc, targets: tuple[Log, ...]) -> Iterator[Finding]:
    for i, log in enumerate(targets):
        if log.format == "json" and "len" in log.model_fields_set:
            yield Finding((*loc, i, "len"), "JSON that is cut is none; len is for format haproxy only", "key")
        if log.sample is not None and log.content == "events":
            yield Finding((*loc, i, "sample"), "is for access records, and these are events only", "key")
        if log.header is not None and log.target in ("journald", "none"):
            yield Finding((*loc, i, "header"), f"target {log.target} has no use for a header", "key")


def _captures(loc: Loc, frontend: Frontend) -> Iterator[Finding]:
    if frontend.capture and frontend.mode != "http":
        yield Finding(loc, f"is for mode http only, this is mode {frontend.mode}", "key")
    cookies = 0
    for i, capture in enumerate(frontend.capture):
        given = [kind for kind in _KINDS if getattr(capture, kind) is not None]
        if len(given) != 1:
            what = f"not {a_list_of(given, last='and')}; write an item for each" if given else "and this has none"
            yield Finding((*loc, i), f"wants one of {a_list_of(_KINDS)}, {what}")
        if capture.cookie is not None:
            cookies += 1
            if cookies > 1:
                yield Finding((*loc, i, "cookie"), "a frontend captures one cookie only", "key")


def _format(loc: Loc, frontend: Frontend) -> Iterator[Finding]:
    if frontend.log_format is None:
        return
    if frontend.mode == "udp":
        yield Finding(loc, "is for mode http and tcp only, this is mode udp", "key")
    elif frontend.engine == "kernel":
        yield Finding(loc, "the kernel does not tell so much of a connection; wants engine proxy", "key")
    elif frontend.mode == "tcp":
        idle = sorted(fields(frontend.log_format, of_http=True))
        if idle:
            text = f"mode tcp has nothing for {a_list_of([f'%{name}' for name in idle], last='and')}"
            yield Finding(loc, text)
