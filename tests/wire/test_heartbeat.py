from __future__ import annotations

import hashlib
import hmac
import json
import struct
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from balancer.errors import BadHeartbeatError
from balancer.wire.heartbeat import Beat, build, parse

KEY = b"a key of the directors"
OURS, THEIRS = bytes(range(8)), bytes(range(8, 16))
BEAT = Beat(
    node="lb1",
    session=OURS,
    number=7,
    sender="192.0.2.1:7000",
    interval=0.5,
    heard={THEIRS: 6},
    routers={"VI_1": ("MASTER", 150), "VI_2": ("BACKUP", 100)},
    is_serving=True,
    servers={"web": (2, 3), "dns": (0, 2), "tcp": (1, 1)},
)
SAID = {
    "node": "lb1",
    "sender": "192.0.2.1:7000",
    "interval": 0.5,
    "heard": {THEIRS.hex(): 6},
    "routers": {"VI_1": ["MASTER", 150], "VI_2": ["BACKUP", 100]},
    "serving": True,
    "servers": {"web": [2, 3], "dns": [0, 2], "tcp": [1, 1]},
}


def sign(signed: bytes, key: bytes = KEY) -> bytes:
    return signed + hmac.new(key, signed, hashlib.sha256).digest()


def head(magic: bytes = b"pybb", version: int = 1) -> bytes:
    return magic + struct.pack("!B3x", version) + OURS + struct.pack("!Q", 7)


def signed_json(said: object) -> bytes:
    return sign(head() + json.dumps(said).encode())


def test_octets():
    """What is on the wire, by the document alone: it must not change within a version."""
    octets = build(BEAT, KEY)
    assert octets[:24] == bytes.fromhex("70796262 01 000000 0001020304050607 0000000000000007")
    assert json.loads(octets[24:-32]) == SAID
    assert octets == sign(octets[:-32])
    assert parse(octets, KEY) == BEAT


def test_what_a_later_release_tells_more_is_passed_over():
    assert parse(signed_json(SAID | {"weather": ["fine"]}), KEY) == BEAT


text = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")), max_size=255)
numbers = st.integers(0, 2**64 - 1)
sessions = st.binary(min_size=8, max_size=8)
beats = st.builds(
    Beat,
    node=text,
    session=sessions,
    number=numbers,
    sender=text,
    interval=st.floats(0.001, 1e6),
    heard=st.dictionaries(sessions, numbers, max_size=9),
    routers=st.dictionaries(
        text,
        st.tuples(st.sampled_from(["INIT", "BACKUP", "MASTER", "FAULT", "STOPPED"]), st.integers(0, 255)),
        max_size=9,
    ),
    is_serving=st.booleans(),
    servers=st.dictionaries(text, st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=9),
)


@given(beats, st.binary())
@example(replace(BEAT, node="lädt-负载 🚦", servers={"größe": (1, 2)}), b"")
def test_what_is_built_is_parsed(beat, key):
    octets = build(beat, key)
    assert parse(octets, key) == beat
    with pytest.raises(BadHeartbeatError, match="wrong HMAC"):
        parse(octets, key + b"x")


@given(st.binary(max_size=300), st.binary())
def test_any_octets_are_refused(octets, key):
    with pytest.raises(BadHeartbeatError):
        parse(octets, key)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: head() + tail)))
def test_any_octets_that_are_signed_are_refused(octets):
    with pytest.raises(BadHeartbeatError):
        parse(sign(octets), KEY)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just("MASTER")),
    lambda some: st.one_of(st.lists(some, max_size=3), st.dictionaries(st.text(), some, max_size=3)),
    max_leaves=6,
)


@given(values)
def test_any_signed_json_is_a_beat_or_refused(said):
    with pytest.raises(BadHeartbeatError):
        parse(signed_json(said), KEY)


@given(st.sampled_from(sorted(SAID)), values)
def test_any_value_in_a_member_is_taken_or_refused(member, value):
    try:
        beat = parse(signed_json(SAID | {member: value}), KEY)
    except BadHeartbeatError:
        return
    assert parse(build(beat, KEY), KEY) == beat, "what was taken can be said again"


@given(st.integers(0, len(build(BEAT, KEY)) * 8 - 1))
def test_one_bit_changed_is_refused(bit):
    octets = bytearray(build(BEAT, KEY))
    octets[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadHeartbeatError):
        parse(bytes(octets), KEY)


def test_one_cut_short_or_with_more_behind_is_refused():
    octets = build(BEAT, KEY)
    for size in range(len(octets)):
        with pytest.raises(BadHeartbeatError):
            parse(octets[:size], KEY)
    with pytest.raises(BadHeartbeatError):
        parse(octets + b"\0", KEY)


@pytest.mark.parametrize("octets", [head(version=9) + b"{}", head() + b"no JSON"])
def test_nothing_is_looked_at_before_the_hmac(octets):
    with pytest.raises(BadHeartbeatError, match=r"wrong HMAC; most likely `vrrp.heartbeat.key` is not the same"):
        parse(sign(octets, b"another key"), KEY)


BAD = {
    "nothing": (b"", "32 octets"),
    "no JSON at all": (head(), "no JSON"),
    "another magic": (head(b"pybx") + json.dumps(SAID).encode(), "no heartbeat"),
    "another version": (head(version=2) + json.dumps(SAID).encode(), "version 2, 1 expected"),
    "too long": (head() + json.dumps(SAID).encode() + b" " * 65507, "no 65[0-9]{3} octets"),
    "UTF-16": (head() + json.dumps(SAID).encode("utf-16"), "no JSON"),
    "no UTF-8": (head() + b'{"node": "\xff"}', "no JSON"),
    "very deep": (head() + b"[" * 60000, "no JSON"),
    "very many digits": (head() + b"9" * 60000, "no JSON"),
    "two values": (head() + b"{}{}", "no JSON"),
}


@pytest.mark.parametrize(("octets", "why"), BAD.values(), ids=BAD)
def test_bad_ones_from_one_that_has_the_key(octets, why):
    with pytest.raises(BadHeartbeatError, match=why):
        parse(sign(octets), KEY)


ABSURD = {
    "node": [None, 1, "a\nb", "a\x1bb", "\ud800", "x" * 256, ["a"]],
    "sender": [None, 1, "a\0b"],
    "interval": [None, 0, -1, True, "1", float("nan"), float("inf"), 1e300, 10**400],
    "heard": [None, [], {"00": 1}, {"zz" * 8: 1}, {THEIRS.hex(): -1}, {THEIRS.hex(): 2**64}, {THEIRS.hex(): 1.0}],
    "routers": [
        None,
        [],
        {"a\n": ["MASTER", 1]},
        {"a": "MASTER"},
        {"a": ["MASTER"]},
        {"a": ["MASTER", 256]},
        {"a": ["MASTER", True]},
        {"a": ["master", 1]},
        {"a": [["MASTER"], 1]},
        {"a": [None, 1]},
    ],
    "serving": [None, 1, "true"],
    "servers": [
        None,
        {"a": [1]},
        {"a": [1, 2, 3]},
        {"a": [-1, 2]},
        {"a": [1, 10**9]},
        {str(i): [1, 1] for i in range(5000)},
    ],
}


def cut(value):
    return repr(value)[:30]


@pytest.mark.parametrize(
    ("member", "value"), [(member, value) for member in ABSURD for value in ABSURD[member]], ids=cut
)
def test_absurd_values(member, value):
    with pytest.raises(BadHeartbeatError):
        parse(signed_json(SAID | {member: value}), KEY)


@pytest.mark.parametrize("member", SAID)
def test_a_member_is_missing(member):
    with pytest.raises(BadHeartbeatError):
        parse(signed_json({each: SAID[each] for each in SAID if each != member}), KEY)


@pytest.mark.parametrize(
    "members",
    [
        {"node": "a\nb"},
        {"session": b"short"},
        {"number": -1},
        {"number": 2**64},
        {"interval": 0.0},
        {"heard": {b"short": 1}},
        {"routers": {"VI_1": ("ASLEEP", 1)}},
        {"servers": {"web": (-1, 1)}},
    ],
    ids=repr,
)
def test_what_would_be_refused_is_not_built(members):
    with pytest.raises(ValueError):
        build(replace(BEAT, **members), KEY)


def test_two_hundred_backends_with_the_longest_names_fit():
    beat = replace(BEAT, servers={f"{number:0128}": (25, 25) for number in range(200)})
    assert parse(build(beat, KEY), KEY) == beat


def test_what_no_datagram_can_hold_is_not_built():
    fits = replace(BEAT, servers={f"{number:0128}": (25, 25) for number in range(468)})
    assert 65000 < len(build(fits, KEY)) <= 65507
    with pytest.raises(ValueError, match="more than a datagram's 65507"):
        build(replace(BEAT, servers={f"{number:0128}": (25, 25) for number in range(500)}), KEY)
