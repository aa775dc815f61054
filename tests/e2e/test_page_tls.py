"""The statistics page over TLS."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.certificates import make
from tests.e2e.bed.clients import curl, talk
from tests.e2e.bed.process import PATIENCE, until

CONFIG = """
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
backends:
  web: {servers: {web1: {address: "127.0.0.1:${web1}"}}}
stats:
  bind: ["127.0.0.1:${stats}", FOLDER/stats.sock]
  tls: {crt: FOLDER/page.pem, key: FOLDER/page.key}
  users: {admin: "123"}
  admin: true
"""


@pytest.fixture
def running(balancer, web, tmp_path):
    _, key = make(tmp_path)
    # The processes that serve the page may not read it.
    key.chmod(0o600)
    return balancer(CONFIG.replace("FOLDER", str(tmp_path)), web1=web[0].port)


def served(port: int) -> str:
    """The certificate that is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=PATIENCE)


def test_the_page_is_served_over_tls_alone(running, tmp_path: Path) -> None:
    port = running.ports["stats"]
    page = f"https://127.0.0.1:{port}/haproxy?stats"
    for version in ("--tlsv1.2", "--tlsv1.3"):
        answer = curl("--cacert", tmp_path / "page.pem", version, "-u", "admin:123", "-i", page).stdout.decode()
        assert "web1" in answer
        assert "strict-transport-security" not in answer.lower(), "whoever wants that says so elsewhere"
    # Neither without TLS, nor with what has had its day.
    assert b"HTTP" not in talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    old = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert old.returncode and "no protocols available" not in old.stderr, "the server refuses"
    # A Unix socket is no network.
    local = curl("--unix-socket", tmp_path / "stats.sock", "-u", "admin:123", "http://x/metrics").stdout
    assert b"haproxy_process_uptime_seconds" in local


def test_a_browser_is_kept_up_to_date_and_may_change_servers(running) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = browser.new_context(
            ignore_https_errors=True, http_credentials={"username": "admin", "password": "123"}
        )
        page = context.new_page()
        page.goto(f"https://127.0.0.1:{running.ports['stats']}/")
        expect(page.locator("#live")).to_have_text("live", timeout=20_000)
        page.get_by_label("web1").check()
        page.locator("select[name=action]").select_option("weight")
        page.locator("input[name=weight]").fill("10")
        page.get_by_role("button", name="Apply").click()
        running.wait_for_line("set server web/web1 weight 10")
        browser.close()


def test_reload_takes_a_renewed_certificate_and_drops_nothing(running, tmp_path: Path) -> None:
    port = running.ports["stats"]
    before = served(port)
    assert before.strip() == (tmp_path / "page.pem").read_text().strip()
    client = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=PATIENCE)

    def get() -> int:
        client.request("GET", "/")
        response = client.getresponse()
        response.read()
        return response.status

    assert get() == 200
    make(tmp_path)
    assert served(port) == before, "nobody has been told"
    # A connection of before is served to its end.
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded: changed: files that it names")
    assert get() == 200
    until(lambda: served(port).strip() == (tmp_path / "page.pem").read_text().strip(), "the renewed one is shown")
    client.close()
    # One that is of no use changes nothing, and is told of.
    make(tmp_path, "other")
    (tmp_path / "page.key").write_bytes((tmp_path / "other.key").read_bytes())
    said = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("is not the one of the certificate in", after=said)
    assert served(port).strip() == (tmp_path / "page.pem").read_text().strip()


def test_who_shakes_hands_slowly_holds_nobody_up(running, tmp_path: Path) -> None:
    port = running.ports["stats"]
    silent = []
    for number in range(150):
        connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
        # Half a ClientHello of some.
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01" if number % 2 else b"")
        silent.append(connection)
    try:
        began = time.monotonic()
        url = f"https://127.0.0.1:{port}/metrics"
        text = curl("--cacert", tmp_path / "page.pem", "-u", "admin:123", url).stdout
        assert b"haproxy_process_uptime_seconds" in text
        assert time.monotonic() - began < PATIENCE / 2, "they are given ten seconds"
    finally:
        for connection in silent:
            connection.close()
