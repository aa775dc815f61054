"""A server that comes back gets its share little by little."""

from __future__ import annotations

import signal

import yaml

from tests.e2e.bed.clients import Load
from tests.e2e.bed.process import until

CONFIG = """
global: {workers: 2}
frontends:
  web: {mode: http, bind: "127.0.0.1:${front}", default_backend: web}
  alone: {mode: http, bind: "127.0.0.1:${other}", default_backend: alone}
backends:
  web:
    check: {type: tcp, interval: 200ms, fall: 1, rise: 1}
    servers:
      web1: {address: "127.0.0.1:${web1}", weight: 100}
      web2: {address: "127.0.0.1:${web2}", weight: 100, slowstart: 400s}
  alone:
    balance: source
    check: {type: tcp, interval: 200ms, fall: 1, rise: 1}
    servers:
      web2: {address: "127.0.0.1:${web2}", weight: 100, slowstart: 400s, maxconn: 100}
"""


def test_a_server_that_comes_back_gets_little_at_first(balancer, web) -> None:
    running = balancer(CONFIG, web1=web[0].port, web2=web[1].port)
    running.wait_until_up("web/web1", "web/web2")
    port = running.ports["front"]

    def served() -> float:
        """The second server's part of many requests."""
        with Load(port, clients=4) as load:
            load.wait_for(600)
        assert not load.failed
        return load.done["web2"] / load.done.total()

    def weight() -> float:
        return running.metric("haproxy_server_weight", proxy="web", server="web2")

    # At the start it has all of its weight.
    assert weight() == 100
    assert 0.45 < served() < 0.55
    web[1].kill()
    running.wait_for_line("Server web/web2 is DOWN")
    web[1].mend()
    running.wait_for_line("Server web/web2 is UP")
    assert weight() == 1
    assert 0 < served() < 0.05
    # Of its maxconn it gets a hundredth too, in both workers together.
    running.wait_until_up("alone/web2")
    with Load(running.ports["other"], clients=6) as load:
        load.wait_for(300)
    assert not load.failed
    counted = {"proxy": "alone", "server": "web2"}
    until(lambda: running.metric("haproxy_server_sessions_total", **counted) >= 300, "it is counted")
    # The workers' own maxima, added up.
    assert running.metric("haproxy_server_max_sessions", **counted) <= 2
    # Who takes the key out has it at once.
    before = len(running.log)
    del running.config["backends"]["web"]["servers"]["web2"]["slowstart"]
    running.file.write_text(yaml.safe_dump(running.config))
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded: ", after=before)
    assert weight() == 100
    assert 0.45 < served() < 0.55
