from __future__ import annotations

import socket

import pytest

from balancer.addr import Address
from balancer.daemon import plan as planning
from balancer.errors import StartError


@pytest.fixture
def names(monkeypatch):
    """What the resolver knows."""
    known: dict[str, str] = {}
    monkeypatch.setattr(
        planning, "first_addresses", lambda hosts, *, within: {host: known[host] for host in hosts if host in known}
    )
    return known


def test_servers_are_numbered_in_the_configurations_order(plan):
    made = plan(
        {"backends": {"b": {"servers": {"s2": "127.0.0.1:1", "s1": "127.0.0.1:2"}}, "a": {"servers": {"s": "/s"}}}}
    )
    assert [(seat.backend, seat.server, seat.index) for seat in made.seats.values()] == [
        ("b", "s2", 0), ("b", "s1", 1), ("a", "s", 2),
    ]  # fmt: skip
    assert made.seats["b", "s1"].address == Address("127.0.0.1", 2)
    assert made.seats["a", "s"].address == Address("", 0, "/s")


def test_names_become_addresses_and_those_that_have_none_are_said(plan, names):
    names["web1"] = "2001:db8::1"
    made = plan({"backends": {"b": {"servers": {"s1": "web1:80", "s2": "web2:80"}}}})
    assert made.seats["b", "s1"].address == Address("2001:db8::1", 80)
    assert made.seats["b", "s2"].address is None
    assert made.unresolved == ["b/s2"]


def test_a_server_on_an_interface_that_is_not_there(plan):
    with pytest.raises(StartError, match=r"^backends\.b\.servers\.s\.address: .*there is no interface 'eth99'$"):
        plan({"backends": {"b": {"servers": {"s": "[fe80::1%eth99]:80"}}}})
    name = socket.if_indextoname(1)
    assert plan({"backends": {"b": {"servers": {"s": f"[fe80::1%{name}]:80"}}}}).seats["b", "s"].address is not None


def test_the_logs_host_is_asked_for_once_and_for_all_processes(plan, names):
    names["log.example"] = "2001:db8::5"
    made = plan({"global": {"log": {"target": "udp://log.example:514", "facility": "local3"}}})
    (log,) = made.log
    assert (log.target, log.facility) == ("udp://[2001:db8::5]:514", "local3")


def test_a_frontends_own_logs_are_resolved_too(plan, names):
    names["log.example"] = "2001:db8::5"
    own = {"target": "tcp://log.example:514"}
    web = {"mode": "tcp", "bind": "127.0.0.1:80", "default_backend": "b", "log": [own, {"target": "none"}]}
    made = plan({"frontends": {"web": web}, "backends": {"b": {"servers": {"s": "127.0.0.1:81"}}}})
    assert [each.target for each in made.records["web"].targets] == ["tcp://[2001:db8::5]:514"]
    assert [each.target for each in made.log_targets] == ["none", "tcp://[2001:db8::5]:514"]


def test_a_log_host_without_address_is_said_before_anything_starts(plan, names):
    with pytest.raises(StartError, match=r"log target udp://log\.example:514: no address found for log\.example"):
        plan({"global": {"log": {"target": "udp://log.example:514"}}})


@pytest.mark.parametrize("target", ["none", "stdout", "udp://192.0.2.1:514"])
def test_other_logs_stay_as_they_are(plan, target):
    assert plan({"global": {"log": {"target": target}}}).log[0].target == target


def test_error_files_are_read_once(plan, tmp_path):
    page = tmp_path / "503.http"
    page.write_bytes(b"<p>None</p>")
    made = plan({"defaults": {"error_files": {"503": str(page)}}})
    assert made.pages == {str(page): page.read_bytes()}


def test_an_error_file_that_went_away_is_said(plan, tmp_path):
    with pytest.raises(StartError, match=rf"cannot read {tmp_path}/gone: No such file"):
        plan({"defaults": {"error_files": {"503": str(tmp_path / "gone")}}})


@pytest.mark.parametrize(("written", "cores", "workers"), [("auto", 3, 3), (5, 3, 5), (1, 8, 1)])
def test_workers(plan, written, cores, workers):
    assert plan({"global": {"workers": written}}, cores=cores).workers == workers


def test_one_worker_may_have_to_carry_all_connections(plan):
    made = plan({"global": {"workers": 3, "maxconn": 10_000}})
    assert made.maxconn_per_worker == 10_000
    assert 900 < made.within(2048).maxconn_per_worker < 1024


def test_with_enough_open_files_maxconn_stays(plan):
    made = plan({"global": {"workers": 2, "maxconn": 1000}})
    assert 2000 < made.open_files < 2300
    assert made.within(made.open_files).maxconn == 1000


def test_with_fewer_open_files_fewer_connections_are_served(plan):
    made = plan({"global": {"workers": 2, "maxconn": 20000}})
    less = made.within(1024)
    assert 2 * 350 < less.maxconn < 2 * 512
    assert less.open_files <= 1024
    assert made.maxconn == 20000, "the plan itself stays"


@pytest.mark.parametrize("limit", [0, 20, 66])
def test_with_no_open_file_to_spare_it_does_not_start(plan, limit):
    with pytest.raises(StartError, match=r"open files are too few to serve anybody.*LimitNOFILE"):
        plan({}).within(limit)


def test_the_least_it_asks_for_is_enough(plan):
    made = plan({"global": {"workers": 4}})
    with pytest.raises(StartError) as refused:
        made.within(10)
    least = int(str(refused.value).split("must be ")[1].split()[0])
    assert made.within(least).maxconn >= 1
    with pytest.raises(StartError):
        made.within(least - 1)


def test_the_supervisor_holds_every_workers_sockets(plan):
    many = tuple(f"127.0.0.1:{port}" for port in range(10000, 10200))
    front = {"mode": "tcp", "bind": many, "default_backend": "b"}
    assert plan({"global": {"workers": 64, "maxconn": 10}, "frontends": {"f": front}}).open_files > 64 * 200


def test_limits_need_descriptors_too(plan):
    servers = {f"s{i}": {"address": f"127.0.0.1:{1000 + i}", "maxconn": 5} for i in range(3000)}
    made = plan({"global": {"maxconn": 10}, "backends": {"b": {"servers": servers}}})
    assert made.within(3500).maxconn == 10
    with pytest.raises(StartError):
        made.within(3000)


def test_checks_need_descriptors_too(plan):
    servers = {f"s{i}": f"127.0.0.1:{1000 + i}" for i in range(1500)}
    made = plan({"global": {"maxconn": 10}, "backends": {"b": {"servers": servers}}})
    assert made.open_files > 2 * 1500


def test_flows_of_datagrams_are_wished_for_but_cost_no_connection(plan):
    front = {"mode": "udp", "bind": "127.0.0.1:9999", "default_backend": "b", "udp": {"protocol": "generic"}}
    made = plan({"global": {"maxconn": 100}, "frontends": {"f": front}})
    assert made.open_files > 65536
    assert made.within(1024).maxconn == 100


def test_names_that_the_kernel_is_to_serve_at_become_addresses(plan, names):
    front = {"mode": "tcp", "engine": "kernel", "bind": ("www:80", "10.0.0.1:80"), "default_backend": "b"}
    names["www"] = "10.0.0.7"
    assert plan({"frontends": {"f": front}}).bound == {"www": "10.0.0.7"}
    # Sockets find theirs themselves.
    assert plan({"frontends": {"f": front | {"engine": "proxy"}}}).bound == {}
    names.clear()
    with pytest.raises(StartError, match="no address found for www, which a frontend is bound to"):
        plan({"frontends": {"f": front}})


def test_of_a_page_with_a_head_the_head_is_left_out(plan, tmp_path):
    heads = (
        b"HTTP/1.0 503 Not there\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 503\nA: b\n\n",
        b"HTTP/1.0 503 x\n\n",
        b"",
    )
    pages = b"<p>HTTP/1.0 503 x\n\n</p>"
    for head in heads:
        page = tmp_path / "503.http"
        page.write_bytes(head + pages)
        made = plan({"defaults": {"error_files": {"503": str(page)}}})
        assert made.pages[str(page)] == pages
