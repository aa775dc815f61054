"""Rules for requests, through the whole daemon, with real clients and servers."""

from __future__ import annotations

import http.client
from collections.abc import Callable

import pytest

from tests.e2e.bed.clients import curl, talk
from tests.e2e.bed.process import PATIENCE
from tests.e2e.bed.pybalancer import Balancer
from tests.e2e.bed.servers import Nginx

RULES = """
global: {workers: 1}
acls:
  office: {src: 10.0.0.0/8}
  api: [{host: [api.example.org, "*.api.example.org"]}, {path_beg: /api/}]
frontends:
  http:
    mode: http
    bind: 127.0.0.1:${http}
    trusted_proxies: 127.0.0.2/32
    request_id: true
    x_forwarded: [proto, port, host]
    http_request:
      - {deny: true, if: {path_beg: /echo, not: office}}
      - {redirect: {scheme: https, host: www.example.org, path: "/new/%[1]", path_reg: "^/old/(.*)", code: 301}}
      - {return: {body: "pong\\n"}, if: {path: /ping}}
      - {set_header: {X-Real-IP: "%[src]", X-Name: "%[url_param(name)]"}}
      - {strip_prefix: /api}
    http_response:
      - {del_header: Server}
      - {set_header: {X-Served-By: "%[server]"}}
    use_backend:
      - {backend: api, if: api}
      - {backend: cookie, if: {cookie: {beta: "1"}}}
    default_backend: web
backends:
  web: {check: {type: tcp, interval: 500ms}, servers: {web1: {address: "127.0.0.1:${web1}"}}}
  api: {check: {type: tcp, interval: 500ms}, servers: {web2: {address: "127.0.0.1:${web2}"}}}
  cookie: {check: {type: tcp, interval: 500ms}, servers: {web3: {address: "127.0.0.1:${web3}"}}}
"""


@pytest.fixture
def routed(web: tuple[Nginx, ...], balancer: Callable[..., Balancer]) -> Balancer:
    it = balancer(RULES, web1=web[0].port, web2=web[1].port, web3=web[2].port)
    it.wait_until_up("web/web1", "api/web2", "cookie/web3")
    return it


def ask(it: Balancer, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", it.ports["http"], timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.body = response.read().decode()  # type: ignore[attr-defined]
        return response
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "headers", "server"),
    [
        ("/", {}, "web1"),
        ("/", {"Host": "API.example.org:80"}, "web2"),
        ("/", {"Host": "v1.api.example.org."}, "web2"),
        ("/api/", {}, "web2"),
        ("//x/..//%61pi/", {}, "web2"),
        ("/", {"Cookie": "a=b; beta=1"}, "web3"),
    ],
)
def test_who_serves(routed: Balancer, path: str, headers: dict[str, str], server: str) -> None:
    response = ask(routed, path, **headers)
    assert (response.status, response.headers["X-Served-By"], response.headers["Server"]) == (200, server, None)


@pytest.mark.parametrize(
    "path", ["/echo", "//echo", "/%65cho", "/echo;x", "/./echo", "/x/..;/echo", "/%2fecho", "/x%2f..%2fecho", "/\\echo"]
)
def test_nobody_gets_where_it_is_denied(routed: Balancer, path: str) -> None:
    """As octets: clients would tidy such paths up."""
    answer = talk(routed.ports["http"], b"GET %b HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n" % path.encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert "PR" in routed.wait_for_line(" 403 ")


def test_who_is_believed(routed: Balancer) -> None:
    """One proxy from a trusted address, and somebody who says the same."""
    url = f"http://127.0.0.1:{routed.ports['http']}"
    says = ("-H", "X-Forwarded-For: 10.0.0.1", "-H", "X-Request-ID: an-id-of-theirs", "-o", "/dev/null")
    status = "%{http_code}"
    assert curl("--interface", "127.0.0.2", *says, "-w", status, f"{url}/echo").stdout != b"403"
    assert "10.0.0.1:" in routed.wait_for_line("{an-id-of-theirs}")
    before = len(routed.log)
    assert curl(*says, "-w", status, f"{url}/echo").stdout == b"403"
    line = routed.wait_for_line(" 403 ", after=before)
    assert line.partition("127.0.0.1:")[1] and "an-id-of-theirs" not in line


def test_curl_follows_no_trap(routed: Balancer) -> None:
    url = f"http://127.0.0.1:{routed.ports['http']}"
    silent = ("--path-as-is", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}")
    where = curl(*silent, f"{url}/old//evil.example?a=b")
    assert where.stdout == b"301 https://www.example.org/new/evil.example?a=b"
    assert curl(f"{url}/ping").stdout == b"pong\n"
