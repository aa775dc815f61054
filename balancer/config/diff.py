"""What is different between two values of the configuration, key by key, in the words of the file. Pure.

What may be a secret is said to be another one, and no more: passwords and keys, and the values of headers, cookies and
parameters, in which tokens travel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from pydantic import BaseModel

from balancer.config.units import Rate
from balancer.config.words import printable

__all__ = ["HIDDEN", "Key", "keys", "written"]

HIDDEN = "(not shown)"
"""In place of a secret."""
_SECRET = frozenset(("password", "key"))
# Name to value.
_SECRET_VALUES = frozenset(
    ("add_header", "cookie", "cookie_reg", "header", "header_beg", "header_reg", "headers", "set_header", "url_param",
     "url_param_reg")
)  # fmt: skip
_LONGEST = 100
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class Key(NamedTuple):
    """A key that has another value; empty where it has none."""

    key: str
    """Such as `check.interval`."""
    old: str
    new: str


def keys(old: BaseModel, new: BaseModel, *, but: tuple[str, ...] = ()) -> Iterator[Key]:
    """Those that are different, in the order of the model; `but` for these of the first level."""
    yield from _of_models(old, new, "", but)


def _of_models(old: BaseModel, new: BaseModel, path: str, but: tuple[str, ...] = ()) -> Iterator[Key]:
    for name, field in type(old).model_fields.items():
        if name not in but:
            key = f"{path}.{field.alias or name}" if path else field.alias or name
            yield from _compared(key, field.alias or name, getattr(old, name), getattr(new, name))


def _compared(path: str, name: str, old: Any, new: Any) -> Iterator[Key]:
    if old == new:
        return
    if isinstance(old, BaseModel) and type(old) is type(new):
        yield from _of_models(old, new, path)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _of_mappings(path, name, old, new)
    elif isinstance(old, tuple) and isinstance(new, tuple) and _are_models(old) and _are_models(new):
        yield from _of_lists(path, old, new)
    else:
        yield Key(path, _shown(name, old), _shown(name, new))


def _of_mappings(path: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Key]:
    for each in dict.fromkeys([*old, *new]):
        key = f"{path}.{printable(str(each))}"
        was, now = old.get(each), new.get(each)
        if name in _SECRET_VALUES and not isinstance(was if was is not None else now, BaseModel):
            if was != now:
                yield Key(key, HIDDEN if each in old else "", HIDDEN if each in new else "")
        elif each in old and each in new:
            yield from _compared(key, str(each), was, now)
        else:
            yield Key(key, _shown(str(each), was), _shown(str(each), now))


def _of_lists(path: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Key]:
    """Rules and the like: from the first that is different to the last."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    was, now = old[start : len(old) - end], new[start : len(new) - end]
    for i in range(max(len(was), len(now))):
        key = f"{path}[{start + i}]"
        if i < min(len(was), len(now)):
            yield from _compared(key, "", was[i], now[i])
        else:
            yield Key(key, _shown("", was[i]) if i < len(was) else "", _shown("", now[i]) if i < len(now) else "")


def _are_models(values: tuple[Any, ...]) -> bool:
    return all(isinstance(each, BaseModel) for each in values)


def _shown(name: str, value: Any) -> str:
    if name in _SECRET and value is not None:
        return HIDDEN
    if name in _SECRET_VALUES and isinstance(value, Mapping):
        return "{" + ", ".join(f"{printable(str(key))}: {HIDDEN}" for key in value) + "}"
    # Permission bits.
    text = f'"{value:04o}"' if name == "mode" and isinstance(value, int) else written(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def written(value: Any) -> str:
    """As the file would have it, but for secrets; nothing for what is not set."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return _duration(value)
        case int():
            return str(value)
        case BaseModel():
            fields = type(value).model_fields
            given = [name for name in fields if name in value.model_fields_set and getattr(value, name) is not None]
            parts = [(fields[name].alias or name, getattr(value, name)) for name in given]
            if given == ["address"]:
                return written(parts[0][1])
            return "{" + ", ".join(f"{name}: {_shown(name, each)}" for name, each in parts) + "}"
        case Mapping():
            return (
                "{" + ", ".join(f"{printable(str(key))}: {_shown(str(key), each)}" for key, each in value.items()) + "}"
            )
        case Rate():
            return f"{value.most}/{_duration(value.period)}"
        case tuple() if len(value) == 1:
            return written(value[0])
        case tuple():
            return "[" + ", ".join(map(written, value)) + "]"
        case _:
            text = str(value)
            return text if text.isprintable() else repr(text)


def _duration(seconds: float) -> str:
    if not isfinite(seconds):
        return "off"
    whole = round(seconds * 1000)
    if whole % 1000:
        return f"{whole}ms"
    whole //= 1000
    for unit, letter in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if whole and whole % unit == 0:
            return f"{whole // unit}{letter}"
    return f"{whole}s"
