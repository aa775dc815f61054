"""Traffic that ends in each of the ways that a log knows, for pybalancer and for HAProxy alike.

Each of `CASES` says through which frontend, what the client does, and what code the line has; `provoke` does it and
gives the line, `masked` makes lines of two runs comparable.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.bed.origin import Origin
from tests.e2e.bed.process import PATIENCE, until

__all__ = ["CASES", "FRONTENDS", "GROUPS", "HAPROXY", "OURS", "Case", "Scene", "group_of", "masked", "provoke"]

# All that two runs have in common.
FORMAT = (
    "%ci:1 [%tr] %ft %b %{+Q}s %ST %tsc %{+Q}r %HM %HP %HPO %HQ %{+Q}HQ %HU %HV %hrl|%{+Q}hrl|%hr|%{+Q}hr|%hs|%{+Q}hs "
    "%ts %{+Q}o %f %ST %{-Q}b %bc %sc %rc %sq %bq %{+Q,+E}HU %fi %si %CC %CS %ID %% x"
)
TCP_FORMAT = "%ci:1 [%t] %ft %b/%s %ts %{+Q}o %f %{-Q}B %bc/%sc/%rc %sq/%bq %U"

OURS = """
global:
  workers: 1
  runtime_socket: {path: ${admin}, level: admin}
defaults:
  timeout: {connect: 700ms, client: 700ms, server: 700ms, queue: 700ms, http_request: 700ms, http_keep_alive: 5s}
  retries: 0
  redispatch: false
  dontlognull: false
frontends:
  web: {mode: http, bind: "127.0.0.1:${web}", default_backend: web, http_request: [
    {deny: 403, if: {path: /deny}},
    {redirect: {location: /moved}, if: {path: /redirect}},
    {return: {status: 200, content_type: text/plain, body: hello}, if: {path: /return}}]}
  impatient: {mode: http, bind: "127.0.0.1:${impatient}", default_backend: patient, timeout: {client: 700ms}}
  cookie: {mode: http, bind: "127.0.0.1:${cookie}", default_backend: cookie}
  dated: {mode: http, bind: "127.0.0.1:${dated}", default_backend: dated}
  refused: {mode: http, bind: "127.0.0.1:${refused}", default_backend: refused}
  nowhere: {mode: http, bind: "127.0.0.1:${nowhere}", default_backend: nowhere}
  hole: {mode: http, bind: "127.0.0.1:${hole}", default_backend: hole}
  again: {mode: http, bind: "127.0.0.1:${again}", default_backend: again}
  one: {mode: http, bind: "127.0.0.1:${one}", default_backend: one}
  captured: {mode: http, bind: "127.0.0.1:${captured}", default_backend: web, http_request: [
    {deny: 403, if: {path: /deny}}, {return: {status: 200, body: hello}, if: {path: /return}}], capture: [
    {request_header: Host, len: 10}, {request_header: X-Two, len: 20}, {response_header: Server, len: 7},
    {response_header: Location, len: 10}, {cookie: theirs, len: 8}]}
  custom: {mode: http, bind: "127.0.0.1:${custom}", default_backend: web, http_request: {deny: 403, if: {path: /deny}},
    capture: [{request_header: Host, len: 10}, {request_header: X-Two, len: 20}], log_format: '%%FORMAT%%'}
  tcp-custom: {mode: tcp, bind: "127.0.0.1:${tcp_custom}", default_backend: tcp, log_format: '%%TCP_FORMAT%%'}
  full: {mode: http, bind: "127.0.0.1:${full}", default_backend: full}
  down: {mode: http, bind: "127.0.0.1:${down}", default_backend: down}
  tarpit: {mode: http, bind: "127.0.0.1:${tarpit}", default_backend: web,
    limits: {request_rate: {limit: 1/1h, tarpit: 700ms}}}
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: tcp}
  tcp-impatient: {mode: tcp, bind: "127.0.0.1:${tcp_impatient}", default_backend: tcp-patient, timeout: {client: 700ms}}
  tcp-refused: {mode: tcp, bind: "127.0.0.1:${tcp_refused}", default_backend: tcp-refused}
  tcp-hole: {mode: tcp, bind: "127.0.0.1:${tcp_hole}", default_backend: tcp-hole}
  tcp-again: {mode: tcp, bind: "127.0.0.1:${tcp_again}", default_backend: tcp-again}
  tcp-one: {mode: tcp, bind: "127.0.0.1:${tcp_one}", default_backend: tcp-one, timeout: {client: 5s}}
  tcp-down: {mode: tcp, bind: "127.0.0.1:${tcp_down}", default_backend: tcp-down, timeout: {client: 5s}}
  tcp-proxy: {mode: tcp, bind: {address: "127.0.0.1:${tcp_proxy}", accept_proxy: true}, default_backend: tcp}
backends:
  web: {servers: {s1: {address: "127.0.0.1:${origin_web}"}}}
  patient: {timeout: {server: 5s}, servers: {s1: {address: "127.0.0.1:${origin_http}"}}}
  cookie: {cookie: {name: S}, servers: {s1: {address: "127.0.0.1:${origin_http}", cookie: s1}, s2: {
    address: "127.0.0.1:${closed}", cookie: s2, init_state: down}, s3: {address: "127.0.0.1:${origin_http}", cookie: s3,
    check: false, weight: 0}}, check: {type: tcp}}
  dated: {cookie: {name: S, maxidle: 1h, maxlife: 2h}, servers: {s1: {address: "127.0.0.1:${origin_http}", cookie: s1}}}
  refused: {servers: {s1: {address: "127.0.0.1:${closed}"}}}
  nowhere: {check: {type: tcp}, servers: {s1: {address: "127.0.0.1:${closed}", init_state: down}}}
  hole: {servers: {s1: {address: "127.0.0.1:${hole_}"}}}
  again: {retries: 3, redispatch: true, balance: first, servers: {
    s1: {address: "127.0.0.1:${closed}"}, s2: {address: "127.0.0.1:${origin_http}"}}}
  one: {timeout: {server: 5s}, servers: {s1: {address: "127.0.0.1:${origin_http}", maxconn: 1}}}
  full: {balance: source, timeout: {server: 5s}, servers: {
    s1: {address: "127.0.0.1:${origin_http}", maxconn: 1, maxqueue: 1}}}
  down: {timeout: {server: 5s}, check: {type: tcp, interval: 1h}, servers: {
    s1: {address: "127.0.0.1:${origin_http}", on_marked_down: shutdown-sessions}}}
  tcp: {servers: {s1: {address: "127.0.0.1:${origin_tcp}"}}}
  tcp-patient: {timeout: {server: 5s}, servers: {s1: {address: "127.0.0.1:${origin_tcp}"}}}
  tcp-refused: {servers: {s1: {address: "127.0.0.1:${closed}"}}}
  tcp-hole: {servers: {s1: {address: "127.0.0.1:${hole_}"}}}
  tcp-again: {retries: 3, redispatch: true, balance: first, servers: {
    s1: {address: "127.0.0.1:${closed}"}, s2: {address: "127.0.0.1:${origin_tcp}"}}}
  tcp-one: {timeout: {server: 5s}, servers: {s1: {address: "127.0.0.1:${origin_tcp}", maxconn: 1}}}
  tcp-down: {timeout: {server: 5s}, check: {type: tcp, interval: 1h}, servers: {
    s1: {address: "127.0.0.1:${origin_tcp}", on_marked_down: shutdown-sessions}}}
"""

HAPROXY = """
global
  log stdout format raw local0 info info
  stats socket {admin} level admin
defaults http
  mode http
  log global
  option httplog
  option abortonclose
  retries 0
  timeout connect 700ms
  timeout client 700ms
  timeout server 700ms
  timeout queue 700ms
  timeout http-request 700ms
  timeout http-keep-alive 5s
  timeout tarpit 700ms
frontend web
  bind 127.0.0.1:{web}
  http-request deny deny_status 403 if {{ path /deny }}
  http-request redirect location /moved if {{ path /redirect }}
  http-request return status 200 content-type text/plain string hello if {{ path /return }}
  default_backend web
frontend impatient
  bind 127.0.0.1:{impatient}
  timeout client 700ms
  default_backend patient
frontend cookie
  bind 127.0.0.1:{cookie}
  default_backend cookie
frontend dated
  bind 127.0.0.1:{dated}
  default_backend dated
frontend refused
  bind 127.0.0.1:{refused}
  default_backend refused
frontend nowhere
  bind 127.0.0.1:{nowhere}
  default_backend nowhere
frontend hole
  bind 127.0.0.1:{hole}
  default_backend hole
frontend again
  bind 127.0.0.1:{again}
  default_backend again
frontend one
  bind 127.0.0.1:{one}
  default_backend one
frontend captured
  bind 127.0.0.1:{captured}
  capture request header Host len 10
  capture request header X-Two len 20
  capture response header Server len 7
  capture response header Location len 10
  capture cookie theirs len 8
  http-request deny if {{ path /deny }}
  http-request return status 200 content-type text/plain string hello if {{ path /return }}
  default_backend web
frontend custom
  bind 127.0.0.1:{custom}
  capture request header Host len 10
  capture request header X-Two len 20
  log-format "%%FORMAT%%"
  http-request deny if {{ path /deny }}
  default_backend web
frontend full
  bind 127.0.0.1:{full}
  default_backend full
frontend down
  bind 127.0.0.1:{down}
  default_backend down
frontend tarpit
  bind 127.0.0.1:{tarpit}
  stick-table type ip size 10 expire 1h store http_req_rate(1h)
  http-request track-sc0 src
  http-request tarpit deny_status 429 if {{ sc_http_req_rate(0) gt 1 }}
  default_backend web
backend web
  server s1 127.0.0.1:{origin_web}
backend patient
  timeout server 5s
  server s1 127.0.0.1:{origin_http}
backend cookie
  cookie S insert
  server s1 127.0.0.1:{origin_http} cookie s1
  server s2 127.0.0.1:{closed} cookie s2 disabled
  server s3 127.0.0.1:{origin_http} cookie s3 weight 0
backend dated
  cookie S insert maxidle 1h maxlife 2h
  server s1 127.0.0.1:{origin_http} cookie s1
backend refused
  server s1 127.0.0.1:{closed}
backend nowhere
  server s1 127.0.0.1:{closed} disabled
backend hole
  server s1 127.0.0.1:{hole_}
backend again
  retries 3
  option redispatch
  balance first
  server s1 127.0.0.1:{closed}
  server s2 127.0.0.1:{origin_http}
backend one
  timeout server 5s
  server s1 127.0.0.1:{origin_http} maxconn 1
backend full
  balance source
  timeout server 5s
  server s1 127.0.0.1:{origin_http} maxconn 1 maxqueue 1
backend down
  timeout server 5s
  server s1 127.0.0.1:{origin_http} check inter 1h on-marked-down shutdown-sessions
defaults tcp
  mode tcp
  log global
  option tcplog
  option abortonclose
  retries 0
  timeout connect 700ms
  timeout client 700ms
  timeout server 700ms
  timeout queue 700ms
frontend tcp
  bind 127.0.0.1:{tcp}
  default_backend tcp
frontend tcp-impatient
  bind 127.0.0.1:{tcp_impatient}
  timeout client 700ms
  default_backend tcp-patient
frontend tcp-refused
  bind 127.0.0.1:{tcp_refused}
  default_backend tcp-refused
frontend tcp-hole
  bind 127.0.0.1:{tcp_hole}
  default_backend tcp-hole
frontend tcp-again
  bind 127.0.0.1:{tcp_again}
  default_backend tcp-again
frontend tcp-one
  bind 127.0.0.1:{tcp_one}
  timeout client 5s
  default_backend tcp-one
frontend tcp-down
  bind 127.0.0.1:{tcp_down}
  timeout client 5s
  default_backend tcp-down
frontend tcp-custom
  bind 127.0.0.1:{tcp_custom}
  log-format "%%TCP_FORMAT%%"
  default_backend tcp
frontend tcp-proxy
  bind 127.0.0.1:{tcp_proxy} accept-proxy
  default_backend tcp
backend tcp
  server s1 127.0.0.1:{origin_tcp}
backend tcp-patient
  timeout server 5s
  server s1 127.0.0.1:{origin_tcp}
backend tcp-refused
  server s1 127.0.0.1:{closed}
backend tcp-hole
  server s1 127.0.0.1:{hole_}
backend tcp-again
  retries 3
  option redispatch
  balance first
  server s1 127.0.0.1:{closed}
  server s2 127.0.0.1:{origin_tcp}
backend tcp-one
  timeout server 5s
  server s1 127.0.0.1:{origin_tcp} maxconn 1
backend tcp-down
  timeout server 5s
  server s1 127.0.0.1:{origin_tcp} check inter 1h on-marked-down shutdown-sessions
"""


OURS = OURS.replace("%%FORMAT%%", FORMAT).replace("%%TCP_FORMAT%%", TCP_FORMAT)
HAPROXY = HAPROXY.replace("%%FORMAT%%", FORMAT.replace("{", "{{").replace("}", "}}").replace('"', '\\"'))
HAPROXY = HAPROXY.replace("%%TCP_FORMAT%%", TCP_FORMAT.replace("{", "{{").replace("}", "}}"))
FRONTENDS = re.findall(r"^frontend (\S+)", HAPROXY, re.MULTILINE)
SILENT = "GET /silent HTTP/1.1"
GROUPS = ("web", "http", "tcp")
"""Those of one share servers, and come one after the other."""


def group_of(frontend: str) -> str:
    """Backend web, the other ones of mode http, and those of mode tcp."""
    if frontend in ("web", "captured", "custom", "tarpit"):
        return "web"
    return "tcp" if frontend.startswith("tcp") else "http"


@dataclass(frozen=True)
class Scene:
    """What a client has to do with."""

    ports: dict[str, int]
    """By frontend, its dashes as underscores."""
    origins: dict[str, Origin]
    """By group."""
    admin: str
    lines: list[str]
    """Of the log."""


@dataclass(frozen=True)
class Case:
    """One line of the log."""

    code: str
    what: str
    frontend: str
    act: Act
    theirs: str = ""
    """HAProxy 2.6's code, where that is another; `-` where it does something else altogether."""


class Visit:
    """What a client does at one frontend."""

    def __init__(self, scene: Scene, frontend: str) -> None:
        self.origin, self.admin = scene.origins[group_of(frontend)], scene.admin
        self._port = scene.ports[frontend.replace("-", "_")]
        self._asked = len(self.origin.asked)
        self._lines, self._told = scene.lines, len(scene.lines)
        self._frontend = frontend

    def connect(self, *, buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(("127.0.0.1", self._port))
        except OSError:
            sock.close()
            raise
        return sock

    def server_has(self, line: str) -> None:
        until(lambda: line in self.origin.asked[self._asked :], f"the server has {line}")

    @property
    def lines(self) -> list[str]:
        """Of this frontend since the visit began."""
        return [line for line in self._lines[self._told :] if re.search(rf"\] {self._frontend}[ ~/]", line)]

    def order(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.admin)
            sock.sendall(text.encode() + b"\n")
            while sock.recv(65536):
                pass


Act = Callable[[Visit], None]


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def _request(path: str, fields: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode()


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(1 << 20):
            pass


def say(data: bytes) -> Act:
    """These octets, and all that comes back."""

    def act(visit: Visit) -> None:
        # Who is turned away may hear of it before he is there; the log has it all the same.
        with contextlib.suppress(ConnectionError), visit.connect() as sock:
            sock.sendall(data)
            _drain(sock)

    return act


def ask(path: str, fields: str = "") -> Act:
    """A request, and all of its answer."""
    return say(_request(path, "Connection: close\r\n" + fields))


def ask_with_dates(last: int, first: int) -> Act:
    """With a cookie last and first used so many seconds ago."""

    def act(visit: Visit) -> None:
        now = int(time.time())
        dates = [base64.b64encode(((now - ago) & 0xFFFFFFFC).to_bytes(4, "big"))[:5].decode() for ago in (last, first)]
        ask("/ok", f"Cookie: S=s1|{'|'.join(dates)}\r\n")(visit)

    return act


def leave(data: bytes, once_it_has: str = "", *, after: float = 0.1) -> Act:
    """These octets, and gone: once the server has this line, or after so many seconds."""

    def act(visit: Visit) -> None:
        sock = visit.connect()
        sock.sendall(data)
        if once_it_has:
            visit.server_has(once_it_has)
        else:
            time.sleep(after)
        _reset(sock)

    return act


def read_some_and_leave(data: bytes) -> Act:
    def act(visit: Visit) -> None:
        sock = visit.connect()
        sock.sendall(data)
        sock.recv(1000)
        _reset(sock)

    return act


def do_not_read(data: bytes) -> Act:
    def act(visit: Visit) -> None:
        with visit.connect(buffer=4096) as sock:
            sock.sendall(data)
            until(lambda: visit.lines, "it is seen")

    return act


def upload(data: bytes, line: str, then: bytes) -> Act:
    """`then`, once the server has `line`."""

    def act(visit: Visit) -> None:
        with visit.connect() as sock:
            sock.sendall(data)
            visit.server_has(line)
            sock.sendall(then)
            _drain(sock)

    return act


def behind(first: bytes, line: str, *others: bytes, patience: float = PATIENCE) -> Act:
    """While `first` has the only place; the last one leaves after a while."""

    def act(visit: Visit) -> None:
        socks = [visit.connect()]
        socks[0].sendall(first)
        visit.server_has(line)
        for data in others:
            time.sleep(0.05)
            socks.append(visit.connect())
            socks[-1].sendall(data)
        with contextlib.suppress(AssertionError):
            until(lambda: visit.lines, "a line", within=patience)
        for sock in reversed(socks):
            _reset(sock)
            time.sleep(0.05)

    return act


def ordered(data: bytes, line: str, *orders: str) -> Act:
    """An operator says so once the server has this line."""

    def act(visit: Visit) -> None:
        with visit.connect() as sock:
            sock.sendall(data)
            visit.server_has(line)
            for order in orders[:1]:
                visit.order(order)
            _drain(sock)
            for order in orders[1:]:
                visit.order(order)

    return act


def twice(act: Act) -> Act:
    def both(visit: Visit) -> None:
        act(visit)
        act(visit)

    return both


def knock(visit: Visit) -> None:
    visit.connect().close()


_POST = _request("/silent", "Content-Length: 9\r\n", "POST") + b"x"
_POST_LINE = "POST /silent HTTP/1.1"
_CHUNKED = _request("/silent", "Transfer-Encoding: chunked\r\n", "POST")
_KILL = "shutdown sessions server {0}/s1"

CASES = (
    Case("----", "All is well", "web", ask("/ok")),
    Case("----", "The first server refused, another one took it", "again", ask("/ok")),
    Case("--NI", "No cookie; one was inserted", "cookie", ask("/ok")),
    Case("--VN", "A valid cookie; nothing to do", "cookie", ask("/ok", "Cookie: S=s1\r\n")),
    Case("--II", "A cookie that names no server", "cookie", ask("/ok", "Cookie: S=s9\r\n")),
    Case("--DI", "The cookie's server is down; another one's cookie", "cookie", ask("/ok", "Cookie: S=s2\r\n")),
    Case("--VU", "A valid cookie with an old date, which is renewed (`maxidle`)", "dated", ask_with_dates(60, 60)),
    Case("--EI", "The cookie was not used for longer than `maxidle`", "dated", ask_with_dates(3700, 3700)),
    Case("--OI", "The cookie was given longer ago than `maxlife`", "dated", ask_with_dates(60, 7300)),
    Case("----", "With `capture`: two headers of requests, two of responses, a cookie", "captured",
         ask("/ok", 'X-Two: no\r\nX-Two: se"c|o{n}d#,b, and more\r\nCookie: a=b; theirsX=12; theirs=9\r\n')),
    Case("LR--", "The same, answered by a rule", "captured", ask("/return")),
    Case("PR--", "The same, denied", "captured", ask("/deny")),
    Case("PR--", "The same, and what came is no HTTP", "captured", say(b"it is not you\r\n\r\n")),
    Case("----", "With a `log_format`", "custom", ask("/p?q=%22&[a]", 'X-Two: se"c|o\r\n')),
    Case("PR--", "The same, denied", "custom", ask("/deny")),
    Case("CR--", "The client left in the middle of the head", "web", leave(b"GET / HTTP/1.1\r\nHo")),
    Case("CR--", "The client connected and left without a word (`dontlognull: false`)", "web", knock),
    Case("cR--", "The head did not come within `http_request`", "web", say(b"GET / HTTP/1.1\r\nHo")),
    Case("PR--", "What came is no HTTP", "web", say(b"it is not you\r\n\r\n")),
    Case("PR--", "Denied by a rule", "web", ask("/deny")),
    Case("PR--", "The request's chunk is none", "web", upload(_CHUNKED, _POST_LINE, b"x\r\n"), theirs="PH--"),
    Case("PT--", "Held by a tarpit, then refused", "tarpit", twice(ask("/ok"))),
    Case("CT--", "The client left the tarpit", "tarpit", leave(_request("/ok")), theirs="-"),
    Case("LR--", "Redirected by a rule", "web", ask("/redirect")),
    Case("LR--", "Answered by a rule", "web", ask("/return")),
    Case("sQ--", "No place at a server within `timeout.queue`", "one",
         behind(_request("/silent"), SILENT, _request("/waits"))),
    Case("SQ--", "Too many wait already (`maxqueue`)", "full",
         behind(_request("/silent"), SILENT, _request("/waits"), _request("/too/many"))),
    Case("CQ--", "The client left the queue", "one",
         behind(_request("/silent"), SILENT, _request("/waits"), patience=0.1)),
    Case("SC--", "The server refused the connection", "refused", ask("/ok")),
    Case("SC--", "No server is up", "nowhere", ask("/ok")),
    Case("sC--", "The server did not accept within `timeout.connect`", "hole", ask("/ok")),
    Case("CC--", "The client left while we connected", "hole", leave(_request("/ok"))),
    Case("SH--", "The server closed without an answer", "web", ask("/close")),
    Case("SH--", "The server reset the connection", "web", ask("/reset")),
    Case("SHVN", "The same, with a cookie", "cookie", ask("/close", "Cookie: S=s1\r\n")),
    Case("sH--", "The server said nothing within `timeout.server`", "web", ask("/silent")),
    Case("PH--", "The server's answer is no HTTP", "web", ask("/garbage")),
    Case("CH--", "The client left before the answer", "web", leave(_request("/silent"), SILENT), theirs="CD--"),
    Case("cH--", "The client stopped in the middle of what it sent", "impatient", say(_POST), theirs="-"),
    Case("CD--", "The client left in the middle of what it sent", "web", leave(_POST, _POST_LINE)),
    Case("CD--", "The client left in the middle of the answer", "web", read_some_and_leave(_request("/big"))),
    Case("cD--", "The client reads no more", "impatient", do_not_read(_request("/big"))),
    Case("SD--", "The server closed in the middle of the answer", "web", ask("/cut")),
    Case("sD--", "The server stopped in the middle of the answer", "web", ask("/stall")),
    Case("PD--", "The answer's chunk is none", "web", ask("/chunk"), theirs="SD--"),
    Case("KH--", "An operator ended the server's sessions", "down",
         ordered(_request("/silent"), SILENT, _KILL.format("down"))),
    Case("DH--", "The server went down (`on_marked_down: shutdown-sessions`)", "down",
         ordered(_request("/silent"), SILENT, "set server down/s1 health down", "set server down/s1 health up")),
    Case("--", "tcp: all is well", "tcp", say(b"close\n")),
    Case("--", "tcp: the first server refused, another one took it", "tcp-again", say(b"close\n")),
    Case("--", "tcp: a client that a PROXY protocol header tells of", "tcp-proxy",
         say(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\nclose\n")),
    Case("--", "tcp: with a `log_format`", "tcp-custom", say(b"close\n")),
    Case("PR", "tcp: no PROXY protocol header", "tcp-proxy", say(b"nonsense for a header\r\n"), theirs="-"),
    Case("cR", "tcp: no PROXY protocol header in time", "tcp-proxy", say(b""), theirs="-"),
    Case("sQ", "tcp: no place at a server within `timeout.queue`", "tcp-one", behind(b"silent\n", "silent", b"x\n")),
    Case("CQ", "tcp: the client left the queue", "tcp-one",
         behind(b"silent\n", "silent", b"", patience=0.1), theirs="CD"),
    Case("SC", "tcp: the server refused", "tcp-refused", say(b"x\n")),
    Case("sC", "tcp: the server did not accept in time", "tcp-hole", say(b"x\n")),
    Case("CC", "tcp: the client left while we connected", "tcp-hole", leave(b""), theirs="CD"),
    Case("CD", "tcp: the client reset the connection", "tcp", leave(b"silent\n", "silent")),
    Case("SD", "tcp: the server reset the connection", "tcp", say(b"reset\n")),
    Case("cD", "tcp: nothing came from either side, `timeout.client` is the shorter one", "tcp-impatient",
         say(b"silent\n")),
    Case("cD", "tcp: the client reads no more", "tcp-impatient", do_not_read(b"big\n")),
    Case("KD", "tcp: an operator ended the server's sessions", "tcp-down",
         ordered(b"silent\n", "silent", _KILL.format("tcp-down")), theirs="K-"),
    Case("DD", "tcp: the server went down (`on_marked_down: shutdown-sessions`)", "tcp-down",
         ordered(b"silent\n", "silent", "set server tcp-down/s1 health down", "set server tcp-down/s1 health up"),
         theirs="D-"),
)  # fmt: skip


def masked(line: str) -> str:
    """What two runs have in common: no port `P`, date, time `N` but -1, octets `B` but 0, connections in all `C`.

    The octets are what we have written, what HAProxy keeps of an answer are others. Of connections that are just being
    closed HAProxy counts some still.
    """
    line = re.sub(r"^(\S+):\d+ \[[^]]+\]", r"\1:P [date]", line)
    line = re.sub(r"( (?:\d\d\d|-1)) \d+( \S+ \S+ \S{4} \d)", r"\1 B\2", line)
    line = re.sub(r"(/-?\d+) [1-9]\d* (\S\S \d+/)", r"\1 B \2", line)
    line = re.sub(r"( [A-Zcs-]{2,4}) \d+/\d+/", r"\1 C/C/", line)
    return re.sub(
        r"( \S+/\S+ )((?:\+?-?\d+/)+\+?-?\d+) ",
        lambda match: match[1] + re.sub(r"\+?\b(?<!-)\d+", "N", match[2]) + " ",
        line,
        count=1,
    )


def provoke(case: Case, code: str, scene: Scene) -> str:
    """The line with this code that tells of it."""
    visit = Visit(scene, case.frontend)
    case.act(visit)

    def find() -> str:
        return next((line for line in visit.lines if f" {code} " in line), "")

    try:
        return until(find, f"{case.frontend}: {case.what}: {code}", within=5)
    except AssertionError as error:
        raise AssertionError(f"{error}; logged are {visit.lines}") from None
