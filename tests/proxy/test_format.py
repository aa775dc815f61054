from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.format import _PLAIN
from balancer.proxy.format import NO_GROUPS, compile_template, field_line
from balancer.wire.http1 import Limits, parse_request

LIMITS = Limits(head=65536, uri=16384, fields=200)
HEAD = b'GET /a//%62?c=d&e=%0D%0Af HTTP/1.1\r\nHost: T.Example:80\r\nX-A: 1\r\nx-a: 2\r\nCookie: k=v; l="a;b"\r\n\r\n'


def subject(head: bytes = HEAD, source: Any = ("::ffff:10.0.0.1", 1234)) -> Any:
    return SimpleNamespace(
        asked=parse_request(head, LIMITS),
        endpoints=lambda: (source, ("2001:db8::1%eth0", 80) if source else None),
        frontend=SimpleNamespace(name="web", clock=SimpleNamespace(wall=784111777.9, second=784111777)),
        to=SimpleNamespace(backend=SimpleNamespace(name="pool")),
        server=SimpleNamespace(name="s1"),
        user=b"ann",
        source=source,
        is_https=True,
        request_id=b"id-1",
        came=SimpleNamespace(status=404, minor=0),
    )


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("plain é", "plain é".encode()),
        ("%[src]:%[src_port]>%[dst]:%[dst_port]", b"10.0.0.1:1234>2001:db8::1:80"),
        ("%[method] %[host] %[path] %[query]", b"GET t.example /a/b c=d&e=%0D%0Af"),
        ("%[pathq]", b"/a/b?c=d&e=%0D%0Af"),
        ("%[frontend]/%[backend]/%[server] %[user]", b"web/pool/s1 ann"),
        ("%[date] %[timestamp]", b"Sun, 06 Nov 1994 08:49:37 GMT 784111777"),
        ("%[header(X-A)] %[header(none)]%[cookie(l)]", b"1 a;b"),
        ("%[url_param(c)]%[url_param(e)]", b"df"),
        ("%[1]%[2]%[3]", b"one"),
        ("%[scheme] %[request_id]", b"https id-1"),
        ("%[req_ver] %[res_ver] %[status]", b"1.1 1.0 404"),
    ],
)
def test_what_is_put_in(text, octets):
    compiled = compile_template(text)
    assert (compiled if isinstance(compiled, bytes) else compiled(subject(), (b"one", None))) == octets


def test_a_unix_socket_has_no_address():
    template = compile_template("%[src]%[src_port]%[dst]%[dst_port]")
    assert not isinstance(template, bytes) and template(subject(source=None), NO_GROUPS) == b""
    assert template(subject(source=("", 0)), NO_GROUPS)[:1] != b"0"


def test_a_host_that_is_none_is_put_nowhere():
    template = compile_template("%[host]")
    head = b"GET / HTTP/1.1\r\nHost: a%2fevil.example%0d%0a\r\n\r\n"
    assert not isinstance(template, bytes) and template(subject(head), NO_GROUPS) == b""


def test_every_variable_is_known():
    for name in _PLAIN:
        template = compile_template(f"%[{name}]")
        assert not isinstance(template, bytes) and template(subject(), NO_GROUPS)


@given(st.binary(max_size=30), st.sampled_from(["url_param(e)", "1", "query", "path", "pathq", "host"]))
def test_no_line_ever_ends_within_a_value(octets, name):
    escaped = b"".join(b"%%%02X" % octet for octet in octets)
    it = subject(b"GET /%b?e=%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (escaped, escaped, escaped))
    compiled = compile_template(f"a%[{name}]b")
    assert not isinstance(compiled, bytes)
    line = field_line(b"X", compiled, it) if name != "1" else b"X: %b\r\n" % compiled(it, (octets,))
    assert line.endswith(b"\r\n") and not any(octet < 32 or octet == 127 for octet in line[:-2])
