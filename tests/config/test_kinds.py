"""What the reader takes must fit the JSON schema, or editors would mark it as wrong."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from balancer.config import kinds

KINDS = [name for name in kinds.__all__ if name != "ADDRESS_PATTERN"]
WRITTEN = [
    True, 403,
    0, 1, 5, 53, 200, 256, 65535, 65536, 10**6, "0", "1", "200", "200-299", "200, 204,301-303", "0660", "755",
    "64k", "1M", "100/10s", "5/m", "500us", "1.5m", "2h", "3650d", "auto", "syslog", "none", "udp://[::1]:514", "udp://logs.example.org:514",
    "tcp://[::1]:514", "journald", "/var/log/web.log", "1:10", "2-3,8:11",
    "*:80", ":80", "[::1]:80", "[fe80::1%eth0]:80", "localhost:80", "/run/a.sock", "unix@/run/a.sock", "unix:/a",
    "10.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.0/8", "::/0", "10.0.0.1/24", "fe80::1%eth0/64",
    ".", "lab.local", "_dns.example.org.", "b\u00fccher.example", "SOA", "a", "TYPE65280", "NSAP-PTR", "NOERROR",
    "nxdomain", "X-Forwarded-For", "SERVERID", "a b", "SameSite=Lax", "eth0", "br-lan.5", "/", "/haproxy?stats",
    "p\u00e4ssword", "x" * 300,
    "*.example.org", "[::1]", "^/(a|b)", "%[src]", "/x%[path]", "https://a%[pathq]",
]  # fmt: skip


def takes(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def fits(kind: Any, value: Any) -> bool:
    return jsonschema.Draft202012Validator(TypeAdapter(kind).json_schema()).is_valid(value)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_taken_fits(name: str) -> None:
    kind = getattr(kinds, name)
    taken = [value for value in WRITTEN if takes(kind, value)]
    assert taken
    assert [value for value in taken if not fits(kind, value)] == []


@pytest.mark.parametrize("name", KINDS)
@given(
    value=st.one_of(
        st.text(max_size=20), st.integers(), st.from_regex(re.compile(r"[0-9a-f:./%k,-]{1,12}"), fullmatch=True)
    )
)
def test_whatever_is_taken_fits(name: str, value: object) -> None:
    kind = getattr(kinds, name)
    assert not takes(kind, value) or fits(kind, value)
