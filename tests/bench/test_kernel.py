"""The command line, the figures and the configurations of the kernel bench, which start nothing."""

from __future__ import annotations

from pathlib import Path

import kernel
import pytest
from kernel import DIRECT, HAPROXY, MASQUERADE, NAT, TCP, TWIN, UDP, WORKS, Row, Sample

from balancer.config import read


def test_everything_unless_told_otherwise() -> None:
    options = kernel.parse([])
    assert (options.rounds, options.only) == (5, ["tcp-keepalive", "tcp-newconn", "udp-dns", "services"])
    assert kernel.parse(["--quick"]).rounds == 2
    assert kernel.parse(["--quick", "--rounds", "7"]).rounds == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--only", "tcp"], "invalid choice: 'tcp'"), (["--rounds", "0"], "--rounds must be at least 1")],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        kernel.parse(words)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("contestants", [TCP, UDP], ids=["tcp", "udp"])
def test_no_two_ways_lead_to_one_port_of_the_servers(contestants: tuple[kernel.Contestant, ...]) -> None:
    assert len({each.server_port for each in contestants}) == len(contestants)
    assert len({(each.address, each.port) for each in contestants}) == len(contestants)


def test_the_kernel_is_given_what_is_measured() -> None:
    config = read.loads(kernel.render_pybalancer(), file="b.yaml", node="this", environ={})
    told = {(name, frontend.engine, frontend.forwarding) for name, frontend in config.frontends.items()}
    assert told == {
        ("tcp-80", "kernel", "nat"),
        ("tcp-81", "kernel", "masquerade"),
        ("udp-53", "kernel", "nat"),
        ("udp-54", "kernel", "masquerade"),
    }
    servers = config.backends["tcp-80"].servers.values()
    assert [(server.address.host, server.address.port) for server in servers if server.address] == [
        ("10.0.2.2", 8003),
        ("10.0.2.3", 8003),
        ("10.0.2.4", 8003),
    ]


def test_many_services_are_a_configuration() -> None:
    config = read.loads(kernel.many(300, 2), file="b.yaml", node="this", environ={})
    assert len(config.frontends) == len(config.backends) == 300
    addresses = [server.address for backend in config.backends.values() for server in backend.servers.values()]
    assert len(set(addresses)) == 600


def sampled(rates: dict[str, list[float]], failed: int = 0) -> list[Sample]:
    return [
        Sample("tcp-newconn", name, number, rate, 4000.0 / rate, 100.0, failed)
        for name, found in rates.items()
        for number, rate in enumerate(found)
    ]


def test_ratios_are_medians_of_the_rounds_own() -> None:
    work = WORKS[1]
    rates = {
        DIRECT: [110.0, 200.0, 110.0],
        TWIN: [90.0, 200.0, 90.0],
        NAT: [95.0, 180.0, 80.0],
        MASQUERADE: [80.0, 160.0, 88.0],
        HAPROXY: [50.0, 100.0, 55.0],
    }
    found = {row.what: row for row in kernel.rows(work, sampled(rates))}
    assert found[NAT].figure == 95.0
    assert found[NAT].cpu == pytest.approx(4000 / 95)
    assert found[f"{NAT} / {DIRECT}"] == Row(
        "tcp-newconn", f"{NAT} / {DIRECT}", 0.9, pytest.approx(0.9, abs=0.02), "", 0.9, pytest.approx(2 / 9)
    )
    assert found[f"{MASQUERADE} / {HAPROXY}"].figure == pytest.approx(1.6)
    assert kernel.table(list(found.values())).splitlines()[-4:] == [
        "tcp-newconn  kernel nat / direct              0.90          0.90  >= 0.9   met     22.2%",
        "tcp-newconn  kernel masquerade / direct       0.80          0.81  >= 0.9   MISSED  22.2%",
        "tcp-newconn  kernel nat / HAProxy tcp         1.80          1.80  >= 1.6   met     22.2%",
        "tcp-newconn  kernel masquerade / HAProxy tcp  1.60          1.60  >= 1.6   met     22.2%",
    ]


def test_a_round_that_was_broken_off_counts_for_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {each.name: [100.0, 100.0] for each in TCP}
    samples = sampled(rates, failed=1)[:-1]
    assert {row.failed for row in kernel.show(samples, {}) if row.unit} == {1}
    assert "kernel nat / direct" in capsys.readouterr().out
    assert kernel.show(samples[:3], {}) == []


def test_what_many_services_take_is_held_to_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    kernel.show([], {"applied": 0.25, "change": 0.004, "longest_change": 0.06})
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["met)", "met)", "MISSED)"]


def test_nginx_and_named_listen_where_the_contestants_ask() -> None:
    nginx, named = kernel.render_nginx(Path("/nowhere")), kernel.render_named(Path("/nowhere"))
    assert all(f"listen {each.server_port} " in nginx for each in TCP)
    assert all(f"listen-on port {each.server_port} {{ any; }}" in named for each in UDP)
