from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.wire import fields
from balancer.wire.fields import (
    cookie_values,
    field_values,
    host_name,
    query_values,
    with_fields,
    with_lines,
    without_fields,
)
from balancer.wire.http1 import Limits, parse_request, parse_response

LIMITS = Limits(head=65536, uri=16384, fields=200)

FIELDS = b'A: 1\r\nCookie: x=1; y="a;b"; x=2\r\na:2 \t\r\nAb: 3\r\nX-A: 4\r\nCookie: x="3"\r\n'


def of(fields, name):
    return field_values(fields, fields.lower(), name)


def test_every_line_of_a_field_counts():
    assert of(FIELDS, b"a") == [b"1", b"2"]
    assert of(FIELDS, b"ab") == [b"3"]
    assert of(FIELDS, b"b") == of(b"", b"a") == []
    assert of(b"a:\r\n", b"a") == [b""]


def test_every_cookie_counts():
    assert cookie_values(FIELDS, FIELDS.lower(), b"x") == [b"1", b"2", b"3"]
    assert cookie_values(FIELDS, FIELDS.lower(), b"y") == [b"a;b"]
    assert cookie_values(FIELDS, FIELDS.lower(), b"X") == []


def test_every_parameter_counts():
    target = b"/p?a=1&%61=2+3%26&b&=x&a"
    assert query_values(target, b"a") == [b"1", b"2 3&", b""]
    assert query_values(target, b"b") == [b""]
    assert query_values(b"/p", b"a") == query_values(b"/p?", b"") == []


def test_a_host_has_one_name():
    for authority in (b"a.org", b"a.org:80", b"a.org.", b"a.org.:80", b"a.org:", b"%61.org"):
        assert host_name(authority) == b"a.org"
    assert host_name(b"[::1]:80") == host_name(b"[0:0::1]") == b"::1"
    assert host_name(b"[:]") == b":"
    assert host_name(b"10.0.0.1:80") == b"10.0.0.1"
    assert host_name(b"") == b""
    # What no name is as long as is read, but not remembered.
    before = fields._host_name.cache_info().currsize
    for i in range(8):
        long = b"%d" % i + b"a" * 300
        assert host_name(long + b".:80") == long
    assert fields._host_name.cache_info().currsize == before


@given(st.lists(st.tuples(st.sampled_from([b"a", b"A", b"aa", b"b"]), st.text('ab: \t=;"', max_size=8)), max_size=8))
def test_it_agrees_with_a_walk_over_the_lines(lines):
    fields = b"".join(name + b":" + value.encode() + b"\r\n" for name, value in lines)
    slow = [value.encode().strip(b" \t") for name, value in lines if name.lower() == b"a"]
    assert of(fields, b"a") == slow


def test_lines_are_left_out_whatever_their_case_and_dashes():
    fields = b"A: 1\r\nX-A: 2\r\nx_a:3\r\nX-AB: 4\r\nB: x-a: 5\r\n"
    assert without_fields(fields, {b"x-a"}) == b"A: 1\r\nX-AB: 4\r\nB: x-a: 5\r\n"
    assert without_fields(b"", {b"a"}) == b""


def test_a_request_with_other_fields():
    request = parse_request(
        b"POST / HTTP/1.1\r\nHost: A\r\nConnection: close\r\nCookie: a\r\nContent-Length: 3\r\n\r\n", LIMITS
    )
    assert request is not None
    before = request.section
    after = with_fields(before, b"X: y\r\nHost: B.c\r\nContent-Length: 3\r\n")
    assert (after.fields, after.end_to_end, after.lower) == (after.fields,) * 2 + (after.fields.lower(),)
    assert (after.host, after.has_cookie, after.lines, after.plain, after.hop_by_hop) == (b"b.c", False, 3, True, ())
    assert (after.body, after.keep_alive) == (3, False)
    assert (before.host, before.has_cookie, before.plain) == (b"a", True, False)
    assert with_fields(before, b"Cookie: x\r\n").has_cookie and with_fields(before, b"").host == b""


@pytest.mark.parametrize("line", [b"X: y\r\n", b"Cookie: a=b\r\n", b"Host: c\r\nX: y\r\n", b"", b"Set-Cookie: a\r\n"])
def test_further_lines_are_other_fields(line):
    request = parse_request(b"POST / HTTP/1.1\r\nHost: A\r\nConnection: close\r\nContent-Length: 3\r\n\r\n", LIMITS)
    response = parse_response(b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n", LIMITS, b"GET")
    assert request is not None and response is not None
    for head in (request.section, response):
        one, other = with_lines(head, line), with_fields(head, head.end_to_end + line)
        # With nothing cut out, `fields` hold what is for this hop too; only what goes on is compared.
        of_this_hop = {"fields", "lower", "lines", "plain", "hop_by_hop", "host"}
        names = {name for name in dir(head) if not name.startswith("_") and name != "copy"}
        assert all(getattr(one, name) == getattr(other, name) for name in names - of_this_hop)
        assert line in one.fields and line.lower() in one.lower


def test_a_response_with_other_fields():
    response = parse_response(b"HTTP/1.0 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n", LIMITS, b"GET")
    assert response is not None
    after = with_fields(response, b"Set-Cookie: a\r\n")
    assert after.start == b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\n"
    assert (after.sets_cookie, after.status, after.size) == (True, 200, response.size)
    assert not response.sets_cookie
