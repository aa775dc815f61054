"""Messages as the kernel writes them, as it might, and as it never would."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.kernel.ctnetlink import COUNTED, TOLD, Shape, build, deletion, numbers, parse, split
from tests.kernel.stage import PORT, SERVERS, VIP, VPORT
from tests.kernel.table import ESTABLISHED, ends, nest, one


def test_messages_of_one_length_need_not_be_of_one_shape() -> None:
    """Of 8 octets are a mark and a zone: what comes after either is at the same place."""
    family = 4

    def message(extra: bytes, status_first: bool) -> bytes:
        tuples = ends(1, ("10.0.0.1", 5), (VIP, VPORT), 6) + ends(2, (SERVERS[0], PORT), ("10.0.0.1", 5), 6)
        status = one(3, struct.pack("!I", 0x2E))
        rest = status + extra if status_first else extra + status
        return build(0, family, tuples + rest + nest(4, nest(1, one(1, bytes([ESTABLISHED])))))

    wanted = COUNTED[family]
    usual = message(one(8, bytes(4)), True)
    shape = Shape(usual, wanted)
    for other in (message(one(8, bytes(4)), False), message(one(18, b"\0\1"), False)):
        assert len(other) == len(usual)
        assert shape.entry(shape.read(other)) is None
        assert parse(other, wanted).word == "ESTABLISHED"
    found = shape.entry(shape.read(usual))
    assert found == parse(usual, wanted)
    assert found is not None and found.is_translated
    assert not parse(message(one(18, b"\0\1"), True), wanted).is_translated


@given(octets=st.binary(max_size=400))
def test_no_octets_are_too_strange_to_be_read(octets: bytes) -> None:
    message = bytes(20) + octets
    for wanted in TOLD.values():
        shape = Shape(message, wanted)
        assert shape.entry(shape.read(message)) == parse(message, wanted)


@given(octets=st.binary(max_size=400), kind=st.sampled_from([0x100, 0x104, 0x105]))
def test_numbers_are_in_it_or_not(octets: bytes, kind: int) -> None:
    assert numbers(build(kind, 0, octets)) is None or len(octets) >= 8


def test_an_order_without_addresses_is_none() -> None:
    """To the kernel it would be one to forget everything."""
    with pytest.raises(KeyError):
        deletion(build(0, 4, one(12, b"1234")), 4, 1, is_last=True)
    with pytest.raises(KeyError):
        deletion(build(0, 4, ends(1, ("10.0.0.1", 5), (VIP, VPORT), 6)), 4, 1, is_last=True)


def test_what_came_at_once_is_taken_apart() -> None:
    some = build(0x100, 4, one(12, b"12345"))
    padded = some + bytes(-len(some) % 4)
    error = struct.pack("=IHHIIi", 20, 2, 0, 7, 0, -2)
    done = struct.pack("=IHHIIi", 20, 3, 2, 8, 0, 0)
    at = len(padded)
    assert split(padded + error + padded + done) == ([(0, len(some)), (at + 20, len(some))], [(7, -2), (8, 0)])
    assert split(b"") == ([], [])
