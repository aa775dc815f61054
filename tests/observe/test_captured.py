from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.observe.captured import Fault, dump, title, wanted
from balancer.pool.captures import LONGEST, Capture

REQUEST = Capture(
    "request", 3, 1.5e9 + 0.25, "web", "", "", "192.0.2.1:4242", "", "a bad\nname",
    b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
)  # fmt: skip
RESPONSE = REQUEST._replace(side="response", backend="app", server="s1", number=4)
IDS = {"web": 2, "/app": 5, "/app/s1": 1}


def shown(octets: bytes) -> list[str]:
    """The lines of the message alone."""
    return dump(Fault(REQUEST._replace(octets=octets), 0), IDS).partition("\n  \n")[2].splitlines()


def test_a_request_is_shown_as_haproxy_shows_it() -> None:
    lines = dump(Fault(REQUEST, 18), IDS).splitlines()
    assert lines[1].endswith("frontend web (#2): invalid request")
    assert lines[2:5] == [
        "  backend <NONE> (#-1), server <NONE> (#-1), event #3, src 192.0.2.1:4242",
        f"  buffer starts at 0 (including 0 out), {LONGEST - 28} free,",
        f"  len 28, wraps at {LONGEST}, error at position 18",
    ]
    assert "\n" not in lines[5] and lines[5].startswith("  reason: a bad")
    assert lines[7:] == ["  00000  GET / HTTP/1.1\\r\\n", "  00016  Ho st: x\\r\\n", "  00026  \\r\\n"]


def test_a_response_names_its_server() -> None:
    lines = dump(Fault(RESPONSE, 0), IDS).splitlines()
    assert lines[1].endswith("backend app (#5): invalid response")
    assert lines[2].startswith("  frontend web (#2), server s1 (#1), event #4, ")


def test_odd_octets_are_seen_and_long_lines_go_on() -> None:
    assert shown(b"\t\x1b\\\x00\xff\x7f") == ["  00000  \\t\\e\\\\\\x00\\xFF\\x7F"]
    first, second = shown(b"a" * 100)
    assert first == "  00000  " + "a" * 70
    assert second == "  00070+ " + "a" * 30
    assert shown(b"") == []


@given(st.binary(max_size=400))
def test_each_line_is_short_and_printable_and_says_where_it_begins(octets: bytes) -> None:
    at = 0
    for line in shown(octets):
        assert len(line) <= 79 and line.isascii() and line.isprintable()
        assert int(line[2:7]) == at
        text = line[9:].replace("\\\\", "_")
        at += len(text) - text.count("\\x") * 3 - sum(text.count(each) for each in ("\\t", "\\n", "\\r", "\\e"))
    assert at == len(octets)


def test_of_each_proxy_the_last_is_wanted() -> None:
    later = REQUEST._replace(at=REQUEST.at + 1, number=9)
    other = REQUEST._replace(frontend="tls")
    every = [later, REQUEST, RESPONSE, other]
    assert sorted(wanted(None, None, every)) == sorted([later, RESPONSE, other])
    assert wanted("web", "request", every) == [later]
    assert wanted("app", None, every) == [RESPONSE]
    assert wanted("nobody", None, every) == []


def test_how_many_there_were() -> None:
    assert title(1.5e9, 7).endswith(" : 7\n")
