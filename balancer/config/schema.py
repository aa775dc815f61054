"""The JSON schema of balancer.yaml, for editors: what the operator may write, with the model's own words.

It allows some files that `read` refuses (names that resolve to nothing, binds that clash), and no other way round.
"""

from __future__ import annotations

import re
from typing import Any

from balancer.config.model import Config

__all__ = ["schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}", "description": "${NAME}"}
# Anyone may write a variable there, so nothing is left to say against any other text.
_SUBSTITUTED = ("pattern", "enum")
# In a host's overrides, parts stand for themselves: nothing else is required beside them.
_OVERRIDES = "Override"


def schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12."""
    whole = Config.model_json_schema(by_alias=True)
    definitions = whole.pop("$defs")
    definitions["Node"] = {
        "description": definitions["Node"]["description"],
        **{key: value for key, value in _partial(whole).items() if key != "description"},
    }
    definitions["Node"]["properties"] = {k: v for k, v in definitions["Node"]["properties"].items() if k != "nodes"}
    overrides = {name + _OVERRIDES: _partial(part) for name, part in definitions.items() if name != "Node"}
    definitions |= overrides
    used = _reachable(whole, definitions)
    return {
        "$schema": _DIALECT,
        "title": "pybalancer configuration",
        **_written(whole),
        "$defs": {name: _written(part) for name, part in definitions.items() if name in used} | {"Variable": _VARIABLE},
    }


def _partial(part: Any) -> Any:
    """A schema as it holds in overrides. Lists are replaced whole, so their items stay as they are."""
    match part:
        case {"$ref": str(ref), **rest}:
            return {"$ref": ref + _OVERRIDES, **rest}
        case dict():
            kept = {key: value for key, value in part.items() if key not in ("required", "minProperties")}
            # Without its `type`, a part of a check fits more than one kind of check.
            kept = {"anyOf" if key == "oneOf" else key: value for key, value in kept.items()}
            return {key: value if key == "items" else _partial(value) for key, value in kept.items()}
        case list():
            return [_partial(item) for item in part]
        case _:
            return part


def _reachable(part: Any, definitions: dict[str, Any]) -> set[str]:
    """Names of the definitions that `part` refers to, directly or not."""
    found: set[str] = set()
    rest = [part]
    while rest:
        match rest.pop():
            case {"$ref": str(ref), **others}:
                name = ref.removeprefix(_DEFS)
                rest.append(others)
                if name not in found:
                    found.add(name)
                    rest.append(definitions[name])
            case dict() as mapping:
                rest += mapping.values()
            case list() as items:
                rest += items
    return found


def _written(part: Any) -> Any:
    """A schema made by pydantic in terms of what stands in the file."""
    match part:
        case list():
            return [_written(item) for item in part]
        case dict():
            return _leaf(_tidy({key: _properties(key, value) for key, value in part.items()}))
        case _:
            return part


def _properties(key: str, value: Any) -> Any:
    # The values under these are named by the operator's keys, they are no keywords.
    if key in ("properties", "patternProperties"):
        return {name: _written(part) for name, part in value.items()}
    return value if key in ("default", "enum", "required", "propertyNames") else _written(value)


def _tidy(part: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in part.items() if key not in ("title", "discriminator")}
    if isinstance(kept.get("description"), str):
        kept["description"] = re.sub(r"\s+", " ", kept["description"])
    match kept.get("default", ...):
        case None | "" | dict():
            del kept["default"]
        case float(seconds):
            kept["default"] = f"{seconds:g}s"
        case int(mode) if kept.get("type") == "string":
            kept["default"] = f"{mode:04o}"
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
        kept.pop("propertyNames", None)
    return kept


def _leaf(part: dict[str, Any]) -> dict[str, Any]:
    """A single value may come from the environment, whatever its type."""
    if "anyOf" in part:
        alternatives = [
            inner for outer in part["anyOf"] for inner in (outer["anyOf"] if [*outer] == ["anyOf"] else [outer])
        ]
        return {**part, "anyOf": alternatives}
    if part.get("type") not in ("integer", "boolean") and not any(key in part for key in _SUBSTITUTED):
        return part
    around = {key: value for key, value in part.items() if key in ("description", "default")}
    value = {key: value for key, value in part.items() if key not in around}
    return {**around, "anyOf": [value, {"$ref": _DEFS + "Variable"}]}
