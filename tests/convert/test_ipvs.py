from __future__ import annotations

import pytest

from balancer.convert.importer import NothingError
from balancer.convert.ipvs import hosts_of


def test_hosts():
    assert hosts_of("127.0.0.1 a b\n# x\n10.0.0.1\tc.example.org e # d\n\n10.0.0.2\n") == {
        "127.0.0.1": "a",
        "10.0.0.1": "c",
    }


def test_services(convert):
    found = convert(
        "-A -t 192.0.2.1:80 -s wlc -p 60\n-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 3\n"
        "-a -t 192.0.2.1:80 -r 10.0.0.2 -m\n"
        "-A -u 192.0.2.1:53 -s rr -o\n-a -u 192.0.2.1:53 -r 10.0.0.1:53 -m -w 0\n",
        hosts="10.0.0.1 one\n",
    )
    assert found.made["frontends"]["ipvs-192.0.2.1-80"] == {
        "mode": "tcp",
        "bind": "192.0.2.1:80",
        "engine": "kernel",
        "forwarding": "nat",
        "default_backend": "ipvs-192.0.2.1-80",
    }
    assert found.made["backends"] == {
        "ipvs-192.0.2.1-80": {
            "balance": "leastconn",
            "persistence_timeout": "60s",
            "servers": {"one": {"address": "10.0.0.1:8080", "weight": 3}, "10.0.0.2": {"address": "10.0.0.2:80"}},
        },
        "ipvs-192.0.2.1-53-udp": {"balance": "roundrobin", "servers": {"one": {"address": "10.0.0.1:53", "weight": 0}}},
    }
    assert found.told == []


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        ("-A -f 5 -s rr\n-a -f 5 -r 10.0.0.1 -m", ["3", "4"]),
        ("-A -t 192.0.2.2:0 -s rr\n-a -t 192.0.2.2:0 -r 10.0.0.1 -m", ["3", "4"]),
        ("-A -t 192.0.2.2:nothing -s rr", ["3"]),
        ("-A -t 192.0.2.2:81 -s rr", ["3"]),
        ("-a -t 192.0.2.9:81 -r 10.0.0.1:80 -m", ["3"]),
        ("-Z", ["3"]),
        ("-A -t 192.0.2.2:81 -s ovf\n-a -t 192.0.2.2:81 -r 10.0.0.1:80 -g", ["3", "3"]),
    ],
)
def test_what_there_is_not(convert, lines, places):
    found = convert(f"-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n{lines}\n")
    assert [told.partition(":")[0] for told in found.told] == places
    assert "ipvs-192.0.2.1-80" in found.made["frontends"]


def test_a_service_that_keepalived_has_too_is_told(convert):
    service = "virtual_server 192.0.2.1 80 {\n protocol TCP\n real_server 10.0.0.1 80 {\n }\n}\n"
    found = convert(service, "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n")
    assert list(found.made["frontends"]) == ["ipvs-192.0.2.1-80"]
    assert len(found.told) == 2


def test_nothing(convert):
    with pytest.raises(NothingError):
        convert("-A -t 192.0.2.1:80\n")
