from __future__ import annotations

from collections.abc import Callable

from balancer.config.model import Config
from balancer.config.units import Rate

Load = Callable[..., Config]

WEB = """
frontends:
  web:
    mode: http
    bind: ":80"
    default_backend: b
    limits: {connection_rate: 5/s, request_rate: 200/10s, error_rate: {limit: 20/1m, status: 403}}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}}
"""


def test_a_rate_alone_is_its_limit(config: Load) -> None:
    limits = config(WEB).frontends["web"].limits
    assert limits is not None
    assert limits.request_rate is not None and limits.error_rate is not None
    assert (limits.request_rate.limit, limits.request_rate.status) == (Rate(200, 10.0), 429)
    assert (limits.error_rate.limit, limits.error_rate.status) == (Rate(20, 60.0), 403)
    assert limits.rates == (Rate(5, 1.0), Rate(200, 10.0), Rate(20, 60.0))
    assert (limits.table_size, limits.ipv6_prefix, limits.exempt) == (102400, 64, ())
