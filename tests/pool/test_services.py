from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.services import Counts, Listing, ServiceFacts, TargetFacts, decode, encode

TARGET = TargetFacts("s1", "10.0.0.2", 80, 1, 2, 3, Counts(7, 6, 5, 4, 3), Counts(1, None, None, 2, 3))
SERVICE = ServiceFacts("tcp", "10.0.0.1", 80, "roundrobin", False, 300.0, True, "Masq", (TARGET, TARGET))


@pytest.mark.parametrize("listing", [Listing(), Listing((SERVICE, SERVICE), 1000, "no such table")])
def test_what_is_told_is_what_is_heard(listing):
    assert decode(encode(listing)) == listing


@pytest.mark.parametrize("octets", [b"", b"{}", b"[]", b"[1, 2, 3]", b'[[[]], 1, ""]', b'[[[1]], 1, ""]', b"\xff"])
def test_what_is_no_list_is_refused(octets):
    with pytest.raises(ValueError):
        decode(octets)


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_whatever_comes_is_a_list_or_refused(value):
    with contextlib.suppress(ValueError):
        assert isinstance(decode(json.dumps(value).encode()), Listing)
