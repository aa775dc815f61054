"""What fits together. The texts about what does not are in `mistakes.txt`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from balancer.config.engines import settle
from balancer.config.model import Config

WEB = """
frontends:
  web: {mode: http, bind: ":80", default_backend: b, %s}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}}
"""


@pytest.mark.parametrize(
    "keys",
    [
        "capture: {request_header: Host, len: 64}",
        "capture: [{request_header: A, len: 1}, {request_header: a, len: 1}, {response_header: A, len: 1000}]",
        "capture: {cookie: SESSION=, len: 5}, log_format: '%CC %hr'",
        "log: {target: stdout, format: json, sample: '1:2'}",
        "log: [{target: /a.log, header: rfc5424, len: 80}, {target: journald}]",
    ],
)
def test_what_a_frontend_of_requests_may_have(config: Callable[..., Config], keys: str) -> None:
    assert "web" in config(WEB % keys).frontends


def test_a_format_of_connections(config: Callable[..., Config]) -> None:
    text = WEB.replace("mode: http", "mode: tcp") % "log_format: '%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %U %ts %rc'"
    assert config(text).frontends["web"].log_format


def test_the_kernel_is_not_chosen_where_a_format_is_given(config: Callable[..., Config]) -> None:
    text = WEB.replace("mode: http", "mode: tcp, engine: auto").replace(':80", d', '10.0.0.1:80", d')
    settled, (line,) = settle(config(text % "log_format: '%ci'"), lambda: "")
    assert settled.frontends["web"].engine == "proxy"
    assert line.endswith("(log_format)")
