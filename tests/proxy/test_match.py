"""Conditions as functions, beside a slow and plain reading of them."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config.rules import Condition
from balancer.proxy.match import Compiler, Networks, Seen, plain_address
from balancer.wire.fields import cookie_values, field_values, query_values
from balancer.wire.http1 import Limits, parse_request
from balancer.wire.path import canonical

LIMITS = Limits(head=65536, uri=16384, fields=200)
ACLS = {"api": {"path_beg": "/api/"}, "inside": {"src": ("10.0.0.0/8", "fd00::/8")}, "both": {"acl": ("api", "inside")}}


def condition(given: dict[str, Any]) -> Condition:
    return Condition.model_validate(given)


def holds(given: dict[str, Any], head: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n", source: str = "192.0.2.1") -> bool:
    networks = Networks()
    compiler = Compiler({name: condition(acl) for name, acl in ACLS.items()}, networks)
    test = compiler.compile(condition(given))
    assert test is not None
    return test(seen(head, networks.zone(source)))


def seen(head: bytes, zone: int = 0) -> Seen:
    request = parse_request(head + b"\r\n", LIMITS)
    assert request is not None
    return Seen(request, canonical(request.line.target.partition(b"?")[0]), zone)


def get(target: str = "/", *lines: str, host: str = "a") -> bytes:
    return "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "")).encode()


@pytest.mark.parametrize("host", ["www.example.org", "WWW.Example.ORG:8080", "www.example.org.", "www.example.org.:80"])
def test_a_host(host):
    assert holds({"host": "www.example.org"}, get(host=host))
    assert holds({"host": "*.example.org"}, get(host=host))
    assert holds({"host": ("a.b", "*.org")}, get(host=host))
    assert not holds({"host": "example.org"}, get(host=host))
    assert not holds({"host": "*.www.example.org"}, get(host=host))


def test_a_star_stands_for_names_below_alone():
    assert not holds({"host": "*.example.org"}, get(host="example.org"))
    assert not holds({"host": "*.example.org"}, get(host="badexample.org"))
    assert not holds({"host": "*.example.org"}, get(host="*.example.org.evil"))
    assert holds({"host": "*.example.org"}, get(host="a.b.example.org"))


def test_a_host_that_is_an_address():
    assert holds({"host": "[2001:db8::1]"}, get(host="[2001:DB8:0::1]:80"))
    assert holds({"host": "10.0.0.1"}, get(host="10.0.0.1:8000"))


def test_no_host_is_none():
    assert not holds({"host": ("*.a", "a")}, b"GET / HTTP/1.0\r\n")


def test_a_path():
    assert holds({"path": "/a/b"}, get("/a//x/../%62?/c"))
    assert not holds({"path": "/a/b"}, get("/a/b/"))
    assert holds({"path": "/caf\u00e9"}, get("/caf%c3%a9"))
    assert holds({"path_beg": "/a"}, get("/ab")) and not holds({"path_beg": "/a/"}, get("/ab"))
    assert holds({"path_beg": "/%61/"}, get("/a/b"))
    assert holds({"path_end": (".ico", ".php")}, get("/x.php?.css")) and not holds({"path_end": ".css"}, get("/x?.css"))
    assert holds({"path_reg": "^/v[0-9]+/"}, get("/v12/x")) and not holds({"path_reg": "^/v[0-9]+/$"}, get("/v12/x"))


def test_a_header():
    head = get("/", "X-A: one", "x-a:  Two, three ", "X-B:")
    assert holds({"header": {"X-A": ("none", "Two, three")}}, head)
    assert not holds({"header": {"X-A": "two, three"}}, head) and not holds({"header": {"X-A": "three"}}, head)
    assert holds({"header_beg": {"X-a": "Tw"}}, head)
    assert holds({"header_reg": {"X-A": ("^x", "(?i)^TWO")}}, head)
    assert holds({"header_found": "X-B"}, head) and not holds({"header_found": "X"}, head)
    assert not holds({"header": {"X-A": "one", "X-B": "one"}}, head)


def test_a_cookie():
    head = get("/", "Cookie: a=1; b=x", 'Cookie: a="2"')
    assert holds({"cookie": {"a": "2"}}, head) and holds({"cookie": {"a": "1", "b": "x"}}, head)
    assert holds({"cookie_reg": {"a": "[23]"}}, head) and not holds({"cookie_reg": {"b": "[23]"}}, head)
    assert holds({"cookie_found": ("c", "b")}, head) and not holds({"cookie_found": "c"}, head)


def test_a_parameter():
    head = get("/?a=1&b&%63=x+y")
    assert holds({"url_param": {"a": "1", "c": "x y"}}, head) and not holds({"url_param": {"b": "1"}}, head)
    assert holds({"url_param_reg": {"c": "^x"}}, head) and holds({"url_param_found": "b"}, head)


def test_a_method():
    assert holds({"method": ("POST", "GET")}) and not holds({"method": "get"})


@pytest.mark.parametrize("source", ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203", "fd12::1", "fe80::1%eth0"])
def test_a_source(source):
    networks = ("10.0.0.0/8", "fd00::/8", "fe80::1/128")
    assert holds({"src": networks}, source=source)
    assert not holds({"src": "192.0.2.0/24"}, source=source)
    assert holds({"src": ("0.0.0.0/0", "::/0")}, source=source)


def test_a_scheme():
    request = seen(get())
    for scheme, https in (("http", 0), ("https", 1)):
        test = Compiler({}, Networks()).compile(condition({"scheme": scheme}))
        assert test is not None
        assert [test(Seen(request.asked, b"/", zone)) for zone in range(4)] == [zone & 1 == https for zone in range(4)]


def test_a_unix_socket_has_no_address():
    networks = Networks()
    networks.bit(("0.0.0.0/0", "::/0"))
    assert networks.zone(None) == 0


def test_all_keys_and_any_of_a_list():
    head = get("/api/x", host="b")
    assert holds({"acl": "api", "host": ("a", "b")}, head) and not holds({"acl": "api", "host": "a"}, head)
    assert holds({"acl": ("inside", "api")}, head) and not holds({"all": ({"acl": "inside"}, {"acl": "api"})}, head)
    assert holds({"any": ({"acl": "inside"}, {"host": "b"})}, head)
    assert holds({"acl": "both", "not": {"any": ({"acl": "inside"}, {"path": "/"})}}, head)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=5), st.integers(0, 2**32 - 1))
def test_zones_agree_with_ipaddress(pairs, number):
    address = ip_address(number)
    lists = [(str(ip_network((first, length), strict=False)), "::/0") for first, length in pairs]
    networks = Networks()
    bits = [networks.bit(each) for each in lists]
    zone = networks.zone(str(address))
    assert [bool(zone & bit) for bit in bits] == [address in ip_network(each[0]) for each in lists]
    assert networks.zone(f"::ffff:{address}") == zone


LEAVES = st.sampled_from(
    [
        {"host": ("a", "*.b")}, {"path": "/a"}, {"path_beg": "/a"}, {"path_end": "b"}, {"path_reg": "a.?b"},
        {"method": ("GET", "PUT")}, {"header": {"X": "1", "Y": ("2", "3")}}, {"header_beg": {"x": "1"}},
        {"header_reg": {"Y": "[2-4]"}}, {"header_found": ("x", "z")}, {"cookie": {"c": "1"}}, {"cookie_found": "d"},
        {"cookie_reg": {"c": "^1"}}, {"url_param": {"q": "1"}}, {"url_param_reg": {"q": "1$"}},
        {"url_param_found": ("q", "r")}, {"src": ("10.0.0.0/8",)}, {"acl": "api"}, {"acl": ("inside", "both")},
        {"path_beg": "/api", "method": "GET", "not": {"acl": "inside"}},
    ]
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3).map(tuple)}),
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3).map(tuple)}),
        st.fixed_dictionaries({"not": inner}),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
    ),
    max_leaves=8,
)
HEADS = st.builds(
    lambda method, target, host, lines: b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (method, target, host, b"".join(lines)),
    st.sampled_from([b"GET", b"PUT", b"POST"]),
    st.lists(st.sampled_from([b"/", b"a", b"b", b"api", b"..", b"%61", b"?", b"q=1", b"&r", b";"]), max_size=6).map(
        lambda parts: b"/" + b"".join(parts)
    ),
    st.sampled_from([b"a", b"x.b", b"B:1", b"", b"[::1]"]),
    st.lists(
        st.sampled_from([b"X: 1\r\n", b"x: 12\r\n", b"Y: 2\r\n", b"Y:4\r\n", b"Z:\r\n", b"Cookie: c=1; d\r\n",
                         b"Cookie: c=12\r\n"]),
        max_size=4,
    ),
)  # fmt: skip
SOURCES = st.sampled_from(["10.1.1.1", "192.0.2.1", "fd00::1", "::ffff:10.0.0.1"])


def slowly(given: Any, what: Seen, source: str) -> bool:
    """The meaning of a condition, key by key."""

    def many(value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value,)

    def values(kind: str, name: str) -> list[bytes]:
        section = what.section
        if kind == "header":
            return field_values(section.fields, section.lower, name.lower().encode())
        if kind == "cookie":
            return cookie_values(section.fields, section.lower, name.encode())
        return query_values(what.target, name.encode())

    def key(name: str, wanted: Any) -> bool:
        match name:
            case "host":
                host = what.host.decode()
                return any(host == each or (each[0] == "*" and host.endswith(each[1:])) for each in many(wanted))
            case "path":
                return what.path.decode() in many(wanted)
            case "path_beg":
                return any(what.path.decode().startswith(each) for each in many(wanted))
            case "path_end":
                return any(what.path.decode().endswith(each) for each in many(wanted))
            case "path_reg":
                return any(re.search(each.encode(), what.path) for each in many(wanted))
            case "method":
                return what.method.decode() in many(wanted)
            case "src":
                address = ip_address(plain_address(source))
                return any(address in ip_network(each) for each in many(wanted))
            case "acl":
                return any(slowly(ACLS[each], what, source) for each in many(wanted))
            case "any":
                return any(slowly(each, what, source) for each in wanted)
            case "all":
                return all(slowly(each, what, source) for each in wanted)
            case "not":
                return not slowly(wanted, what, source)
        kind, _, how = name.rpartition("_")
        if how == "found":
            return any(values(kind, each) for each in many(wanted))
        kind = name if how not in ("beg", "reg") else kind
        fits = {"beg": bytes.startswith, "reg": lambda value, each: re.search(each, value)}.get(how, bytes.__eq__)
        return all(
            any(fits(value, each.encode()) for value in values(kind, field) for each in many(of_field))
            for field, of_field in wanted.items()
        )

    return all(key(name, wanted) for name, wanted in given.items())


@settings(deadline=None)
@given(CONDITIONS, HEADS, SOURCES)
def test_it_agrees_with_a_slow_reading(given, head, source):
    networks = Networks()
    compiler = Compiler({name: condition(acl) for name, acl in ACLS.items()}, networks)
    test = compiler.compile(condition(given))
    what = seen(head, networks.zone(source))
    assert test(what) is slowly(given, what, source)


def test_whether_fields_matter_is_known():
    def looks(given: dict[str, Any]) -> bool:
        compiler = Compiler({"deep": condition({"not": {"cookie_found": "a"}})}, Networks())
        compiler.compile(condition(given))
        return compiler.looks_at_fields

    assert not looks({"host": "a", "path_reg": "a", "url_param_found": "a", "src": "10.0.0.0/8", "method": "GET"})
    assert looks({"any": ({"acl": "deep"},)})
    assert looks({"header_found": "a"})
