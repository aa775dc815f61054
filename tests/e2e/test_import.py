"""The same traffic through HAProxy and, by its imported configuration, through pybalancer: the same answers."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.bed.process import PATIENCE, free_port
from tests.e2e.bed.pybalancer import Balancer, run
from tests.e2e.bed.servers import Haproxy

CONFIG = """\
userlist staff
    user anna insecure-password secret

frontend web
    mode http
    bind 127.0.0.1:{front}
    option forwardfor except 127.0.0.2
    acl is_api path_beg /api/ /v1/
    acl static path_end -i .css .JS
    acl admin hdr(host) -i admin.example.org
    acl inside src 127.0.0.0/30
    acl logged_in http_auth(staff)
    monitor-uri /alive
    http-request deny deny_status 404 if {{ path_beg /.git }}
    http-request deny if admin !inside
    http-request deny if {{ hdr(x-bad) one two }}
    http-request deny deny_status 429 if {{ hdr_sub(user-agent) -i sqlmap }} or {{ urlp(q) -m reg ^[0-9]+$ }}
    http-request auth realm Staff if {{ path_beg /private }} !logged_in
    http-request redirect scheme https code 301 if {{ hdr(host) secure.example.org }} !{{ ssl_fc }}
    http-request redirect prefix https://www.example.org code 308 if {{ hdr_end(host) -i .example.com }}
    http-request redirect location /new/ code 303 if {{ path /old }} METH_POST
    http-request redirect prefix /shop drop-query if {{ path_dir cart }}
    http-request return status 200 content-type text/plain string "pong\\n" if {{ path /ping }}
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request add-header X-Tag "one and %[req.hdr(x-in)]"
    http-request del-header X-Secret
    http-response set-header X-Frame-Options DENY
    http-response del-header X-Server-Only
    redirect location /last if {{ path_reg ^/la[sx]t?$ }}
    use_backend api if is_api || {{ hdr(x-api) -m found }}
    use_backend none if {{ path_beg /none }}
    use_backend static if static
    default_backend app

backend api
    mode http
    balance roundrobin
    http-request replace-path ^/api/(.*) /rewritten/\\1
    http-request set-header X-Api yes
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}

backend none
    mode http

backend static
    mode http
    balance source
    server two 127.0.0.1:{two}
    server three 127.0.0.1:{three} backup

backend app
    mode http
    balance roundrobin
    cookie SRV insert indirect nocache httponly
    server one 127.0.0.1:{one} cookie one
    server two 127.0.0.1:{two} cookie two
    server three 127.0.0.1:{three} cookie three
"""
# Method, target, further headers. In the order of a round robin.
REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    *[("GET", "/", {})] * 6,
    ("GET", "/x", {"Cookie": "a=b; SRV=two; c=d"}),
    ("GET", "/x", {"Cookie": "SRV=three"}),
    ("POST", "/x?y=z", {"Cookie": "SRV=one", "X-In": "in"}),
    *[("GET", f"/api/{i}?q=a", {}) for i in range(5)],
    ("GET", "/v1/x", {"X-Secret": "s", "X-Real-IP": "forged"}),
    ("GET", "/other", {"X-Api": "1"}),
    ("GET", "/a.CSS", {}),
    ("GET", "/a.css?x.html", {}),
    ("GET", "/none/x", {}),
    ("GET", "/alive", {}),
    ("GET", "/.git/config", {}),
    ("GET", "/", {"Host": "admin.example.org"}),
    ("GET", "/", {"Host": "ADMIN.example.org"}),
    ("GET", "/", {"X-Bad": "zero, two"}),
    ("GET", "/", {"X-Bad": "zero two"}),
    ("GET", "/", {"User-Agent": "x SQLMap/1.0"}),
    ("GET", "/?q=123", {}),
    ("GET", "/?q=12x", {}),
    ("GET", "/private/x", {}),
    ("GET", "/private/x", {"Authorization": "Basic YW5uYTpzZWNyZXQ="}),
    ("GET", "/private/x", {"Authorization": "Basic YW5uYTp3cm9uZw=="}),
    ("GET", "/p?q=r", {"Host": "secure.example.org"}),
    ("GET", "/p?q=r", {"Host": "a.b.example.com"}),
    ("GET", "/p", {"Host": "example.com"}),
    ("POST", "/old", {}),
    ("GET", "/old", {}),
    ("GET", "/x/cart/y?z=1", {}),
    ("GET", "/ping", {}),
    ("HEAD", "/ping", {}),
    ("GET", "/last", {}),
    ("GET", "/lax", {}),
    ("GET", "/laxtt", {}),
    ("DELETE", "/", {"X-Forwarded-For": "192.0.2.1"}),
]
SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.9")


class _Echo(http.server.BaseHTTPRequestHandler):
    """Says who it is and what it was asked."""

    protocol_version = "HTTP/1.1"
    # Head and body in one packet: nobody waits for an acknowledgement.
    wbufsize = 1 << 16

    def do(self) -> None:
        told = sorted(f"{name.lower()}: {value}" for name, value in self.headers.items())
        rows = [row for row in told if not row.startswith(("connection:", "content-length:", "accept-encoding:"))]
        body = "\n".join([self.server.name, f"{self.command} {self.path}", *rows]).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Server-Only", "x")
        self.send_header("X-Frame-Options", "ALLOW")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def servers() -> Iterator[dict[str, int]]:
    """Three that echo, with their ports."""
    running = []
    for name in ("one", "two", "three"):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), _Echo)
        server.name = name  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.append((server, thread))
    yield {server.name: server.server_port for server, _ in running}  # type: ignore[attr-defined]
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(port: int, source: str, method: str, target: str, headers: dict[str, str]) -> tuple[object, ...]:
    """What of an answer clients go by: the balancers' own pages may look different."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))
    try:
        connection.request(method, target, headers={"Host": "www.example.net", **headers})
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    names = ("location", "set-cookie", "x-frame-options", "x-server-only", "www-authenticate")
    # Ours also says how to write the password.
    told = {name: (response.headers.get(name) or "").removesuffix(', charset="UTF-8"') for name in names}
    is_own = response.status in (301, 302, 303, 308, 401, 403, 404, 429, 503) or target == "/alive"
    return response.status, told, None if is_own else body


def test_the_same_answers(
    servers: dict[str, int],
    haproxy: Callable[..., Haproxy],
    balancer: Callable[..., Balancer],
    tmp_path: Path,
) -> None:
    old = tmp_path / "haproxy.cfg"
    front = free_port()
    old.write_text("defaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n")
    text = CONFIG.format(front=front, **servers)
    haproxy(text, ports=(front,))
    ours = free_port()
    old.write_text(old.read_text() + CONFIG.format(front=ours, **servers))
    made = tmp_path / "made.yaml"
    done = run("import", old, "-o", made)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    imported = made.read_text().replace("staff.htpasswd", str(tmp_path / "staff.htpasswd"))
    imported = imported.replace("/run/pybalancer/admin.sock", str(tmp_path / "admin.sock"))
    balancer(imported)
    for source in SOURCES:
        for request in REQUESTS:
            assert answer(ours, source, *request) == answer(front, source, *request), (source, *request)
