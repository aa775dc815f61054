from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from balancer.pool.orders import Admin, Condition, ServerState
from balancer.terminal import picture
from balancer.terminal.document import Document, document, health, schema
from balancer.terminal.picture import Pattern, Traffic
from tests.observe.conftest import NOW, House, router, two_routers
from tests.terminal.conftest import Daemon


@pytest.fixture
def seen(daemon: Daemon) -> picture.Picture:
    return picture.fetch(daemon.path, clock=lambda: NOW)


def strict(part: object) -> object:
    """The schema with nothing allowed that it does not name."""
    match part:
        case dict():
            more = {"additionalProperties": False} if "properties" in part else {}
            return {key: strict(value) for key, value in part.items()} | more
        case list():
            return [strict(each) for each in part]
    return part


def test_it_is_as_its_schema_says_and_has_no_other_keys(seen: picture.Picture) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(strict(schema()))
    for each in (seen, replace(seen, routers=two_routers()), seen.narrowed([Pattern.of("app/up")])):
        said = json.loads(json.dumps(document(each)))
        validator.validate(said)
        for key in Document.__annotations__:
            with pytest.raises(jsonschema.ValidationError):
                validator.validate({name: value for name, value in said.items() if name != key})
    assert {*schema()["$defs"]["TrafficFacts"]["required"]} == {*Traffic._fields}


def test_the_schema_has_words_for_what_is_not_plain() -> None:
    assert schema()["$defs"]["ServerFacts"]["properties"]["status"]["description"].startswith("UP, `UP 2/3`")


def test_numbers_are_the_daemons(seen: picture.Picture) -> None:
    said = document(seen)
    assert (said["version"], said["node"], said["uptime"], said["vrrp"]) == (1, "director", 3600, None)
    up = said["backends"][0]["servers"][0]
    assert (up["name"], up["status"], up["takes_clients"], up["traffic"]["requests_total"]) == ("up", "UP", True, 5000)
    down = said["backends"][0]["servers"][1]
    assert down["check"] is not None and down["check"]["status"] == "L4CON" and not down["takes_clients"]
    ours = document(replace(seen, routers=two_routers()))["vrrp"]
    assert ours is not None and [each["name"] for each in ours["routers"]] == ["VI_E", "VI_I"]


GOOD = ServerState(Condition.UP, health=4)


def test_how_it_is(daemon: Daemon, house: House) -> None:
    def found(**more: object) -> str:
        return health(replace(picture.fetch(daemon.path, clock=lambda: NOW), **more))  # type: ignore[arg-type]

    assert found() == "down", "a backend whose only server is drained"
    house.set("names", "ns", GOOD)
    house.feed(NOW)
    assert found() == "degraded", "a server is down"
    house.set("app", "down", GOOD._replace(condition=Condition.DOWN, admin=Admin.MAINT))
    assert found() == "ok", "who is in maintenance is to be"
    standing = replace(two_routers(), routers=(router(),), peers=two_routers().peers[:1])
    assert found(routers=standing) == "ok"
    assert found(routers=replace(standing, at=NOW - 60)) == "degraded", "the supervisor is silent"
    assert found(routers=two_routers()) == "degraded", "a router has a fault"
    assert found(routers=replace(standing, peers=two_routers().peers)) == "degraded", "a director is silent"
    assert health(replace(picture.fetch(daemon.path), routers=two_routers()), with_routers=False) == "ok"
