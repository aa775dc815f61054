"""Compression and the cache, through the whole daemon, with real clients and servers."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.bed.clients import curl
from tests.e2e.bed.process import PATIENCE, until
from tests.e2e.bed.pybalancer import Balancer
from tests.e2e.bed.servers import Apache, Nginx, program, sha256

CONFIG = """
global: {workers: ${workers}, runtime_socket: {path: "${admin}"}}
frontends:
  http:
    mode: http
    bind: 127.0.0.1:${http}
    compression: {algorithms: [zstd, br, gzip]}
    http_response: {set_header: {X-Rule: "%[path]"}}
    use_backend: {backend: php, if: {path_end: .php}}
    default_backend: web
backends:
  web:
    cache: true
    cookie: {name: SERVERID}
    check: {type: tcp, interval: 500ms}
    servers: {web1: {address: "127.0.0.1:${web1}", cookie: web1}}
  php:
    cache: true
    check: {type: tcp, interval: 500ms}
    servers: {php1: {address: "127.0.0.1:${php1}"}}
"""
TEXT = b"".join(b"%d: a line that is like all the others\n" % number for number in range(1000))
_PAGE = """<?php
header('Content-Type: text/html; charset=utf-8');
header('Cache-Control: public, max-age=60');
for ($i = 0; $i < 20; $i++) { echo str_repeat("$i a part of the page\\n", 40); flush(); }
"""
PAGE = b"".join(b"%d a part of the page\n" % number * 40 for number in range(20))


@pytest.fixture
def files(web: tuple[Nginx, ...]) -> Iterator[Path]:
    folder = web[0].folder / "files"
    (folder / "text").write_bytes(TEXT)
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def start(
    files: Path, tmp_path: Path, web: tuple[Nginx, ...], apache: Apache, balancer: Callable[..., Balancer]
) -> Callable[[int], Balancer]:
    (apache.folder / "www" / "page.php").write_text(_PAGE)

    def started(workers: int) -> Balancer:
        admin = tmp_path / "admin.sock"
        it = balancer(CONFIG, workers=workers, admin=admin, web1=web[0].port, php1=apache.ports[0])
        it.wait_until_up("web/web1", "php/php1")
        it.config["admin"] = str(admin)
        return it

    return started


def say(it: Balancer, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(it.config["admin"])
        sock.sendall(command.encode() + b"\n")
        with sock.makefile() as file:
            return file.read()


def url(it: Balancer, path: str) -> str:
    return f"http://127.0.0.1:{it.ports['http']}{path}"


@pytest.mark.parametrize(("coding", "size"), [("gzip", 64), ("br", 16), ("zstd", 16)])
def test_64_mib_are_what_they_were(coding: str, size: int, start: Callable[[int], Balancer], files: Path) -> None:
    block = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() + b" and more\n" for number in range(14_000))
    large = files / "large"
    with large.open("wb") as file:
        for number in range(size):
            file.write(b"%08d" % number + block[: (1 << 20) - 8].ljust((1 << 20) - 8))
    it = start(1)
    before = sum(it.pss().values())
    command = [program("curl"), "-q", "--noproxy", "*", "-sSf", "--max-time", "60", "-D", "/dev/stderr"]
    command += ["-H", f"Accept-Encoding: {coding}", "--compressed", url(it, "/files/large")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None and asked.stderr is not None
        digest = hashlib.file_digest(asked.stdout, "sha256").hexdigest()
        head = asked.stderr.read().decode().lower()
        assert asked.wait(PATIENCE) == 0
    assert digest == sha256(large)
    assert f"content-encoding: {coding}" in head
    assert "x-rule: /files/large" in head
    # A compressor and what is on its way; KiB.
    assert sum(it.pss().values()) - before < 16 * 1024
    until(lambda: it.metric("haproxy_backend_http_comp_bytes_in_total", proxy="web") == size << 20, "it is counted")
    assert it.metric("haproxy_frontend_http_comp_responses_total", proxy="http") == 1
    assert it.metric("haproxy_backend_http_comp_bytes_out_total", proxy="web") < size * 3 << 18
    columns = dict(zip(*(line.strip("# ").split(",") for line in say(it, "show stat").splitlines()[:2]), strict=True))
    assert (columns["comp_in"], columns["comp_rsp"]) == (str(size << 20), "1")


def test_a_page_in_parts_is_compressed_and_kept(start: Callable[[int], Balancer], apache: Apache) -> None:
    it = start(1)
    for coding in ("gzip", "br", "zstd", "identity", "gzip"):
        assert curl("-f", "-H", f"Accept-Encoding: {coding}", "--compressed", url(it, "/page.php")).stdout == PAGE
    assert sum("page.php" in request for request in apache.requests) == 1
    until(lambda: it.metric("haproxy_backend_http_cache_hits_total", proxy="php") == 4, "they are counted")
    assert it.metric("haproxy_frontend_http_cache_lookups_total", proxy="http") == 5
    assert it.metric("pybalancer_backend_cache_objects", proxy="php") == 1
    assert it.metric("haproxy_frontend_http_comp_responses_total", proxy="http") == 4


def test_what_a_server_lets_everybody_keep_it_is_asked_for_once(
    start: Callable[[int], Balancer], web: tuple[Nginx, ...], files: Path
) -> None:
    it = start(2)
    mark = len(web[0].requests)
    heads = [curl("-f", "-D-", "-o/dev/null", url(it, "/kept/text")).stdout.decode().lower() for _ in range(20)]
    asked = [line for line in web[0].requests[mark:] if "/kept/text" in line]
    # Once by each worker.
    assert 1 <= len(asked) <= 2
    assert sum("age: " in head for head in heads) == 20 - len(asked)
    assert sum("set-cookie: serverid=" in head for head in heads) == len(asked)
    assert curl("-f", url(it, "/kept/text")).stdout == TEXT
    packed = curl("-f", "-H", "Accept-Encoding: gzip", url(it, "/kept/text")).stdout
    assert gzip.decompress(packed) == TEXT
    status = ("-o/dev/null", "-w", "%{http_code}")
    tag = next(line.split(": ", 1)[1] for line in heads[0].splitlines() if line.startswith("etag"))
    assert curl(*status, "-H", f"If-None-Match: {tag}", url(it, "/kept/text")).stdout == b"304"
    assert curl(*status, "-r", "0-9", url(it, "/kept/text")).stdout == b"206"
    line = it.wait_for_line("web/<CACHE>")
    assert " 200 " in line and " LRNN " in line
    said = say(it, "show cache")
    until(lambda: f"web: {len(asked)} objects" in say(it, "show cache"), f"the cache is shown: {said}")
    # Others get a page of the same name from each server that they ask for it.
    (files / "text").write_bytes(b"another")
    assert curl("-f", url(it, "/files/text")).stdout == b"another"


def test_a_reload_forgets(start: Callable[[int], Balancer], files: Path) -> None:
    it = start(1)
    assert curl("-f", url(it, "/kept/text")).stdout == TEXT
    (files / "text").write_bytes(b"another")
    assert curl("-f", url(it, "/kept/text")).stdout == TEXT
    assert curl("-f", "-H", "Cache-Control: no-cache", url(it, "/kept/text")).stdout == b"another"
    assert curl("-f", url(it, "/kept/text")).stdout == b"another"
    (files / "text").write_bytes(b"a third")
    it.process.signal(signal.SIGHUP)
    it.wait_for_line("NOTICE: reloaded")
    assert curl("-f", url(it, "/kept/text")).stdout == b"a third"


def test_what_a_client_changes_by_one_worker_is_old_for_the_other_at_once(
    start: Callable[[int], Balancer], apache: Apache
) -> None:
    it = start(2)
    clients: list[http.client.HTTPConnection] = []

    def ask(client: http.client.HTTPConnection, method: str = "GET") -> tuple[int, bytes, bool]:
        client.request(method, "/changing.php")
        answer = client.getresponse()
        return answer.status, answer.read(), answer.getheader("Age") is not None

    def both_have_it() -> bool:
        clients.append(http.client.HTTPConnection("127.0.0.1", it.ports["http"], timeout=PATIENCE))
        assert ask(clients[-1])[:2] == (200, b"0")
        return it.metric("pybalancer_backend_cache_objects", proxy="php") == 2

    folder = apache.folder / "www"
    (folder / "changing.php").write_text("<?php header('Cache-Control: max-age=60'); readfile('changing.txt');")
    (folder / "changing.txt").write_bytes(b"0")
    until(both_have_it, "each worker has a copy")
    for number in range(1, 4):
        changed = b"%d" % number
        (folder / "changing.txt").write_bytes(changed)
        # Old as long as nobody has changed it through us.
        assert all(ask(client)[2] for client in clients)
        assert ask(clients[number % len(clients)], "POST")[:2] == (200, changed)
        for client in clients:
            assert ask(client)[:2] == (200, changed)
    for client in clients:
        client.close()
