"""What operators have changed: what it holds against, and how it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import Config
from balancer.pool import overrides
from balancer.pool.overrides import Override, decode, encode, named, reconciled, written

NOW = 1000.0
WEB1 = ("web", "web1")


def config(maxconn: int = 50, check: bool = True, **servers: dict[str, Any]) -> Config:
    if not servers:
        servers = {"web1": {"weight": 10}}
    rows = {name: {"address": "127.0.0.1:1", **server} for name, server in servers.items()}
    return Config.model_validate(
        {
            "global": {"maxconn": 500},
            "frontends": {"ft": {"mode": "http", "bind": ":80", "default_backend": "web", "maxconn": maxconn}},
            "backends": {"web": {"servers": rows, **({"check": {"type": "tcp"}} if check else {})}},
        },
        strict=False,
    )


def made(kind: Any, value: Any, configured: Any, target: tuple[str, ...] = WEB1, **more: Any) -> Override:
    return Override(target, kind, value, configured, "root", 1.0, **more)


EACH = [
    made("state", "drain", "ready"),
    made("weight", 5, 10),
    made("checks", "off", "on"),
    made("health", "down", "on"),
    made("maxconn", 7, None),
    made("address", "127.0.0.1:2", "127.0.0.1:1"),
    made("maxconn", 7, 50, ("ft",)),
    made("maxconn", 7, 500, ()),
    made("added", {"address": "127.0.0.1:3"}, None, ("web", "new")),
]


def test_all_of_them_hold_as_long_as_the_configuration_says_the_same() -> None:
    for each in EACH:
        assert written(config(), each.key) == each.configured
    kept, dropped = reconciled(EACH, config(), NOW)
    assert sorted(kept.values()) == sorted(EACH) and dropped == []


@pytest.mark.parametrize(
    ("each", "now_it_says", "why"),
    [
        (made("weight", 5, 10), config(web1={"weight": 20}), "the configuration has changed it from 10 to 20"),
        (made("weight", 5, 10), config(web1={"weight": 5}), "the configuration has changed it from 10 to 5"),
        (made("maxconn", 5, None), config(web1={"maxconn": 9}), "the configuration has changed it from none to 9"),
        (made("maxconn", 7, 50, ("ft",)), config(60), "the configuration has changed it from 50 to 60"),
        (made("checks", "off", "on"), config(check=False), "the configuration has changed it from on to off"),
        (made("state", "drain", "ready"), config(web2={}), "it is not in the configuration any more"),
        (made("weight", 1, 1, ("db", "db1")), config(), "it is not in the configuration any more"),
        (made("maxconn", 1, 1, ("other",)), config(), "it is not in the configuration any more"),
        (made("added", {"address": ":1"}, None), config(), "the configuration has a server of that name now"),
        (made("state", "drain", "ready", until=NOW), config(), "its time is over"),
    ],
)
def test_who_loses_to_the_configuration_is_told_why(each: Override, now_it_says: Config, why: str) -> None:
    kept, (dropped,) = reconciled([each], now_it_says, NOW)
    assert kept == {} and dropped == (each, why)


def test_a_server_that_was_added_is_what_it_was_added_as() -> None:
    new = ("web", "new")
    added = made("added", {"address": "127.0.0.1:3", "weight": 4}, None, new)
    weight, other = made("weight", 9, 4, new), made("weight", 9, 1, new)
    assert reconciled([weight, added], config(), NOW)[0] == {added.key: added, weight.key: weight}
    assert reconciled([other, added], config(), NOW)[1][0].override == other
    # Without it there is nothing that they are of.
    assert reconciled([weight], config(), NOW)[0] == {}


def test_a_server_that_was_deleted_comes_back_when_the_configuration_changes_it() -> None:
    as_it_was = written(config(web1={"weight": 10}), (WEB1, "deleted"))
    deleted, drain = made("deleted", True, as_it_was), made("state", "drain", "ready")
    kept, (dropped,) = reconciled([drain, deleted], config(web1={"weight": 10}), NOW)
    assert kept == {deleted.key: deleted} and dropped == (drain, "it was deleted")
    _, (dropped,) = reconciled([deleted], config(web1={"weight": 11}), NOW)
    assert dropped.why == "the configuration has changed it"


def test_words_for_a_person() -> None:
    assert [named(WEB1), named(("ft",)), named(())] == ["web/web1", "frontend ft", "global"]
    assert [each.told for each in EACH[:2]] == ["state drain", "weight 5"]
    assert EACH[-1].told == "added at 127.0.0.1:3" and made("deleted", True, {}).told == "deleted"
    assert made("added", {"address": "a:1", "weight": 2}, None).told == "added at a:1 weight 2"


@pytest.mark.parametrize("each", EACH, ids=lambda each: f"{named(each.target)} {each.kind}")
def test_what_is_written_is_read_again(each: Override) -> None:
    each = each._replace(why="ü; \n\x00", until=7.5)
    assert decode(encode([each])) == {each.key: each}


GOOD = json.loads(encode([EACH[1]]))["overrides"][0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe\x00", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it has no list of overrides"),
        (b'{"version": 1}', "it has no list of overrides"),
        (b'{"version": 2, "overrides": []}', "it is of version 2, and 1 is understood"),
        (b'{"overrides": []}', "it is of version None, and 1 is understood"),
        *(
            (json.dumps({"version": 1, "overrides": [GOOD, row]}).encode(), "override 2 makes no sense")
            for row in (
                None,
                [],
                {},
                GOOD | {"kind": "colour"},
                GOOD | {"kind": []},
                GOOD | {"value": "5"},
                GOOD | {"value": True},
                GOOD | {"value": 257},
                GOOD | {"value": -1},
                GOOD | {"kind": "state", "value": "off"},
                GOOD | {"kind": "added", "value": {}},
                GOOD | {"kind": "added", "value": {"address": "127.0.0.1:1", "weight": 999}},
                GOOD | {"target": ["web"]},
                GOOD | {"target": ["web", "web1", "x"]},
                GOOD | {"target": ["web", 1]},
                GOOD | {"target": 5},
                GOOD | {"by": None},
                GOOD | {"at": "yesterday"},
                GOOD | {"at": float("nan")},
                GOOD | {"until": float("inf")},
                GOOD | {"why": "x" * 2000},
            )
        ),
    ],
)
def test_what_makes_no_sense_is_refused_as_a_whole(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(text)


KEYS = st.sampled_from(["version", "overrides", "kind", "target", "value", *GOOD])
SCALARS = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_nothing_else_comes_of_any_json(text: object) -> None:
    try:
        decode(json.dumps(text).encode())
    except ValueError:
        return


def test_lines_together_are_the_whole() -> None:
    assert overrides.joined(map(overrides.line, EACH)) == encode(EACH)
