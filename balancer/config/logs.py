"""Where log lines go, and which of them: `global.log`, and `log` of a frontend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema
from pydantic_core.core_schema import CoreSchema

from balancer.config.kinds import LogTarget, SampleOf, Token
from balancer.config.values import Model, OneOrMany, Whole, Written
from balancer.config.words import shown

__all__ = ["LONGEST_LINE", "Capture", "FrontendLogs", "Log", "LogLevel", "Logs"]

LONGEST_LINE = 4095
"""Octets: what a pipe takes all or nothing (pipe(7): PIPE_BUF), the line's end besides."""

LogLevel = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]


class Log(Model):
    """A target of access records and events, and what lines look like there (HAProxy's `log`)."""

    target: LogTarget = "stdout"
    """syslog (the local /dev/log), unix:/path/of.sock (another one's), udp://HOST:PORT, tcp://HOST:PORT (syslog too),
    journald, stdout, stderr, /path/of/file.log, or none."""
    facility: Literal[
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ] = "local0"  # fmt: skip
    """syslog facility (RFC 5424 section 6.2.1)."""
    format: Literal["haproxy", "json"] = "haproxy"
    """haproxy: the lines of `option httplog` and `option tcplog`; json: one object a line."""
    header: Literal["rfc3164", "rfc5424"] | None = None
    """What a line begins with: syslog's older or newer header; in files and on stdout without its priority, as syslog
    writes them. Default: rfc3164 to syslog, rfc5424 over tcp://, none elsewhere."""
    content: Literal["all", "traffic", "events"] = "all"
    """traffic: access records alone; events: the rest (servers up and down, refusals, what operators do); all: both."""
    level: LogLevel = "debug"
    """Nothing that matters less. Access records are of level info."""
    len: Annotated[int, Whole(80, LONGEST_LINE)] = LONGEST_LINE
    """format haproxy: octets of a message at most, syslog's header with it. HAProxy's own default is 1024."""
    sample: SampleOf | None = None
    """Which access records of how many: "1:10" is every tenth, "2-3,8:11" are three of eleven. Default: all."""


class Capture(Model):
    """A header or cookie in the access log (HAProxy's `capture request header`, `response header`, `cookie`)."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [key]} for key in ("request_header", "response_header", "cookie")]}
    )

    request_header: Token | None = None
    """Name of a header of requests, as they come; of several the last one counts."""
    response_header: Token | None = None
    """Name of a header of the servers' responses."""
    cookie: Annotated[str, Written(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=?", "write a cookie's name", 256)] | None = None
    """Beginning of a cookie's name, and = where that is all of it; once in a frontend, for requests and responses."""
    len: Annotated[int, Whole(1, 1000)]
    """Octets of the value (of a cookie with its name) at most."""


Logs = Annotated[tuple[Log, ...], Field(min_length=1), OneOrMany()]


@dataclass(frozen=True)
class _TrueOrMany:
    """true (those of `global.log`), false (none), or targets of its own; one may stand without its list."""

    @staticmethod
    def turn(value: Any) -> Any:
        if isinstance(value, bool):
            return None if value else ()
        if value is None or isinstance(value, (tuple, list)):
            return value
        if not isinstance(value, (dict, Log)):
            raise ValueError(f"wants true, false, a mapping (a target) or a list of them, not {shown(value)}")
        return (value,)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.turn, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = next(each for each in handler(schema)["anyOf"] if each.get("type") == "array")
        return {"anyOf": [{"type": "boolean"}, many["items"], many]}


FrontendLogs = Annotated[tuple[Log, ...] | None, _TrueOrMany()]
