from __future__ import annotations

from collections.abc import Callable

from balancer.config.model import Config
from balancer.config.rules import Condition

Load = Callable[..., Config]

WEB = """
acls:
  one: {path: /a}
  list: [one, {path: /b, not: {any: [one, {host: C.Example.ORG.}]}}]
  name: one
frontends:
  web: {mode: http, bind: ":80", use_backend: {backend: b}}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}}
"""


def test_short_forms_are_the_same_as_long_ones(config: Load) -> None:
    acls = config(WEB).acls
    long = Condition.model_validate(
        {"any": ({"acl": "one"}, {"path": "/b", "not": {"any": ({"acl": "one"}, {"host": "c.example.org"})}})}
    )
    assert acls["list"] == long
    assert acls["name"].acl == ("one",)


def test_whoever_looks_for_conditions_finds_them_all(config: Load) -> None:
    within = list(config(WEB).acls["list"].within)
    assert [way for way, _ in within] == [
        (), ("any", 0), ("any", 1), ("any", 1, "not"), ("any", 1, "not", "any", 0), ("any", 1, "not", "any", 1),
    ]  # fmt: skip
    assert within[-1][1].host == ("c.example.org",)


def test_a_frontend_knows_its_backends(config: Load) -> None:
    text = WEB.replace("use_backend: {backend: b}", "use_backend: [{backend: b, if: one}], default_backend: b")
    for each in (WEB, text):
        assert config(each).frontends["web"].backends == ("b",)
