from __future__ import annotations

import math

import pytest

from balancer.observe import families, metrics
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW, US
from tests.observe.test_metrics import samples, value


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


def test_weights_are_as_they_were_set_and_in_effect(house) -> None:
    state = ServerState(Condition.UP, weight=8, health=4, throttle=50, last_change=int(NOW - 90) * US)
    house.set("app", "up", state)
    text = metrics.render(house.look()).decode()
    server = {"proxy": "app", "server": "up"}
    assert value(text, "haproxy_server_uweight", **server) == 8
    assert value(text, "haproxy_server_weight", **server) == state.effective_weight
    assert value(text, "haproxy_server_current_throttle", **server) == 50
    throttled = {s.labels["server"] for s in samples(text) if s.name == "haproxy_server_current_throttle"}
    assert throttled == {"up"}
    assert value(text, "haproxy_backend_uweight", proxy="app") == 8
    house.set("app", "up", ServerState(Condition.UP, Admin.MAINT, last_change=int(NOW) * US))
    text = metrics.render(house.look()).decode()
    assert value(text, "haproxy_backend_uweight", proxy="app") == 1, "of the backup that is in use now"


def test_checks_are_counted_by_how_they_ended(house) -> None:
    text = metrics.render(house.look()).decode()
    found = {
        s.labels["state"]: s.value
        for s in samples(text)
        if s.name == "haproxy_backend_agg_check_status" and s.labels["proxy"] == "app"
    }
    assert {state: count for state, count in found.items() if count} == {"L7OK": 1, "L4CON": 1}


def test_the_process_is_told_of_as_show_info_does(house) -> None:
    house.count("frontend", "web", bout=3_000_000, bin=20_000)
    house.rates.feed(house.sums(), NOW + 1)
    text = metrics.render(house.look(NOW + 1)).decode()
    assert value(text, "haproxy_process_nbthread") == 2
    assert value(text, "haproxy_process_bytes_out_rate") == 1_000_000
    assert house.look().bytes_in_rate == 10_000
    assert value(text, "haproxy_process_jobs") == 7


@pytest.mark.parametrize("seconds", ["0.000128", "0.001024", "33.554432"])
def test_bounds_of_buckets_are_written_as_openmetrics_wants_them(seconds: str) -> None:
    assert families.seconds(float(seconds) * 1e6) == seconds == repr(float(seconds))
