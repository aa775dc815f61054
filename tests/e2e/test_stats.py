"""The stats page and the metrics, as a browser and as Prometheus see them."""

from __future__ import annotations

import base64
import re
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.bed.clients import get
from tests.e2e.bed.process import until

CONFIG = """
global: {workers: 2}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
backends:
  web:
    check: {type: tcp, interval: 500ms}
    servers:
      web1: {address: "127.0.0.1:${web1}"}
      web2: {address: "127.0.0.1:${web2}"}
stats:
  bind: 127.0.0.1:${stats}
  uri: /haproxy?stats
  realm: HAProxy Statistics
  description: Nodo Master
  refresh: 5s
  users: {admin: "123"}
  metrics: /metrics
"""


@pytest.fixture
def running(balancer, web):
    running = balancer(CONFIG, web1=web[0].port, web2=web[1].port)
    running.wait_until_up("web/web1", "web/web2")
    return running


def ask(running, path, password=None):
    request = urllib.request.Request(f"http://127.0.0.1:{running.ports['stats']}{path}")
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    return urllib.request.urlopen(request, timeout=20)


@pytest.mark.parametrize("password", [None, "", "12", "1234", "321"])
@pytest.mark.parametrize("path", ["/haproxy?stats", "/metrics"])
def test_without_the_password_there_is_nothing(running, path, password):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(running, path, password)
    assert refused.value.code == 401
    assert refused.value.headers["WWW-Authenticate"] == 'Basic realm="HAProxy Statistics"'
    assert "web1" not in refused.value.read().decode()


def test_the_page_shows_who_serves(running):
    with ask(running, "/haproxy?stats", "123") as response:
        page = response.read().decode()
        assert response.headers["Content-Type"].startswith("text/html")
        assert '<meta http-equiv="refresh" content="5">' in page, "for who has no script"
    assert "Nodo Master" in page
    for name in ("ft", "web", "web1", "web2"):
        assert re.search(rf"\b{name}\b", page), name


def test_a_server_that_dies_is_shown(running, web):
    web[0].kill()
    running.wait_for_line("Server web/web1 is DOWN")
    with ask(running, "/haproxy?stats", "123") as response:
        assert "DOWN" in response.read().decode()
    assert running.metric("haproxy_server_status", proxy="web", server="web1", state="DOWN") == 1
    assert running.metric("haproxy_server_status", proxy="web", server="web2", state="UP") == 1


def test_requests_of_both_workers_are_counted_once(running):
    for _ in range(40):
        get(running.ports["http"])
    until(
        lambda: running.metric("haproxy_frontend_http_requests_total", proxy="ft") == 40,
        "40 requests are counted",
    )
    servers = [
        running.metric("haproxy_server_http_responses_total", server=name, code="2xx") for name in ("web1", "web2")
    ]
    assert sum(servers) == 40 and all(servers)


def test_prometheus_can_read_the_metrics(running):
    with ask(running, "/metrics", "123") as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    assert len({family.name for family in families}) == len(families) > 10
