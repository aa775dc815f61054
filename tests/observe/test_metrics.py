from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from balancer.config import model
from balancer.observe import metrics, page
from balancer.observe.snapshot import Process, Rate, Snapshot
from balancer.pool.facts import COUNTERS, Entity
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW, US, two_routers

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
ZERO = dict.fromkeys(COUNTERS, 0)


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(text: str, name: str, /, **labels: str) -> float:
    (found,) = [s.value for s in samples(text) if s.name == name and s.labels == labels]
    return found


def test_the_exposition_is_frozen(house) -> None:
    assert metrics.render(house.look()).decode() == GOLDEN.read_text()


def test_pieces_make_the_whole(house) -> None:
    assert "".join(metrics.pieces(house.look())).encode() == metrics.render(house.look())


def test_pieces_are_short_however_many_servers_there_are(make_house) -> None:
    servers = {f"s{i}": {"address": f"10.0.{i // 200}.{i % 200 + 1}:80"} for i in range(1000)}
    backends = {"many": {"check": {"type": "http"}, "servers": servers}}
    house = make_house(model.Config.model_validate({"stats": {"bind": ":7000"}, "backends": backends}))
    house.feed(NOW)
    for pieces in (metrics.pieces(house.look()), page.pieces(house.look(), page.View("r"))):
        sizes = [len(piece) for piece in pieces]
        assert max(sizes) < 64 << 10 and len(sizes) > 50


def test_every_family_is_announced_once_and_every_series_is_there_once(house) -> None:
    text = metrics.render(house.look()).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    keys = [(s.name, tuple(sorted(s.labels.items()))) for s in samples(text)]
    assert len(keys) == len(set(keys))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40))
def test_label_values_come_back_as_they_were(text: str) -> None:
    process = Process("1", text, text, 1, 0.0, workers=1, maxconn=1)
    out = metrics.render(Snapshot(1.0, process, ZERO, Rate(), (), ())).decode()
    (found,) = [s for s in samples(out) if s.name == "haproxy_process_description"]
    assert found.labels == {"desc": text}


def test_a_lone_surrogate_spoils_nothing() -> None:
    process = Process("1", "n", "a\udcffb", 1, 0.0, workers=1, maxconn=1)
    out = metrics.render(Snapshot(1.0, process, ZERO, Rate(), (), ())).decode()
    assert 'desc="a?b"' in out


def counters(found: Iterable[Sample]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    suffixes = ("_total", "_bucket", "_count", "_sum")
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in found if s.name.endswith(suffixes)}


def test_it_parses_and_only_grows_while_a_worker_counts(house) -> None:
    done = threading.Event()

    def work() -> None:
        app = house.ledger[Entity("backend", "app")]
        server = house.ledger[Entity("server", "app", "up")]
        while not done.is_set():
            for row in (app, server):
                row.stot += 1
                row.bin += 12345
                row.hrsp_2xx += 1
                row.ttime += 777
            app.total_times[9] += 1
            house.ledger.touched.append(server)
            house.ledger.flush()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        before: dict[object, float] = {}
        for turn in range(30):
            now = counters(samples(metrics.render(house.look(1_795_392_514.0 + turn)).decode()))
            assert not before or now.keys() == before.keys()
            assert all(now[key] >= before.get(key, 0.0) for key in now)
            before = dict(now)
    finally:
        done.set()
        worker.join()
    assert before["haproxy_backend_sessions_total", (("proxy", "app"),)] > 5000


# What is asked for


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("Application/OpenMetrics-Text;version=0.0.1", True),
        ('application/openmetrics-text;version="1.0.0"', True),
        ("application/openmetrics-text;version=2.0.0", False),
        # Prometheus 2.42, 2.53 and 3
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
         "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.2", True),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=...", False),
        (",;q=1,;;;", False),
    ],
)  # fmt: skip
def test_openmetrics_is_for_who_names_it(accept: str, is_open: bool) -> None:
    assert (metrics.content_type(accept) == metrics.OPEN_METRICS) is is_open


@given(st.text(max_size=60))
def test_any_accept_field_is_answered(accept: str) -> None:
    assert metrics.content_type(accept) in (metrics.CONTENT_TYPE, metrics.OPEN_METRICS)


def test_openmetrics_has_the_same_samples(house) -> None:
    house.routers = two_routers()
    text = metrics.render(house.look(), type_=metrics.OPEN_METRICS, tables=tables).decode()
    assert text.endswith("\n# EOF\n")
    families = {family.name: family for family in openmetrics(text)}
    plain = metrics.render(house.look(), tables=tables).decode()

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("#")]

    assert lines(text) == lines(plain)
    assert families["haproxy_server_check_duration_seconds"].unit == "seconds"
    assert families["haproxy_server_downtime_seconds"].type == "counter"
    assert families["haproxy_process_failed_resolutions"].type == "unknown", "a counter's samples end in _total"
    assert families["pybalancer_backend_total_seconds"].type == "histogram"


def tables() -> Iterable[tuple[str, int, Iterator[object | None]]]:
    return [("web", 102400, iter([None, *"abc", None]))]


def names(text: bytes) -> set[str]:
    return {line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE")}


@pytest.mark.parametrize(
    ("query", "scopes"),
    [
        ("", {"process", "frontend", "backend", "server", "sticktable", "vrrp"}),
        ("scope=*", {"process", "frontend", "backend", "server", "sticktable", "vrrp"}),
        ("scope=global", {"process"}),
        ("scope=frontend&scope=server", {"frontend", "server"}),
        ("scope=listener", set()),
        ("scope=sticktable", {"sticktable"}),
        ("scope=vrrp", {"vrrp"}),
        ("scope=", set()),
        ("scope=*&scope=", set()),
        ("scope=&scope=backend", {"backend"}),
        ("something=else", {"process", "frontend", "backend", "server", "sticktable", "vrrp"}),
    ],
)
def test_scopes_are_haproxys(house, query: str, scopes: set[str]) -> None:
    house.routers = two_routers()
    found = names(metrics.render(house.look(), metrics.Wanted.of(query), tables=tables))
    of = {name.split("_")[1] for name in found if not name.startswith("keepalived")}
    assert of == scopes
    assert any(name.startswith("keepalived") for name in found) == ("vrrp" in scopes)


def test_there_are_no_other_scopes() -> None:
    with pytest.raises(ValueError, match="there are global, frontend, "):
        metrics.Wanted.of("scope=servers")


def test_metrics_can_be_chosen_by_name(house) -> None:
    def of(query: str) -> set[str]:
        return names(metrics.render(house.look(), metrics.Wanted.of(query)))

    two = {"haproxy_frontend_status", "haproxy_server_status"}
    assert of("metrics=haproxy_frontend_status,haproxy_server_status") == two
    assert of("metrics=haproxy_frontend_status&metrics=haproxy_server_status&scope=server") == {"haproxy_server_status"}
    assert of("") - of("metrics=-haproxy_server_check_status") == {"haproxy_server_check_status"}
    assert of("metrics=nothing") == set()


def test_servers_in_maintenance_can_be_left_out(house) -> None:
    house.set("app", "spare", ServerState(Condition.UP, Admin.MAINT, last_change=int(NOW) * US))
    text = metrics.render(house.look(), metrics.Wanted.of("no-maint=empty")).decode()
    assert {s.labels["server"] for s in samples(text) if "server" in s.labels} == {"up", "down", "one", "ns"}


def test_tables_of_client_addresses_are_sticktables(house) -> None:
    text = metrics.render(house.look(), tables=tables).decode()
    assert value(text, "haproxy_sticktable_size", name="web", type="ipv6") == 102400
    assert value(text, "haproxy_sticktable_used", name="web", type="ipv6") == 3
