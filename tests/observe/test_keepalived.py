from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from balancer.observe import metrics
from balancer.observe.snapshot import Process, Rate, Snapshot
from balancer.pool.routers import COUNTERS as ROUTER_COUNTERS
from balancer.pool.routers import Standing, Term, Trouble
from tests.observe.conftest import NOW, router, two_routers
from tests.observe.test_metrics import ZERO, samples, value

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
