"""The statistics page in a browser."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.bed.clients import get
from tests.e2e.bed.process import until

CONFIG = """
global: {workers: 2, hard_stop_after: 5s}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
backends:
  web:
    cookie: {name: SERVERID}
    check: {type: tcp, interval: 300ms}
    servers:
      web1: {address: "127.0.0.1:${web1}", cookie: c1, weight: 10}
      web2: {address: "127.0.0.1:${web2}", cookie: c2, weight: 10}
  plain:
    servers:
      web3: {address: "127.0.0.1:${web3}"}
stats:
  bind: 127.0.0.1:${stats}
  description: Nodo Master
  refresh: 5s
  admin: true
  users:
    admin: "123"
    guest: {password: look, admin: false}
    tests: tests
"""
# Milliseconds that something may take which is awaited.
PATIENCE = 20_000
expect.set_options(timeout=PATIENCE)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def running(balancer, web):
    running = balancer(CONFIG, web1=web[0].port, web2=web[1].port, web3=web[2].port)
    running.wait_until_up("web/web1", "web/web2")
    return running


@pytest.fixture
def opened(browser, running):
    """Opens the page, as admin unless told otherwise; nothing may be complained of in the console."""
    complaints: list[str] = []
    contexts = []

    def open_(path: str = "/haproxy?stats", user: str = "admin", password: str = "123", **more) -> Page:
        context = browser.new_context(http_credentials={"username": user, "password": password}, **more)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{running.ports['stats']}{path}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def row(page: Page, name: str):
    return page.locator("tbody tr", has=page.locator("th", has_text=re.compile(rf"^{name}"))).first


def cell(page: Page, name: str, key: str):
    """By the column's key, in the table of servers."""
    keys = page.locator("table.b").first.locator("col").evaluate_all("cols => cols.map(col => col.dataset.k || '')")
    return row(page, name).locator("th, td").nth(keys.index(key))


def test_it_is_up_to_date_without_being_loaded_again(opened, running, web) -> None:
    page = opened()
    expect(page.locator("#live")).to_have_text("live")
    page.evaluate("window.stays = true")
    for _ in range(7):
        get(running.ports["http"])
    both = page.locator("tr.total").first.locator("td").nth(9)
    expect(both).to_have_text("7")
    expect(page.locator("tr#f\\/ft td").nth(7)).to_have_text("7")
    assert cell(page, "web1", "stot").get_attribute("title").startswith("HTTP requests")
    web[1].kill()
    expect(row(page, "web2")).to_have_class("down")
    expect(cell(page, "web2", "status")).to_contain_text("DOWN")
    expect(page.locator("#log")).to_contain_text("Server web/web2 is DOWN")
    expect(page.locator("#top dd").nth(4)).to_have_text("2 of 3 1 down")
    expect(page).to_have_title(re.compile(r"^\(1 down\) .* · Nodo Master"))
    assert page.evaluate("window.stays")
    expect(page.locator("#top svg").first).to_be_visible()
    # What the script wrote is what the server writes.
    with urllib.request.urlopen(_authorized(running, "/haproxy?stats")) as response:
        html = response.read().decode()
    again = opened(java_script_enabled=False)
    for name in ("web1", "web2", "web3", "Backend"):
        for key in ("stot", "bin", "bout", "lbtot", "weight", "econ", "downs"):
            assert cell(page, name, key).inner_text() == cell(again, name, key).inner_text(), (name, key)
        shown = cell(page, name, "stot").get_attribute("title")
        assert shown == cell(again, name, "stot").get_attribute("title")
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html
    again.close()
    # Who reads the configuration anew has the same rows: the page goes on.
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("NOTICE: reloaded")
    get(running.ports["http"])
    expect(both).to_have_text("8")
    expect(page.locator("#live")).to_have_text("live")
    assert page.evaluate("window.stays")


def _authorized(running, path: str, user: str = "admin:123", **more) -> urllib.request.Request:
    request = urllib.request.Request(f"http://127.0.0.1:{running.ports['stats']}{path}", **more)
    request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    return request


def change(page: Page, action: str, *servers: str) -> None:
    for name in servers:
        page.get_by_label(name).check()
    page.get_by_label("Chosen servers").select_option(action)
    page.get_by_role("button", name="Apply").click()


def test_a_server_is_drained_and_its_traffic_stops(opened, running) -> None:
    page = opened("/")
    change(page, "drain", "web1")
    expect(page.locator("p.said")).to_have_text("Done.")
    expect(cell(page, "web1", "status")).to_contain_text("DRAIN")
    until(lambda: {get(running.ports["http"])["server"] for _ in range(4)} == {"web2"}, "new clients go elsewhere")
    running.wait_for_line("admin at 127.0.0.1 (page): set server web/web1 state drain")
    with socket.create_connection(("127.0.0.1", running.ports["tcp"])) as client:
        expect(cell(page, "web3", "scur")).to_have_text("1")
        # Without a script it is the same; and the last one that serves is asked for twice.
        plain = opened(java_script_enabled=False)
        change(plain, "drain", "web3")
        expect(plain.locator("h1")).to_have_text("Are you sure?")
        expect(plain.locator("p.said")).to_have_text("This leaves the backend plain without a server for new clients.")
        plain.get_by_role("link", name="No, go back").click()
        assert "no check" in cell(plain, "web3", "status").inner_text()
        change(plain, "drain", "web3")
        plain.get_by_role("button", name="Yes, do it").click()
        expect(plain.locator("p.said")).to_have_text("Done.")
        assert "DRAIN" in cell(plain, "web3", "status").inner_text()
        drains = page.locator("#drains tbody tr", has_text="plain/web3").locator("td")
        expect(drains.nth(2)).to_have_text("1")
        # Its worker was asked since when.
        expect(drains.nth(3)).to_have_text(re.compile(r"^[0-9]+s$"))
        expect(page.locator("#drains")).to_contain_text("web/web1")
        change(plain, "shutdown", "web3")
        expect(plain.locator("p.said")).to_have_text("This ends 1 session that goes on now.")
        plain.get_by_role("button", name="Yes, do it").click()
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    expect(drains.nth(5)).to_have_text("empty")
    change(page, "ready", "web1", "web3")
    expect(cell(page, "web1", "status")).to_contain_text("UP")
    expect(page.locator("#drains")).to_be_hidden()


def test_who_may_not_is_refused(browser, opened, running, web) -> None:
    page = opened(user="guest", password="look")
    expect(page.locator("#live")).to_have_text("live")
    assert page.locator("form, input[type=checkbox]").count() == 0
    host = f"127.0.0.1:{running.ports['stats']}"
    context = browser.new_context(http_credentials={"username": "admin", "password": "124"})
    try:
        assert context.new_page().goto(f"http://{host}/haproxy?stats").status == 401
    finally:
        context.close()
    # Another site's form is sent with the password of the user, who has the page open.
    page = opened()
    other = page.context.new_page()
    other.goto(f"http://localhost:{web[0].port}/")
    other.set_content(
        f"<form method=post action='http://{host}/haproxy?stats'><input name=s value=web1><input name=b value=web>"
        "<input name=action value=maint></form>"
    )
    with other.expect_response(lambda response: response.url.startswith(f"http://{host}")) as answered:
        other.evaluate("document.forms[0].submit()")
    assert answered.value.status == 403
    running.wait_for_line("was refused, sent by admin at 127.0.0.1 (page)")
    expect(cell(page, "web1", "status")).to_contain_text("UP")
    assert not [line for line in running.log if "state maint" in line]
    form = b"s=web1&b=web&action=maint"
    with urllib.request.urlopen(_authorized(running, "/haproxy?stats", data=form)) as done:
        assert done.url.endswith(";st=DONE"), "a script needs no more than the password"
    expect(cell(page, "web1", "status")).to_contain_text("MAINT")


def test_anybody_can_read_and_use_it(opened, running, tmp_path) -> None:
    for scheme in ("light", "dark"):
        page = opened(viewport=PHONE, color_scheme=scheme)
        expect(page.locator("#live")).to_have_text("live")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over"
        assert page.screenshot(path=tmp_path / f"{scheme}.png")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page = opened()
    expect(page.locator("#live")).to_have_text("live")
    page.locator("#filter").focus()
    page.keyboard.type("web2")
    expect(page.locator("#shown")).to_have_text("1 of 5 rows")
    expect(row(page, "web1")).to_be_hidden()
    page.locator("#filter").fill("")
    expect(row(page, "web1")).to_be_visible()
    table = page.locator("table.b").first
    names = table.locator("tbody tr:not(.total) label")
    before = names.all_inner_texts()
    table.get_by_role("button", name="Name").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names.all_inner_texts() == before[::-1] and table.locator("th[aria-sort=descending]").count() == 1
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "s":
            break
    page.keyboard.press("Space")
    expect(page.locator("#chosen")).to_have_text("1 chosen")
