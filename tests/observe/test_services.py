from __future__ import annotations

import pytest

from balancer.observe.services import CONNECTIONS, connection, proxied, table
from balancer.pool.services import Counts, Listing, ServiceFacts, TargetFacts


def target(name: str = "cluster2", address: str = "10.0.100.2", port: int = 80, **more: object) -> TargetFacts:
    facts = {
        "weight": 1, "active": 2, "inactive": 15, "totals": Counts(7, 70, 60, 4200, 123_456_789),
        "rate": Counts(1, 10, 9, 600, 700),
    }  # fmt: skip
    return TargetFacts(name, address, port, **facts | more)  # type: ignore[arg-type]


def service(*targets: TargetFacts, **more: object) -> ServiceFacts:
    facts = {
        "protocol": "tcp", "address": "192.168.1.202", "port": 80, "balance": "roundrobin", "is_consistent": False,
        "persistence": None, "is_per_query": False, "forwarding": "Masq",
    }  # fmt: skip
    return ServiceFacts(**facts | more, targets=targets)  # type: ignore[arg-type]


LISTING = Listing(
    (
        service(target(), target("cluster3", "10.0.100.3", weight=0, active=0, inactive=0)),
        service(target("cluster5", "10.0.100.5", 53), protocol="udp", address="2001:db8::1", port=53,
                is_per_query=True),
        service(balance="source", persistence=300.0, port=8642),
    ),
    4096,
)  # fmt: skip


# The layout is that of ipvsadm.c, the version our own.


def test_the_list_is_laid_out_as_ipvsadm_does_it() -> None:
    assert table(LISTING, view="status", is_numeric=True).replace("0.1.0", "X") == (
        "IP Virtual Server version X (size=4096)\n"
        "Prot LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        "TCP  192.168.1.202:80 rr\n"
        "  -> 10.0.100.2:80                Masq    1      2          15        \n"
        "  -> 10.0.100.3:80                Masq    0      0          0         \n"
        "UDP  [2001:db8::1]:53 rr ops\n"
        "  -> 10.0.100.5:53                Masq    1      2          15        \n"
        "TCP  192.168.1.202:8642 sh persistent 300\n"
    )


def test_names_stand_for_numbers_where_they_are_known() -> None:
    said = table(LISTING, view="status", is_numeric=False)
    assert "TCP  192.168.1.202:http rr\n  -> cluster2:http                Masq    1 " in said
    assert "UDP  [2001:db8::1]:domain rr ops\n  -> cluster5:domain              Masq " in said
    assert "192.168.1.202:8642 sh" in said


def test_what_they_have_carried() -> None:
    assert table(LISTING, view="stats", is_numeric=True).splitlines()[1:5] == [
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
        "  -> RemoteAddress:Port",
        "TCP  192.168.1.202:80                   14      140      120     8400  246913K",
        "  -> 10.0.100.2:80                       7       70       60     4200  123456K",
    ]


def test_how_fast_it_grows() -> None:
    assert table(LISTING, view="rate", is_numeric=True).splitlines()[1:5] == [
        "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
        "  -> RemoteAddress:Port",
        "TCP  192.168.1.202:80                    2       20       18     1200     1400",
        "  -> 10.0.100.2:80                       1       10        9      600      700",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (99_999_999, "99999999"), (100_000_000, "100000K"), (10**9, "1000M"), (10**11, "100G"),
     (10**14, "100T")],
)  # fmt: skip
def test_large_numbers_are_short(number: int | None, text: str) -> None:
    listing = Listing((service(target(totals=Counts(number, 0, 0, 0, 0))),))
    own, of = table(listing, view="stats", is_numeric=True).splitlines()[3:]
    assert own.split()[2] == of.split()[2] == text


@pytest.mark.parametrize(
    ("balance", "is_consistent", "word"),
    [("leastconn", False, "wlc"), ("source", True, "mh"), ("maglev", False, "mh"), ("first", False, "first"),
     ("roundrobin", False, "wrr")],
)  # fmt: skip
def test_algorithms_have_their_names_there(balance: str, is_consistent: bool, word: str) -> None:
    it = service(target(weight=2), target("b"), balance=balance, is_consistent=is_consistent)
    assert f":80 {word}\n" in table(Listing((it,)), view="status", is_numeric=True)


def test_what_is_wrong_is_told() -> None:
    said = table(Listing(trouble="no such table"), view="status", is_numeric=True)
    assert said.endswith("The kernel's rules are not as they should be: no such table\n")


def test_a_connection_is_a_line() -> None:
    ends = (("192.168.1.10", 53468), ("192.168.1.202", 80), ("10.0.100.2", 80))
    assert CONNECTIONS + connection("tcp", 897, "ESTABLISHED", ends, is_numeric=True) == (
        "IPVS connection entries\n"
        "pro expire state       source             virtual            destination\n"
        "TCP 14:57  ESTABLISHED 192.168.1.10:53468 192.168.1.202:80   10.0.100.2:80\n"
    )
    named = (("192.168.1.10", 53468), ("192.168.1.200", 53), ("cluster5", 53))
    assert connection("udp", 9, "", named, is_numeric=False) == (
        "UDP 00:09  UDP         192.168.1.10:53468 192.168.1.200:domain cluster5:domain\n"
    )


def test_the_proxys_frontends_have_the_same_layout(house) -> None:
    said = table(Listing(proxied(house.look())), view="status", is_numeric=False).splitlines()[3:]
    assert said == [
        "TCP  192.0.2.1:http rr",
        "  -> up:http                      Proxy   3      5          2         ",
        "  -> spare:http                   Proxy   0      0          0         ",
        "TCP  [2001:db8::1]:http rr",
        "  -> up:http                      Proxy   3      5          2         ",
        "  -> spare:http                   Proxy   0      0          0         ",
        "TCP  192.0.2.1:https rr",
        "  -> one:https                    Proxy   1      0          0         ",
        "UDP  192.0.2.1:domain rr",
        "  -> ns:domain                    Proxy   0      0          0         ",
    ]
    stats = table(Listing(proxied(house.look())), view="stats", is_numeric=True).splitlines()[3:5]
    assert [line.split() for line in stats] == [
        ["TCP", "192.0.2.1:80", "5000", "-", "-", "10000", "2000000"],
        ["->", "10.0.0.1:80", "5000", "-", "-", "10000", "2000000"],
    ]
