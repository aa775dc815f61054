from __future__ import annotations

import ipaddress
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.addr import Address
from balancer.config import units

PARSERS = [
    units.duration,
    units.size,
    units.file_mode,
    units.workers,
    units.endpoint,
    units.ip_address,
    units.network,
    units.interface_address,
    units.log_target,
    units.sample,
    units.status_set,
    units.dns_name,
    units.dns_type,
    units.dns_rcode,
]

GOOD = [
    (units.duration, "500us", 0.0005),
    (units.duration, "500ms", 0.5),
    (units.duration, "5s", 5.0),
    (units.duration, "1.5m", 90.0),
    (units.duration, "2h", 7200.0),
    (units.duration, "3650d", 3650 * 86400.0),
    (units.size, 1, 1),
    (units.size, 16384, 16384),
    (units.size, "16384", 16384),
    (units.size, "64k", 65536),
    (units.size, "64K", 65536),
    (units.size, "1m", 1 << 20),
    (units.size, "1g", 1 << 30),
    (units.file_mode, "0660", 0o660),
    (units.file_mode, "755", 0o755),
    (units.workers, "auto", "auto"),
    (units.workers, 256, 256),
    (units.endpoint, "[::1]:80", Address("::1", 80)),
    (units.endpoint, "*:80", Address("0.0.0.0", 80)),
    (units.endpoint, Address("::", 80), Address("::", 80)),
    (units.ip_address, "2001:DB8::0", "2001:db8::"),
    (units.network, "10.0.0.0/8", "10.0.0.0/8"),
    (units.network, "10.0.0.1", "10.0.0.1/32"),
    (units.network, "2001:db8::/32", "2001:db8::/32"),
    (units.interface_address, "192.168.1.200", "192.168.1.200"),
    (units.interface_address, "192.168.1.200/24", "192.168.1.200/24"),
    (units.interface_address, "2001:db8:0::1/064", "2001:db8::1/64"),
    (units.log_target, "syslog", "syslog"),
    (units.log_target, "udp://[::1]:514", "udp://[::1]:514"),
    (units.log_target, "tcp://log.example:514", "tcp://log.example:514"),
    (units.log_target, "/dev/log", "syslog"),
    (units.log_target, "unix:/run/log.sock", "unix:/run/log.sock"),
    (units.log_target, "/var/log/web.log", "/var/log/web.log"),
    (units.sample, "1:10", units.Sample(((1, 1),), 10)),
    (units.sample, "2-3,8:11", units.Sample(((2, 3), (8, 8)), 11)),
    (units.status_set, 200, "200"),
    (units.status_set, "200-299, 301", "200-299,301"),
    (units.dns_name, ".", "."),
    (units.dns_name, "lab.local", "lab.local"),
    (units.dns_name, "lab.local.", "lab.local"),
    (units.dns_name, "_dns.example.org", "_dns.example.org"),
    (units.dns_type, "soa", "SOA"),
    (units.dns_type, "TYPE65280", "TYPE65280"),
    (units.dns_rcode, "nxdomain", "NXDOMAIN"),
]

BAD = [
    (units.duration, "5"),
    (units.duration, 5),
    (units.duration, "0s"),
    (units.duration, "0.0000001s"),
    (units.duration, "-5s"),
    (units.duration, "5 s"),
    (units.duration, "5s\n"),
    (units.duration, "\u0665s"),
    (units.duration, "1e999s"),
    (units.duration, "9" * 400 + "s"),
    (units.duration, "3651d"),
    (units.duration, math.inf),
    (units.size, 0),
    (units.size, -1),
    (units.size, True),
    (units.size, 1.5),
    (units.size, "2g"),
    (units.size, "1t"),
    (units.size, "9" * 400),
    (units.file_mode, 0o660),
    (units.file_mode, "0o660"),
    (units.file_mode, "0668"),
    (units.file_mode, "07777"),
    (units.workers, 0),
    (units.workers, 257),
    (units.workers, True),
    (units.workers, "2"),
    (units.endpoint, 80),
    (units.endpoint, "x" * 10_000_000 + ":80"),
    (units.ip_address, "10.0.0.1/8"),
    (units.ip_address, 167772161),
    (units.network, "10.0.0.0/33"),
    (units.network, 10),
    (units.interface_address, "10.0.0.1/33"),
    (units.interface_address, "10.0.0.1/"),
    (units.interface_address, "10.0.0.1/255.0.0.0"),
    (units.interface_address, "2001:db8::1/129"),
    (units.log_target, "udp://1.2.3.4"),
    (units.log_target, "udp:///dev/log"),
    (units.log_target, "udp://*:514"),
    (units.log_target, "tcp:///dev/log"),
    (units.log_target, "http://1.2.3.4:514"),
    (units.log_target, "log/file"),
    (units.log_target, "/var/log/"),
    (units.log_target, "/var/log/a\nb"),
    (units.log_target, "unix:/" + "x" * 107),
    (units.log_target, "std-out"),
    (units.sample, "1:0"),
    (units.sample, "0:10"),
    (units.sample, "11:10"),
    (units.sample, "3-2:10"),
    (units.sample, "2,2:10"),
    (units.sample, "1-3,2:10"),
    (units.sample, "1"),
    (units.sample, 610),
    (units.sample, "1," * 600 + "2:10"),
    (units.log_target, None),
    (units.status_set, "600"),
    (units.status_set, "099"),
    (units.status_set, "299-200"),
    (units.status_set, "200,"),
    (units.status_set, ""),
    (units.status_set, True),
    (units.status_set, "200," * 10_000 + "200"),
    (units.dns_name, ""),
    (units.dns_name, "a..b"),
    (units.dns_name, "x" * 64),
    (units.dns_name, "x." * 128),
    (units.dns_name, "a\\9"),
    (units.dns_name, 5),
    (units.dns_type, "AXFR"),
    (units.dns_type, "ANY"),
    (units.dns_type, "OPT"),
    (units.dns_type, "NONE"),
    (units.dns_type, "TYPE65536"),
    (units.dns_type, "TYPE" + "9" * 5000),
    (units.dns_type, None),
    (units.dns_rcode, "0"),
    (units.dns_rcode, "FINE"),
    (units.dns_rcode, []),
]


@pytest.mark.parametrize(("parse", "written", "value"), GOOD)
def test_reads(parse: Any, written: Any, value: Any) -> None:
    assert parse(written) == value


@pytest.mark.parametrize(("parse", "written"), BAD)
def test_refuses_in_one_line_of_bearable_length(parse: Any, written: Any) -> None:
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        parse(written)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize("parse", PARSERS)
@given(
    value=st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text()), st.binary())
)
def test_whatever_comes_is_read_or_refused_with_a_value_error(parse: Any, value: Any) -> None:
    try:
        parse(value)
    except ValueError as error:
        assert str(error)


@given(st.integers(1, 3650 * 24), st.sampled_from(["us", "ms", "s", "m", "h"]))
def test_a_duration_in_any_unit_is_its_number_of_seconds(number: int, unit: str) -> None:
    factor = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[unit]
    assert units.duration(f"{number}{unit}") == pytest.approx(number * factor)


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_network_with_host_bits_is_refused_with_the_network_that_was_meant(ip: Any, prefix: int) -> None:
    prefix = min(prefix, ip.max_prefixlen)
    meant = str(ipaddress.ip_network(f"{ip}/{prefix}", strict=False))
    assert units.network(meant) == meant
    if f"{ip}/{prefix}" != meant:
        with pytest.raises(ValueError, match="bits set behind its prefix") as caught:
            units.network(f"{ip}/{prefix}")
        assert f"did you mean {meant}?" in str(caught.value)


@given(st.lists(st.tuples(st.integers(100, 599), st.integers(100, 599)), min_size=1, max_size=20))
def test_a_status_set_names_exactly_its_statuses(ranges: list[tuple[int, int]]) -> None:
    ranges = [(min(pair), max(pair)) for pair in ranges]
    text = units.status_set(",".join(f"{low}-{high}" if low != high else str(low) for low, high in ranges))
    assert units.statuses(text) == {status for low, high in ranges for status in range(low, high + 1)}
