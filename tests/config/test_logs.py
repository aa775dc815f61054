from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from balancer.config.logs import FrontendLogs, Log, Logs
from balancer.config.schema import schema

FRONTEND = TypeAdapter(FrontendLogs)
GLOBAL = TypeAdapter(Logs)


def test_a_target_may_stand_without_its_list() -> None:
    assert GLOBAL.validate_python({"target": "none"}) == (Log(target="none"),)
    assert GLOBAL.validate_python(({"target": "none"}, {})) == (Log(target="none"), Log())
    with pytest.raises(ValidationError):
        GLOBAL.validate_python(())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, None),
        (None, None),
        (False, ()),
        ({"target": "stderr"}, (Log(target="stderr"),)),
        (({"target": "stderr"}, {"level": "err"}), (Log(target="stderr"), Log(level="err"))),
    ],
)
def test_a_frontend_says_whether_or_where(written: Any, meant: Any) -> None:
    assert FRONTEND.validate_python(written) == meant


@pytest.mark.parametrize("written", [1, "yes", "stdout", ({"target": 1},), ("stdout",)])
def test_a_frontend_says_nothing_else(written: Any) -> None:
    with pytest.raises(ValidationError):
        FRONTEND.validate_python(written)


def test_equal_targets_are_one() -> None:
    one, two = (Log.model_validate({"target": "syslog", "sample": "1:10"}) for _ in range(2))
    assert one == two
    assert len({one, two, Log(target="syslog")}) == 2


@pytest.mark.parametrize(
    ("text", "is_good"), [("true", True), ("{target: syslog}", True), ("[{}, {len: 1024}]", True), ("stdout", False)]
)
def test_editors_know_it(text: str, is_good: bool) -> None:
    whole = schema()
    frontend = {"mode": "http", "bind": ":80", "default_backend": "b", "log": yaml.safe_load(text)}
    config = {"frontends": {"f": frontend}, "backends": {"b": {"servers": {"s": {"address": "127.0.0.1:81"}}}}}
    assert jsonschema.Draft202012Validator(whole).is_valid(config) == is_good
