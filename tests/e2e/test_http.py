"""HTTP through the real command: curl, ab, a browser with cookies, WebSockets; nginx and Apache with PHP behind it."""

from __future__ import annotations

import hashlib
import http.cookiejar
import os
import re
import socket
import subprocess
import threading
import urllib.request

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from tests.e2e.bed.clients import curl, facts, get, talk
from tests.e2e.bed.configs import HTTP, HTTP_UP
from tests.e2e.bed.servers import program


@pytest.fixture
def front(balancer, web):
    """pybalancer in front of three nginx; gives its port."""
    running = balancer(HTTP, **{server.name: server.port for server in web})
    running.wait_until_up(*HTTP_UP)
    return running.ports["http"]


@pytest.fixture
def php(balancer, apache):
    """pybalancer in front of Apache with PHP; gives its port."""
    running = balancer(HTTP.replace("/health", "/"), **apache.port_of)
    running.wait_until_up(*HTTP_UP)
    return running.ports["http"]


def test_the_clients_address_reaches_the_server_and_its_own_claim_stays_in_front(php):
    assert get(php)["x-forwarded-for"] == "127.0.0.1"
    assert get(php, X_Forwarded_For="203.0.113.9")["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"


def test_a_browser_stays_on_its_server(php):
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    pages = [facts(browser.open(f"http://127.0.0.1:{php}/", timeout=20).read().decode()) for _ in range(8)]

    (cookie,) = jar
    assert (cookie.name, cookie.value, cookie.path) == ("SERVERID", pages[0]["server"], "/")
    assert {page["server"] for page in pages} == {cookie.value}
    assert pages[0]["cookie"] == "unknown"
    assert pages[1]["cookie"] == f"SERVERID={cookie.value}"


def test_a_browser_whose_server_dies_goes_on_with_another(front, web):
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    first = facts(browser.open(f"http://127.0.0.1:{front}/", timeout=20).read().decode())["server"]
    next(server for server in web if server.name == first).kill()

    pages = [facts(browser.open(f"http://127.0.0.1:{front}/", timeout=20).read().decode()) for _ in range(5)]

    (cookie,) = jar
    assert cookie.value != first
    # While the checks have not seen it, each of its requests may go elsewhere; then one server holds it again.
    assert all(page["server"] != first for page in pages)


def test_new_browsers_go_to_the_servers_in_turn(front):
    assert [get(front)["server"] for _ in range(6)] in (
        ["web1", "web2", "web3"] * 2,
        ["web2", "web3", "web1"] * 2,
        ["web3", "web1", "web2"] * 2,
    )


def test_set_cookie_lines_of_the_server_stay_and_ours_is_added_once(front):
    head = curl("-i", f"http://127.0.0.1:{front}/set-cookies").stdout.decode()
    values = re.findall(r"(?im)^set-cookie: (.*?)\r?$", head)
    assert [value for value in values if not value.startswith("SERVERID")] == ["first=1; Path=/", "second=2; Path=/"]
    assert len(values) == 3
    assert re.fullmatch(r"SERVERID=web[123]; path=/", next(v for v in values if v.startswith("SERVERID")))


def test_http_1_0(front):
    done = curl("-v", "--http1.0", f"http://127.0.0.1:{front}/")
    assert facts(done.stdout.decode())["server"] in ("web1", "web2", "web3")
    assert b"< HTTP/1." in done.stderr


def test_http_1_0_without_host(front):
    answer = talk(front, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.split(b" ", 2)[1] == b"200"
    assert b"server: web" in answer


def test_one_connection_serves_many_requests(front):
    url = f"http://127.0.0.1:{front}/"
    done = curl("-w", "%{num_connects}\n", "-o", "/dev/null", url, "-o", "/dev/null", url, "-o", "/dev/null", url)
    assert done.stdout.split() == [b"1", b"0", b"0"]


def test_head_has_the_length_and_no_body(front, web):
    for server in web:
        (server.folder / "files" / "page").write_bytes(b"x" * 4321)
    url = f"http://127.0.0.1:{front}/files/page"
    done = curl("-I", "-w", "%{num_connects}", url, "-I", url)
    assert done.stdout.lower().count(b"content-length: 4321\r\n") == 2
    # The second one comes on the same connection: nobody waited for a body.
    assert done.stdout.endswith(b"0")


def test_no_content_and_not_modified_have_no_body(front, web):
    for server in web:
        (server.folder / "files" / "page").write_bytes(b"x" * 100)
        os.utime(server.folder / "files" / "page", (1_000_000_000, 1_000_000_000))
    requests = (
        b"GET /no-content HTTP/1.1\r\nHost: t\r\n\r\n"
        b"GET /files/page HTTP/1.1\r\nHost: t\r\nIf-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    )
    answer = talk(front, requests)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"204", b"304", b"200"]


def test_a_range_of_a_file(front, web):
    for server in web:
        (server.folder / "files" / "page").write_bytes(bytes(range(256)))
    assert curl("-r", "16-31", f"http://127.0.0.1:{front}/files/page").stdout == bytes(range(16, 32))


def test_pipelined_requests_are_answered_in_order(front):
    requests = [f"GET /{n} HTTP/1.1\r\nHost: t\r\n\r\n".encode() for n in range(40)]
    requests.append(b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    answer = talk(front, b"".join(requests)).decode()
    asked = re.findall(r"request: GET /(\w+) HTTP/1\.1", answer)
    assert asked == [*map(str, range(40)), "last"]


def test_an_upload_of_unknown_length(php):
    body = os.urandom(3_000_000)
    done = curl("-T", "-", "-X", "POST", f"http://127.0.0.1:{php}/hash.php", stdin=body)
    assert done.stdout.decode().strip() == hashlib.sha256(body).hexdigest()


def test_an_upload_that_waits_for_100_continue(php):
    body = os.urandom(500_000)
    done = curl(
        "-v", "-H", "Expect: 100-continue", "--expect100-timeout", "30", "--data-binary", "@-",
        f"http://127.0.0.1:{php}/hash.php", stdin=body,
    )  # fmt: skip
    assert b"< HTTP/1.1 100 Continue" in done.stderr
    assert done.stdout.decode().strip() == hashlib.sha256(body).hexdigest()


def test_an_upload_that_the_server_refuses_before_it_came(front):
    """nginx answers 405 to a POST of a file without reading it; the client learns it, and later requests work."""
    done = curl(
        "-w", "%{http_code} ", "--data-binary", "@-", f"http://127.0.0.1:{front}/files/page",
        stdin=b"x" * 2_000_000,
    )  # fmt: skip
    assert done.stdout.split()[-1] == b"405"
    assert get(front)["server"].startswith("web")


def test_bad_requests_are_refused_and_logged_and_the_next_client_is_served(balancer, web):
    running = balancer(HTTP, **{server.name: server.port for server in web})
    port = running.ports["http"]
    for bad in (
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n",
    ):
        seen = len(running.log)
        answer = talk(port, bad)
        assert answer.startswith(b"HTTP/1.1 400 "), (bad, answer)
        assert answer.lower().count(b"connection: close") == 1
        running.process.wait_until(lambda seen=seen: any(" 400 " in line for line in running.log[seen:]), "a log line")
    assert get(port)["server"].startswith("web")


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "a connection each"])
def test_ab_with_48_clients_has_no_failed_request(front, keep_alive):
    command = [
        program("ab"),
        "-q",
        *(["-k"] if keep_alive else []),
        "-n",
        "6000",
        "-c",
        "48",
        f"http://127.0.0.1:{front}/",
    ]
    report = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert report.returncode == 0, report.stderr
    assert re.search(r"Complete requests: +6000\n", report.stdout)
    # Its "Failed requests" counts answers of another length than the first; all our servers' names are of one length.
    assert re.search(r"Failed requests: +0\n", report.stdout), report.stdout
    assert "Non-2xx" not in report.stdout


def test_a_websocket_works_through_the_balancer(balancer):
    def echo(peer):
        for message in peer:
            peer.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        running = balancer(
            """
            frontends: {ws: {mode: http, bind: "127.0.0.1:${ws}", forwarded_for: true, default_backend: ws}}
            backends:
              ws: {cookie: {name: S, mode: insert}, servers: {ws1: {address: "127.0.0.1:${server}", cookie: ws1}}}
            """,
            server=port,
        )
        with connect(f"ws://127.0.0.1:{running.ports['ws']}/chat", max_size=None, proxy=None) as client:
            for message in ("hello", "", os.urandom(1_500_000), "ünïcode"):
                client.send(message)
                assert client.recv(timeout=20) == message
            assert client.ping().wait(20)
        assert client.close_code == 1000


def test_a_client_that_leaves_in_the_middle_does_no_harm(front, web):
    for server in web:
        (server.folder / "files" / "large").write_bytes(b"x" * 5_000_000)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", front)) as client:
            client.sendall(b"GET /files/large HTTP/1.1\r\nHost: t\r\n\r\n")
            client.recv(1000)
    assert get(front)["server"].startswith("web")
