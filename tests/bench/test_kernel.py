"""The command line, the figures and the configurations of the kernel bench, which start nothing."""

from __future__ import annotations

import balancers
import kernel
import pytest
from kernel import BARE, DIRECT, HAPROXY, KERNEL, MASQUERADE, NAT, TCP, TWIN, UDP, WORKS, Row, Sample

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
def test_no_two_contestants_ask_at_one_address(contestants: tuple[kernel.Contestant, ...]) -> None:
    assert len({each.address for each in contestants}) == len(contestants)


@pytest.mark.parametrize(("contestant", "forwarding"), [(KERNEL[0], "nat"), (KERNEL[1], "masquerade")])
def test_the_kernel_is_given_what_is_measured(contestant: kernel.Contestant, forwarding: str) -> None:
    text = balancers.pybalancer(["pybalancer"], "").render(kernel.task(contestant))
    config = read.loads(text, file="b.yaml", node="this", environ={})
    told = {(name, each.engine, each.forwarding, str(each.bind[0].address)) for name, each in config.frontends.items()}
    at = kernel.WAYS[contestant.way].vip
    assert told == {("tcp", "kernel", forwarding, f"{at}:80"), ("udp", "kernel", forwarding, f"{at}:53")}
    servers = config.backends["udp-servers"].servers.values()
    net = kernel.WAYS[contestant.way].number
    assert [(server.address.host, server.address.port) for server in servers if server.address] == [
        (f"10.0.{net}.2", 53),
        (f"10.0.{net}.3", 53),
        (f"10.0.{net}.4", 53),
    ]


@pytest.mark.parametrize("kind", kernel.KINDS)
def test_many_services_are_a_configuration(kind: str) -> None:
    config = read.loads(kernel.many(300, 2, kind), file="b.yaml", node="this", environ={})
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
        BARE: [120.0, 240.0, 125.0],
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
    assert kernel.table(list(found.values())).splitlines()[-6:] == [
        "tcp-newconn  kernel nat / direct              0.90          0.90  >= 0.9   met     22.2%",
        "tcp-newconn  kernel masquerade / direct       0.80          0.81  >= 0.9   MISSED  22.2%",
        "tcp-newconn  kernel nat / HAProxy tcp         1.80          1.80  >= 1.6   met     22.2%",
        "tcp-newconn  kernel masquerade / HAProxy tcp  1.60          1.60  >= 1.6   met     22.2%",
        "tcp-newconn  kernel nat / direct, bare        0.75          0.75                   22.2%",
        "tcp-newconn  direct, bare / HAProxy tcp       2.40          2.40                   22.2%",
    ]


def test_a_round_that_was_broken_off_counts_for_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {each.name: [100.0, 100.0] for each in TCP}
    samples = sampled(rates, failed=1)[:-1]
    assert {row.failed for row in kernel.show(samples, {}) if row.unit} == {1}
    assert "kernel nat / direct" in capsys.readouterr().out
    assert kernel.show(samples[:3], {}) == []


def test_what_many_services_take_is_held_to_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    kernel.show([], {"maglev": {"applied": 0.25, "change": 0.004, "longest_change": 0.06}})
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["met)", "met)", "MISSED)"]
