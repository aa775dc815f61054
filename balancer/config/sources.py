"""What one client may take of a frontend: `limits`, kept in a table of those who were there lately."""

from __future__ import annotations

from typing import Annotated

from balancer.config.kinds import Count, DenyStatus, Duration, Network, RateOf, Size
from balancer.config.units import Rate
from balancer.config.values import Model, OneOrMany, Short, Whole

__all__ = ["RequestLimit", "SourceLimits"]

_WORDS = "a rate, such as 100/10s"
_BARE = {"type": "string"}


class RequestLimit(Model):
    """How many requests or errors are too many, and what becomes of the requests then."""

    limit: RateOf
    """COUNT/PERIOD: 200/10s."""
    status: DenyStatus = 429
    """mode http: what such a request is answered with."""
    retry_after: Duration | None = None
    """mode http: when the client is told to come again (Retry-After). Default: the period of `limit`."""
    tarpit: Duration | None = None
    """mode http: the answer waits for so long. Default: it does not."""


class SourceLimits(Model):
    """What one client address may take (HAProxy's stick-table: conn_cur, conn_rate, http_req_rate, http_err_rate)."""

    connections: Count | None = None
    """mode tcp and http: connections at one time; one more is closed at once."""
    connection_rate: RateOf | None = None
    """mode tcp and http: COUNT/PERIOD, new connections in that time; one more is closed at once."""
    request_rate: Annotated[RequestLimit | None, Short("limit", (str, Rate), _WORDS, _BARE)] = None
    """mode http: requests; a rate, or {limit, status, retry_after, tarpit}. mode udp: queries or datagrams; those above
    it get no answer."""
    error_rate: Annotated[RequestLimit | None, Short("limit", (str, Rate), _WORDS, _BARE)] = None
    """mode http: requests that were malformed, denied or answered 4xx; who has had more gets the same as with
    `request_rate`."""
    exempt: Annotated[tuple[Network, ...], OneOrMany()] = ()
    """Networks whose clients are not counted; one or a list."""
    table_size: Size = 100 << 10
    """Clients that each worker remembers at most; of more than that the one longest ago is forgotten."""
    ipv6_prefix: Annotated[int, Whole(1, 128)] = 64
    """Leading bits of an IPv6 address that make a client: who has a network of its own is one."""

    @property
    def rates(self) -> tuple[Rate | None, Rate | None, Rate | None]:
        """Of connections, requests and errors."""
        requests, errors = self.request_rate, self.error_rate
        return (
            self.connection_rate,
            requests.limit if requests is not None else None,
            errors.limit if errors is not None else None,
        )
