"""The bed itself: each server answers as the other tests expect."""

from __future__ import annotations

import hashlib
import subprocess
import urllib.request

from tests.e2e.bed.process import free_port
from tests.e2e.bed.servers import program


def get(port: int, path: str = "/", **headers: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


def test_nginx_says_who_it_is(web):
    for server in web:
        assert get(server.port).startswith(f"server: {server.name}\nclient: 127.0.0.1\n")


def test_nginx_comes_back_after_a_kill(web):
    web[0].kill()
    web[0].start()
    assert "server: web1" in get(web[0].port)


def test_apache_runs_php(apache):
    for name, port in apache.port_of.items():
        assert get(port, Cookie="a=b") == f"server: {name}\nclient: 127.0.0.1\nx-forwarded-for: unknown\ncookie: a=b\n"
    body = b"body" * 1000
    with urllib.request.urlopen(f"http://127.0.0.1:{apache.ports[0]}/hash.php", data=body, timeout=10) as response:
        assert response.read().decode().strip() == hashlib.sha256(body).hexdigest()


def test_named_serves_the_zone(names):
    for server in names:
        command = [program("dig"), "@127.0.0.1", "-p", str(server.port), "server.lab.local", "TXT", "+short"]
        assert subprocess.run(command, capture_output=True, text=True, timeout=20).stdout == f'"{server.name}"\n'


def test_haproxy_speaks_the_proxy_protocol_to_nginx(web, haproxy):
    port = free_port()
    haproxy(
        f"listen l\n  mode tcp\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{web[0].proxy_port} send-proxy-v2\n",
        ports=(port,),
    )
    assert "server: web1\nclient: 127.0.0.1:" in get(port)
