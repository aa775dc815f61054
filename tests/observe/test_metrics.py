from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from balancer.observe import metrics
from balancer.observe.snapshot import Process, Rate, Snapshot
from balancer.pool.facts import COUNTERS, Entity
from balancer.pool.routers import COUNTERS as ROUTER_COUNTERS
from balancer.pool.routers import Standing, Term, Trouble
from tests.observe.conftest import NOW, router, two_routers

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


def test_every_family_is_announced_once_and_every_series_is_there_once(house) -> None:
    text = metrics.render(house.look()).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    keys = [(s.name, tuple(sorted(s.labels.items()))) for s in samples(text)]
    assert len(keys) == len(set(keys))


def test_the_state_that_holds_is_one_and_the_others_zero(house) -> None:
    text = metrics.render(house.look()).decode()

    def states(name: str, **labels: str) -> dict[str, float]:
        return {
            s.labels["state"]: s.value for s in samples(text) if s.name == name and labels.items() <= s.labels.items()
        }

    assert states("haproxy_server_status", proxy="app", server="down") == {
        "DOWN": 1, "UP": 0, "MAINT": 0, "DRAIN": 0, "NOLB": 0,
    }  # fmt: skip
    assert states("haproxy_backend_status", proxy="names") == {"DOWN": 1, "UP": 0}
    assert states("haproxy_frontend_status", proxy="tls") == {"DOWN": 0, "UP": 1}
    checks = states("haproxy_server_check_status", proxy="app", server="down")
    assert len(checks) == 16 and [k for k, v in checks.items() if v] == ["L4CON"]
    assert states("haproxy_backend_agg_server_status", proxy="app") == {
        "DOWN": 1, "UP": 2, "MAINT": 0, "DRAIN": 0, "NOLB": 0,
    }  # fmt: skip


def test_what_makes_no_sense_is_left_out(house) -> None:
    found = samples(metrics.render(house.look()).decode())
    with_responses = {s.labels["proxy"] for s in found if s.name.endswith("http_responses_total")}
    assert with_responses == {"web", "app"}
    checked = {s.labels["server"] for s in found if s.name.startswith("haproxy_server_check_status")}
    assert checked == {"up", "down", "spare", "one"}
    assert {s.labels["proxy"] for s in found if "udp" in s.name} == {"dns"}


def test_durations_are_seconds(house) -> None:
    text = metrics.render(house.look()).decode()
    assert value(text, "haproxy_backend_max_connect_time_seconds", proxy="app") == 30.0
    assert value(text, "haproxy_server_check_duration_seconds", proxy="app", server="up") == 0.0031
    assert value(text, "haproxy_server_downtime_seconds_total", proxy="app", server="down") == 40
    assert value(text, "haproxy_server_last_session_seconds", proxy="app", server="up") == 2
    assert value(text, "haproxy_server_last_session_seconds", proxy="app", server="down") == -1


def test_a_histogram_counts_up_to_infinity(house) -> None:
    text = metrics.render(house.look()).decode()
    buckets = [
        (float(s.labels["le"]), s.value)
        for s in samples(text)
        if s.name == "pybalancer_backend_connect_seconds_bucket" and s.labels["proxy"] == "app"
    ]
    assert buckets == sorted(buckets)
    assert dict(buckets)[0.000512] == 0
    assert dict(buckets)[0.001024] == 30
    assert dict(buckets)[33.554432] == 30
    assert dict(buckets)[math.inf] == 31
    assert value(text, "pybalancer_backend_connect_seconds_count", proxy="app") == 31
    assert value(text, "pybalancer_backend_connect_seconds_sum", proxy="app") == 31.0


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


# Virtual routers

VI_E = {"iname": "VI_E", "intf": "eth0", "vrid": "51"}
EXPORTER = {
    "keepalived_up", "keepalived_vrrp_state", "keepalived_advertisements_received", "keepalived_advertisements_sent",
    "keepalived_become_master", "keepalived_release_master", "keepalived_packet_length_errors",
    "keepalived_advertisements_interval_errors", "keepalived_ip_ttl_errors", "keepalived_invalid_type_received",
    "keepalived_address_list_errors", "keepalived_authentication_invalid", "keepalived_authentication_mismatch",
    "keepalived_authentication_failure", "keepalived_priority_zero_received", "keepalived_priority_zero_sent",
    "keepalived_script_status",
}  # fmt: skip


def test_without_virtual_routers_there_is_nothing_of_them(house) -> None:
    text = metrics.render(house.look()).decode()
    assert "keepalived" not in text and "vrrp" not in text


def test_virtual_routers_have_the_exporters_names_and_labels(house) -> None:
    house.routers = two_routers()
    text = metrics.render(house.look()).decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {name for name in names if name.startswith("keepalived")} == EXPORTER
    assert value(text, "keepalived_up") == 1
    assert value(text, "keepalived_vrrp_state", **VI_E, ip_address="192.0.2.200") == 2
    assert value(text, "keepalived_vrrp_state", **VI_E, ip_address="192.0.2.202") == 2
    fault = {"iname": "VI_I", "intf": "eth1", "vrid": "52", "ip_address": "2001:db8::c8"}
    assert value(text, "keepalived_vrrp_state", **fault) == 3
    assert value(text, "keepalived_advertisements_sent_total", **VI_E) == 192
    assert value(text, "keepalived_release_master_total", **VI_E) == 0, "it is there before it counts"
    assert value(text, "keepalived_script_status", name="ping") == 0
    assert not [s for s in samples(text) if s.labels.get("name") == "new"], "it is neither good nor bad yet"


def test_a_supervisor_that_has_fallen_silent_is_a_keepalived_that_is_down(house) -> None:
    house.routers = replace(two_routers(), at=NOW - 5)
    assert value(metrics.render(house.look()).decode(), "keepalived_up") == 1
    house.routers = replace(two_routers(), at=NOW - 5.1)
    text = metrics.render(house.look()).decode()
    assert [(s.name, s.value) for s in samples(text) if "keepalived" in s.name or "vrrp" in s.name] == [
        ("keepalived_up", 0)
    ]


def test_every_counter_of_a_router_is_shown(house) -> None:
    every = {name: 1000 + i for i, name in enumerate(ROUTER_COUNTERS)}
    house.routers = Standing(at=NOW, routers=(router(counters=every),))
    shown = {s.value for s in samples(metrics.render(house.look()).decode()) if s.labels == VI_E}
    assert set(every.values()) <= shown


@pytest.mark.parametrize(
    ("state", "number"), [("INIT", 0), ("BACKUP", 1), ("MASTER", 2), ("FAULT", 3), ("STOPPED", 98), ("?", 0)]
)
def test_states_have_keepaliveds_numbers(house, state: str, number: int) -> None:
    house.routers = Standing(at=NOW, routers=(router(state=state, addresses=()),))
    text = metrics.render(house.look()).decode()
    assert value(text, "keepalived_vrrp_state", **VI_E, ip_address="") == number


def test_what_the_exporter_has_no_name_for(house) -> None:
    house.routers = two_routers()
    text = metrics.render(house.look()).decode()
    assert value(text, "pybalancer_vrrp_priority", **VI_E) == 130
    assert value(text, "pybalancer_vrrp_base_priority", **VI_E) == 150
    assert value(text, "pybalancer_vrrp_priority_term", **VI_E, term="backend web") == -20
    assert value(text, "pybalancer_vrrp_lower_priority_received_total", **VI_E) == 4
    assert value(text, "pybalancer_vrrp_last_change_seconds", **VI_E) == 192
    assert value(text, "pybalancer_vrrp_troubles", **VI_E) == 1
    assert value(text, "pybalancer_vrrp_released", iname="VI_I", intf="eth1", vrid="52") == 1
    assert value(text, "pybalancer_vrrp_peer_alive", address="10.9.0.3:694") == 1
    assert value(text, "pybalancer_vrrp_peer_alive", address="10.9.0.4:694") == 0


def test_a_trouble_that_is_over_counts_no_more(house) -> None:
    house.routers = Standing(at=NOW, routers=(router(troubles=(Trouble("x", NOW - 900, NOW - 301, 9),)),))
    assert value(metrics.render(house.look()).decode(), "pybalancer_vrrp_troubles", **VI_E) == 0


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20))
def test_names_of_interfaces_and_scripts_come_back_as_they_were(text: str) -> None:
    one = router(interface=text, terms=(Term(f"script {text}", 1, ""), Term(f"script {text}", 2, "")))
    process = Process("1", "n", "d", 1, 0.0, workers=1, maxconn=1)
    out = metrics.render(Snapshot(1.0, process, ZERO, Rate(), (), (), Standing(at=1.0, routers=(one,)))).decode()
    (found,) = [s for s in samples(out) if s.name == "pybalancer_vrrp_priority_term"]
    assert (found.labels["intf"], found.labels["term"], found.value) == (text, f"script {text}", 3)


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
