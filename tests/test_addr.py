from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.addr import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:80", Address("192.0.2.1", 80)),
        ("[2001:db8::1]:443", Address("2001:db8::1", 443)),
        ("[::]:1", Address("::", 1)),
        ("[fe80::1%lo]:80", Address("fe80::1%lo", 80)),
        ("*:80", Address("0.0.0.0", 80)),
        (":80", Address("0.0.0.0", 80)),
        ("web-1.example.org:8080", Address("web-1.example.org", 8080)),
        ("web.example.org.:80", Address("web.example.org.", 80)),
        ("_dmarc.example.org:80", Address("_dmarc.example.org", 80)),
        ("localhost:65535", Address("localhost", 65535)),
        ("1st.example:80", Address("1st.example", 80)),
        ("/run/app.sock", Address("", 0, "/run/app.sock")),
        ("unix@/run/app.sock", Address("", 0, "/run/app.sock")),
        ("unix:/run/app.sock", Address("", 0, "/run/app.sock")),
        ("/" + "a" * 106, Address("", 0, "/" + "a" * 106)),
        ("/run/a:80", Address("", 0, "/run/a:80")),
    ],
)
def test_what_is_an_address(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no address"),
        ("80", "no address"),
        ("192.0.2.1", "no address"),
        ("2001:db8::1:80", "no address"),
        ("::1", "no address"),
        ("[::1:80", "no address"),
        ("[::1]", "no address|not a number"),
        ("192.0.2.1:", "not a number"),
        ("192.0.2.1:0", "not a number from 1 to 65535"),
        ("192.0.2.1:65536", "not a number from 1 to 65535"),
        ("192.0.2.1:99999999999999999999", "not a number from 1 to 65535"),
        ("192.0.2.1:-1", "not a number"),
        ("192.0.2.1:http", "not a number"),
        ("192.0.2.1:٨٠", "not a number"),  # digits, but not ours
        ("192.0.2.1: 80", "not a number"),
        ("192.0.2.256:80", "neither an IP address nor a host name"),
        ("192.0.2:80", "neither an IP address nor a host name"),
        ("[192.0.2.1]:80", "no IPv6 address"),
        ("[2001:db8::g]:80", "no IPv6 address"),
        ("[]:80", "no IPv6 address"),
        ("-web:80", "neither an IP address nor a host name"),
        ("we b:80", "neither an IP address nor a host name"),
        ("wéb:80", "neither an IP address nor a host name"),
        ("web..example:80", "neither an IP address nor a host name"),
        ("a" * 254 + ":80", "neither an IP address nor a host name"),
        ("http://web:80", "no address|neither"),
        ("unix@run/app.sock", "starts with /"),
        ("/" + "a" * 107, "at most 107 bytes"),
        ("/" + "é" * 54, "at most 107 bytes"),
        ("/run/a\0b", "at most 107 bytes"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(text, why):
    with pytest.raises(ValueError, match=why):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["192.0.2.1:80", "[2001:db8::1]:443", "web.example.org:8080", "/run/app.sock", "[fe80::1%lo]:80"]
)
def test_an_address_is_written_as_it_is_read(text):
    assert str(parse_address(text)) == text
    assert parse_address(str(parse_address(text))) == parse_address(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_comes_back(ip, port):
    address = parse_address(f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}")
    assert (ipaddress.ip_address(address.host), address.port) == (ip, port)
    assert not address.is_name
    assert parse_address(str(address)) == address
    assert address.family == (socket.AF_INET6 if ip.version == 6 else socket.AF_INET)


@given(st.text(max_size=40) | st.from_regex(r"\A[\[\]:.%*/a-f0-9]{0,30}\Z"))
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


def test_what_bind_and_connect_take():
    assert parse_address("192.0.2.1:80").sockaddr == ("192.0.2.1", 80)
    assert parse_address("[2001:db8::1]:80").sockaddr == ("2001:db8::1", 80, 0, 0)
    assert parse_address("/run/app.sock").sockaddr == "/run/app.sock"
    loopback = socket.if_nametoindex("lo")
    assert parse_address("[fe80::1%lo]:80").sockaddr == ("fe80::1", 80, 0, loopback)


def test_a_zone_that_this_host_does_not_have_is_an_error_of_the_machine():
    address = parse_address("[fe80::1%nosuchzone]:80")
    with pytest.raises(OSError, match="interface"):
        _ = address.sockaddr


def test_a_loopback_socket_can_be_bound_to_it():
    for text in ("127.0.0.1:1", "[::1]:1"):
        address = parse_address(text)
        with socket.socket(address.family) as listener:
            listener.bind((*address.sockaddr[:1], 0, *address.sockaddr[2:]))


def test_wildcards_and_names_are_told_apart():
    assert [parse_address(t).is_wildcard for t in ("*:80", "[::]:80", "127.0.0.1:80", "/run/a")] == [
        True,
        True,
        False,
        False,
    ]
    assert [parse_address(t).is_name for t in ("web:80", "127.0.0.1:80", "[fe80::1%lo]:80", "/run/a")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_resolved_name_keeps_its_port():
    assert parse_address("web.example.org:8080").with_host("192.0.2.1") == Address("192.0.2.1", 8080)
