from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from balancer.observe import metrics
from balancer.observe.snapshot import Process, Rate, Snapshot
from balancer.pool.facts import COUNTERS, Entity

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
ZERO = dict.fromkeys(COUNTERS, 0)


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(text: str, name: str, **labels: str) -> float:
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
