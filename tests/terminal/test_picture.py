from __future__ import annotations

import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import model
from balancer.errors import BalancerError
from balancer.observe import columns, info
from balancer.observe.snapshot import LastCheck
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.terminal import picture
from balancer.terminal.picture import Pattern, Picture
from tests.observe.conftest import NOW, House, config, two_routers
from tests.terminal.conftest import Daemon


def seen(house: House) -> Picture:
    snapshot = house.look()
    return picture.read(info.plain(snapshot, 100), "".join(columns.csv(columns.selected(snapshot))), None, now=NOW)


def test_everybody_is_there_in_order(house: House) -> None:
    found = seen(house)
    assert [(each.name, each.mode, each.status, each.tone) for each in found.frontends] == [
        ("web", "http", "OPEN", "good"), ("tls", "tcp", "FULL", "warning"), ("dns", "udp", "OPEN", "good"),
    ]  # fmt: skip
    assert [(each.name, each.status, [one.name for one in each.servers]) for each in found.backends] == [
        ("app", "UP", ["up", "down", "spare"]), ("raw", "UP", ["one"]), ("names", "DOWN", ["ns"]),
    ]  # fmt: skip
    assert [(each.path, each.status, each.tone) for each in found.servers] == [
        ("app/up", "UP", "good"), ("app/down", "DOWN", "bad"), ("app/spare", "UP", "good"),
        ("raw/one", "UP 1/3", "warning"), ("names/ns", "DRAIN", "aside"),
    ]  # fmt: skip


def test_the_numbers_are_those_that_were_counted(house: House) -> None:
    found = seen(house)
    assert (found.node, found.description, found.version) == ("director", "Nodo Master", "0.1.0")
    assert (found.uptime, found.connections, found.connections_max, found.is_stopping) == (3600, 7, 100, False)
    web = found.frontends[0].traffic
    assert (web.sessions, web.sessions_max, web.sessions_limit, web.sessions_total) == (5, 8, 20000, 700)
    assert (web.requests_total, web.bytes_in, web.bytes_out, web.errors) == (5000, 10_000, 2_000_000, 2)
    assert found.frontends[1].traffic.requests_total is None, "mode tcp has no requests"
    up, down, spare = found.backends[0].servers
    assert (up.traffic.retries, up.traffic.redispatches, up.weight, up.cookie, up.last_session) == (4, 1, 3, "c1", 2)
    assert up.check is not None and up.check[:3] == ("L7OK", 200, 3)
    assert (down.downs, down.downtime, down.check_failures, down.since) == (2, 40, 5, 30)
    assert down.check is not None and (down.check.status, down.check.text) == ("L4CON", "Connection refused")
    assert spare.is_backup and spare.last_session is None
    assert found.request_rate == sum(each.rate.requests for each in house.look().frontends)


@pytest.mark.parametrize(
    ("state", "word", "takes"),
    [
        (ServerState(Condition.UP, health=4), "UP", True),
        (ServerState(Condition.UP, health=3), "UP 2/3", True),
        (ServerState(Condition.UP, weight=0, health=4), "UP", False),
        (ServerState(Condition.UP, Admin.DRAIN, health=3), "DRAIN 2/3", False),
        (ServerState(Condition.UP, Admin.MAINT), "MAINT", False),
        (ServerState(Condition.DOWN), "DOWN", False),
    ],
)
def test_who_takes_clients(house: House, state: ServerState, word: str, takes: bool) -> None:
    house.set("app", "up", state)
    up = seen(house).backends[0].servers[0]
    assert (up.status, up.takes_clients) == (word, takes)


def test_names_may_be_patterns(house: House) -> None:
    def found(*texts: str) -> tuple[list[str], list[str], list[str]]:
        part = seen(house).narrowed([Pattern.of(text) for text in texts])
        return (
            [each.name for each in part.frontends],
            [each.name for each in part.backends],
            [each.path for each in part.servers],
        )

    assert found() == found("*")
    assert found("app") == ([], ["app"], ["app/up", "app/down", "app/spare"])
    assert found("app/*p*") == ([], ["app"], ["app/up", "app/spare"])
    assert found("*/ns", "raw/one") == ([], ["raw", "names"], ["raw/one", "names/ns"])
    assert found("web") == (["web"], [], [])
    assert found("nobody/*", "[") == ([], [], [])


def test_the_daemon_is_asked_for_all_of_it_at_once(daemon: Daemon) -> None:
    found = picture.fetch(daemon.path, clock=lambda: NOW)
    assert found == seen(daemon.house) and found.routers is None
    daemon.close()
    with pytest.raises(BalancerError, match="does not run here"):
        picture.fetch(daemon.path)
    daemon.standing = two_routers()
    daemon.open()
    assert picture.fetch(daemon.path).routers == two_routers()


@given(st.text(max_size=60))
def test_what_a_server_says_spoils_nothing(text: str) -> None:
    house = House(config())
    said = LastCheck("L7STS", "Layer7 wrong status", 500, text, 0.0, NOW)
    house.set("app", "up", ServerState(Condition.UP, health=3), said)
    house.feed(NOW)
    found = seen(house)
    assert [each.path for each in found.servers] == ["app/up", "app/down", "app/spare", "raw/one", "names/ns"]
    up = found.backends[0].servers[0]
    assert up.check is not None and up.check.text == text.replace("\r", " ").replace("\n", " ")


@pytest.mark.parametrize(
    "said",
    [
        b"\nx\n\ny\n\nz\n\n",
        b"\n\n\n\n",
        b"\nnode: a\n\n# pxname,svname,\nweb,\n\n\n",
        b"\n\xff\xfe\n\n,,,\n\n[3]: none\n\n",
    ],
)
def test_nonsense_is_refused(tmp_path, said: bytes) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(BalancerError, match="cannot be understood"):
            picture.fetch(path)
        thread.join(10)


def test_five_thousand_servers_are_read_in_no_time() -> None:
    servers = {f"server{i}": {"address": f"10.1.{i // 250}.{i % 250 + 1}:80"} for i in range(5000)}
    large = House(
        model.Config.model_validate(
            {
                "frontends": {"web": {"mode": "http", "bind": ("192.0.2.1:80",), "default_backend": "app"}},
                "backends": {"app": {"servers": servers}},
            }
        )
    )
    snapshot = large.look()
    stat = "".join(columns.csv(columns.selected(snapshot)))
    began = time.process_time()
    found = picture.read(info.plain(snapshot, 100), stat, None, now=NOW)
    assert sum(1 for _ in found.servers) == 5000
    assert time.process_time() - began < 1.0
