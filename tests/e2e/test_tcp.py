"""TCP through the real command: balancing, half-close, the PROXY protocol, every kind of address."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading

import pytest

from tests.e2e.bed.clients import Load, curl, facts, get, talk
from tests.e2e.bed.process import PATIENCE, free_port

CONFIG = """
global: {workers: 1}
frontends:
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: web}
backends:
  web:
    check: {type: tcp, interval: 500ms}
    servers:
      web1: {address: "127.0.0.1:${web1}"}
      web2: {address: "127.0.0.1:${web2}"}
      web3: {address: "127.0.0.1:${web3}"}
"""
ONE_SERVER = """
frontends:
  tcp: {mode: tcp, bind: BIND, default_backend: b}
backends:
  b: {servers: {s: {address: ADDRESS}}}
"""


def test_round_robin_is_exact_with_one_worker(balancer, web):
    running = balancer(CONFIG, **{server.name: server.port for server in web})
    running.wait_until_up("web/web1", "web/web2", "web/web3")
    served = [get(running.ports["tcp"])["server"] for _ in range(9)]
    first = ("web1", "web2", "web3").index(served[0])
    assert served == [f"web{(first + n) % 3 + 1}" for n in range(9)]


def test_many_connections_at_once(balancer, web):
    running = balancer(CONFIG, **{server.name: server.port for server in web})
    running.wait_until_up("web/web1", "web/web2", "web/web3")
    with Load(running.ports["tcp"], clients=48, keep_alive=False) as load:
        load.wait_for(3000)
    assert not load.failed and not load.cut
    assert max(load.done.values()) - min(load.done.values()) <= 48


def test_a_half_closed_client_still_gets_its_answer(balancer):
    """What netcat does: the server sees the end of input, answers then, and the client reads it all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def count() -> None:
            peer, _ = listener.accept()
            with peer:
                received = 0
                while data := peer.recv(65536):
                    received += len(data)
                peer.sendall(f"{received} octets".encode())

        server = threading.Thread(target=count)
        server.start()
        port = listener.getsockname()[1]
        text = ONE_SERVER.replace("BIND", '"127.0.0.1:${tcp}"').replace("ADDRESS", f'"127.0.0.1:{port}"')
        running = balancer(text)
        assert talk(running.ports["tcp"], b"x" * 1_000_000, then_close=True) == b"1000000 octets"
        server.join(PATIENCE)


def test_nginx_learns_the_client_by_the_proxy_protocol(balancer, web):
    for version in ("v1", "v2"):
        text = ONE_SERVER.replace("BIND", '"127.0.0.1:${tcp}"')
        running = balancer(text.replace("ADDRESS", f'"127.0.0.1:{web[0].proxy_port}", send_proxy: {version}'))
        with socket.create_connection(("127.0.0.1", running.ports["tcp"]), PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            page = facts(client.makefile().read())
            assert page["client"] == "{}:{}".format(*client.getsockname())
            assert page["for"] == f"127.0.0.1:{running.ports['tcp']}"


def test_the_client_of_haproxy_is_known_by_the_proxy_protocol(balancer, web, haproxy):
    running = balancer(
        """
        frontends:
          http:
            mode: http
            bind: {address: "127.0.0.1:${http}", accept_proxy: true}
            forwarded_for: true
            default_backend: b
        backends: {b: {servers: {s: {address: "127.0.0.1:${web}"}}}}
        """,
        web=web[0].port,
    )
    for option in ("send-proxy", "send-proxy-v2"):
        port = free_port()
        haproxy(
            f"listen l\n  mode tcp\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{running.ports['http']} {option}\n",
            ports=(port,),
        )
        connection = http.client.HTTPConnection("127.0.0.1", port, source_address=("127.0.0.9", 0), timeout=PATIENCE)
        connection.request("GET", "/")
        page = facts(connection.getresponse().read().decode())
        connection.close()
        assert page["x-forwarded-for"] == "127.0.0.9"
        assert running.wait_for_line("127.0.0.9:")


def test_without_the_proxy_header_such_a_bind_serves_nobody(balancer, web):
    seen = web[0].requests[-1:]
    running = balancer(
        ONE_SERVER.replace("BIND", '{address: "127.0.0.1:${tcp}", accept_proxy: true}').replace(
            "ADDRESS", '"127.0.0.1:${web}"'
        ),
        web=web[0].port,
    )
    with contextlib.suppress(ConnectionResetError):
        assert talk(running.ports["tcp"], b"GET / HTTP/1.0\r\n\r\n") == b""
    assert web[0].requests[-1:] == seen


def test_unix_sockets_in_front_and_behind(balancer, web, tmp_path):
    path = tmp_path / "in.sock"
    text = ONE_SERVER.replace("mode: tcp", "mode: http").replace("BIND", str(path))
    running = balancer(text.replace("ADDRESS", str(web[1].socket)))
    for _ in range(2):
        done = curl("--unix-socket", path, "http://host/")
        assert facts(done.stdout.decode())["server"] == "web2"
    running.end()
    assert not path.exists()


def test_a_unix_socket_left_by_a_crash_is_taken_over(balancer, web, tmp_path):
    path = tmp_path / "in.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    balancer(ONE_SERVER.replace("BIND", str(path)).replace("ADDRESS", f'"127.0.0.1:{web[0].port}"'))
    assert curl("--unix-socket", path, "http://host/").stdout.startswith(b"server: web1")


def test_ipv6_in_front_and_behind(balancer, web, has_ipv6):
    if not has_ipv6:
        pytest.skip("no IPv6 on loopback")
    text = ONE_SERVER.replace("mode: tcp", "mode: http, forwarded_for: true")
    running = balancer(text.replace("BIND", '"[::1]:${http}"').replace("ADDRESS", '"[::1]:${web}"'), web=web[0].port)
    page = get(running.ports["http"], host="::1")
    assert (page["client"], page["x-forwarded-for"]) == ("::1", "::1")


def test_several_binds_of_one_frontend(balancer, web):
    running = balancer(
        ONE_SERVER.replace("BIND", '["127.0.0.1:${a}", "127.0.0.2:${b}", "*:${c}"]').replace(
            "ADDRESS", '"127.0.0.1:${web}"'
        ),
        web=web[0].port,
    )
    assert get(running.ports["a"])["server"] == "web1"
    assert get(running.ports["b"], host="127.0.0.2")["server"] == "web1"
    assert get(running.ports["c"], host="127.0.0.3")["server"] == "web1"


def test_an_address_this_host_does_not_hold_yet_can_be_bound(balancer, web):
    """A standby director binds the virtual address before it has it (IP_FREEBIND)."""
    running = balancer(
        ONE_SERVER.replace("BIND", '["192.0.2.1:${vip}", "127.0.0.1:${tcp}"]').replace("ADDRESS", '"127.0.0.1:${web}"'),
        web=web[0].port,
    )
    assert get(running.ports["tcp"])["server"] == "web1"


def test_log_lines_are_those_of_option_tcplog(balancer, web):
    running = balancer(CONFIG, **{server.name: server.port for server in web})
    get(running.ports["tcp"])
    line = running.wait_for_line(" tcp web/web")
    assert re.search(
        r"127\.0\.0\.1:\d+ \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d\.\d{3}\] tcp web/web[123] "
        r"\d+/\d+/\d+ \d+ -- \d+/\d+/\d+/\d+/0 0/0$",
        line,
    ), line
