"""Name servers asked over sockets: those that are well, and those that are not."""

from __future__ import annotations

import asyncio
import time

import dns.rcode
import pytest

from balancer.addr import Address
from balancer.config.resolvers import NameServer as At
from balancer.config.resolvers import Resolvers
from balancer.names.answer import Answer, Kind, Status
from balancer.names.asking import Asking, resolv_conf
from tests.names.nameserver import NameServer

WWW = "www.example"


def asking(*servers: NameServer, retry: float = 5.0, retries: int = 1, tcp: bool = False) -> Asking:
    config = Resolvers.model_validate(
        {
            "nameservers": {f"ns{i}": f"{'tcp@' * tcp}127.0.0.1:{each.port}" for i, each in enumerate(servers)},
            "resolve_retries": retries,
            "timeout": {"retry": f"{round(retry * 1000)}ms"},
        }
    )
    return Asking("dns1", config, clock=time.monotonic)


def ask(one: Asking, name: str = WWW, kind: Kind = "A") -> Answer:
    return asyncio.run(one.ask(name, kind))[0]


@pytest.fixture
def server():
    with NameServer(ttl=7) as server:
        server.set(WWW, "A", "10.0.0.1", "10.0.0.2")
        yield server


@pytest.fixture
def second():
    with NameServer(ttl=7) as server:
        server.set(WWW, "A", "10.0.0.3")
        yield server


def test_it_answers(server) -> None:
    one = asking(server)
    said = ask(one)
    assert (said.status, set(said.addresses), said.ttl) == (Status.VALID, {"10.0.0.1", "10.0.0.2"}, 7.0)
    assert one.by == "dns1/ns0"
    ((name, tally),) = one.tallies
    assert (name, tally.sent, tally.valid) == ("ns0", 1, 1)


def test_ids_and_ports_are_not_to_be_guessed(server) -> None:
    seen = []
    server.over_udp = lambda answer: [seen.append(answer[:2]), answer][1:]
    one = asking(server)
    for _ in range(20):
        ask(one)
    assert len(set(seen)) > 15


def test_what_does_not_fit_comes_over_tcp(server) -> None:
    server.set(WWW, "A", *(f"10.1.{i >> 8}.{i & 255}" for i in range(2000)))
    server.over_udp = lambda answer: [answer[:2] + bytes((answer[2] | 2,)) + answer[3:6] + bytes(6) + question(answer)]
    one = asking(server)
    assert len(ask(one).addresses) == 2000
    assert one.tallies[0][1].truncated == 1
    assert ("", "tcp") in server.asked


def question(answer: bytes) -> bytes:
    return answer[12 : answer.index(b"\0", 12) + 5]


def test_one_that_is_asked_over_tcp_alone(server) -> None:
    assert ask(asking(server, tcp=True)).status is Status.VALID
    assert server.asked == [("", "tcp"), (WWW, "A")]


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"\0"], id="cut"),
        pytest.param([b"\xff\xff\0\0"], id="short"),
    ],
)
def test_a_tcp_connection_that_ends_early_is_no_answer(server, second, answers) -> None:
    server.over_tcp = lambda _: answers
    assert ask(asking(server, second, tcp=True)).addresses == ("10.0.0.3",)


def test_the_next_is_asked_where_one_is_dead_and_remembered(server, second) -> None:
    server.is_silent = True
    one = asking(server, second, retry=0.1)
    assert ask(one).addresses == ("10.0.0.3",)
    asked = len(server.asked)
    assert ask(one).addresses == ("10.0.0.3",)
    assert len(server.asked) == asked


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_the_next_is_asked_at_once_where_one_refuses(server, second, rcode) -> None:
    server.rcode = rcode
    assert ask(asking(server, second, retry=30.0)).addresses == ("10.0.0.3",)


def test_who_has_nobody_to_ask_says_so(server) -> None:
    server.is_silent = True
    one = asking(server, retry=0.05, retries=3)
    assert ask(one).status is Status.TIMEOUT
    assert len(server.asked) == one.tallies[0][1].timeout == 3


def test_nobody_there_at_all() -> None:
    server = NameServer()
    server.close()
    assert ask(asking(server)).status is Status.TIMEOUT


def test_forged_answers_before_the_true_one_are_not_heard(server) -> None:
    def mend(answer: bytes) -> list[bytes]:
        forged = bytes((answer[0] ^ 1, answer[1])) + answer[2:]
        other = answer.replace(b"\x03www", b"\x03wwx")
        return [b"", b"\0" * 11, forged, other, answer[:2], *[forged] * 50, answer]

    server.over_udp = mend
    one = asking(server)
    assert set(ask(one).addresses) == {"10.0.0.1", "10.0.0.2"}
    assert one.tallies[0][1].outdated == 55


def test_one_that_does_not_know_edns_is_asked_without(server) -> None:
    def mend(answer: bytes) -> list[bytes]:
        has_edns = answer[10:12] != b"\0\0"
        return (
            [answer[:3] + bytes((answer[3] & 0xF0 | 1,)) + answer[4:6] + bytes(6) + question(answer)]
            if has_edns
            else [answer]
        )

    server.over_udp = mend
    assert ask(asking(server)).status is Status.VALID


def test_aliases_are_followed_from_answer_to_answer(server) -> None:
    server.set("alias.example", "CNAME", WWW)
    one = asking(server)
    assert set(ask(one, "alias.example").addresses) == {"10.0.0.1", "10.0.0.2"}
    assert one.tallies[0][1].cname == 1


def test_a_name_that_is_none_is_nobodys_fault(server) -> None:
    assert ask(asking(server), "a" * 64).status is Status.INVALID
    assert server.asked == []


def test_resolv_conf_names_them() -> None:
    text = "search example.org\nnameserver 10.0.0.1\nnameserver ::1 # ours\nnameserver fe80::1%lo\n"
    text += "nameserver nonsense\nnameserver\n\0\xff\nnameserver 10.0.0.1\noptions edns0"
    assert resolv_conf(text) == [At(Address(host, 53)) for host in ("10.0.0.1", "::1", "fe80::1%lo")]


def test_resolv_conf_may_change_and_may_be_missing(tmp_path) -> None:
    path, said, now = tmp_path / "resolv.conf", [], [0.0]
    one = Asking("default", Resolvers(), say=said.append, path=path, clock=lambda: now[0])
    assert (one.tallies, len(said)) == ([], 1)
    assert ask(one).status is Status.TIMEOUT
    path.write_text("nameserver 10.0.0.1\nnameserver 10.0.0.2\n")
    now[0] = 10.0
    one.look()
    assert [name for name, _ in one.tallies] == ["10.0.0.1", "10.0.0.2"]
    path.write_text("# none\n")
    now[0] = 20.0
    one.look()
    assert (one.tallies, len(said)) == ([], 2)
