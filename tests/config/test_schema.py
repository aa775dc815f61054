from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from balancer.config.schema import schema

WEB: dict[str, Any] = {
    "frontends": {"web": {"mode": "http", "bind": ":80", "default_backend": "b"}},
    "backends": {"b": {"servers": {"a": {"address": "10.0.0.1:80"}}}},
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def as_editors_see(value: Any) -> Any:
    """JSON knows text as keys only."""
    if isinstance(value, dict):
        return {str(key): as_editors_see(inner) for key, inner in value.items()}
    return [as_editors_see(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["minimal.yaml", "cluster.yaml", "full.yaml"])
def test_the_examples_fit(validator: jsonschema.Draft202012Validator, examples: Path, name: str) -> None:
    text = (examples / name).read_text(encoding="utf-8")
    assert [error.message for error in validator.iter_errors(as_editors_see(yaml.safe_load(text)))] == []


def test_it_is_json_and_the_same_each_time() -> None:
    assert json.dumps(schema()) == json.dumps(schema())


@pytest.mark.parametrize(
    "part",
    [
        {"global": {"maxconn": "${LIMIT}", "workers": "auto", "max_header_size": "64k"}},
        {"global": {"max_header_size": 65536, "workers": 4}},
        {"defaults": {"tcp_keepalive": True, "timeout": {"connect": "5s"}}},
        {
            "frontends": {
                "web": {**WEB["frontends"]["web"], "bind": [":80", {"address": "/run/a.sock", "mode": "0660"}]}
            }
        },
        {"frontends": {"web": {**WEB["frontends"]["web"], "forwarded_for": {"except": "10.0.0.0/8"}}}},
        {"stats": {"bind": {"address": "[::]:80", "v4v6": True}, "metrics": None}},
        {"nodes": {"a": {"stats": {"description": "x"}, "backends": {"b": {"check": {"interval": "1s"}}}}}},
        {"nodes": {"a": {"frontends": {"web": {"bind": ":81"}}, "stats": None}}},
    ],
)
def test_what_the_reader_takes_fits(validator: jsonschema.Draft202012Validator, part: dict[str, Any]) -> None:
    assert [error.message for error in validator.iter_errors(WEB | part)] == []


@pytest.mark.parametrize(
    "part",
    [
        {"frontend": {}},
        {"global": {"maxconn": 0}},
        {"global": {"maxconn": "many"}},
        {"global": {"runtime_socket": {"mode": 660}}},
        {"defaults": {"timeout": {"connect": 5}}},
        {"defaults": {"timeout": {"connect": "5 s"}}},
        {"defaults": {"error_files": {"299": "x"}}},
        {"frontends": {"web": {"mode": "http", "bind": ":80"}}},
        {"frontends": {"my web": WEB["frontends"]["web"]}},
        {"frontends": {"web": {**WEB["frontends"]["web"], "bind": 80}}},
        {"backends": {"b": {"servers": {}}}},
        {"backends": {"b": {**WEB["backends"]["b"], "check": {}}}},
        {"backends": {"b": {**WEB["backends"]["b"], "check": {"type": "tcp", "path": "/"}}}},
        {"stats": {"bind": ":7000", "users": {"a": 123}}},
        {"nodes": {"a": {"nodes": {}}}},
        {"nodes": {"a": {"stats": {"descripton": "x"}}}},
        {"nodes": {"a": {"backends": {"b": {"servers": {"a": {"weight": 300}}}}}}},
    ],
)
def test_what_the_reader_refuses_does_not(validator: jsonschema.Draft202012Validator, part: dict[str, Any]) -> None:
    assert list(validator.iter_errors(WEB | part)) != []


def properties(part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        for name, inner in part.get("properties", {}).items():
            yield name, inner
        for inner in part.values():
            yield from properties(inner)


def test_each_key_says_what_it_is_for() -> None:
    whole = schema()
    silent = {
        name for name, part in properties({"top": whole, **whole["$defs"]}) if not {"description", "$ref"} & part.keys()
    }
    assert silent == set()


def test_defaults_stand_there_as_the_operator_writes_them() -> None:
    definitions = schema()["$defs"]
    assert definitions["TcpCheck"]["properties"]["interval"]["default"] == "2s"
    assert definitions["RuntimeSocket"]["properties"]["mode"]["default"] == "0660"
    assert definitions["DnsCheck"]["properties"]["rcodes"]["default"] == ["NOERROR", "NXDOMAIN"]
