"""What pydantic found wrong, in the operator's words: what is wrong, and what is allowed."""

from __future__ import annotations

import re
import types
from functools import cache
from itertools import islice
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from balancer.config import tree
from balancer.config.model import Config
from balancer.config.secret import is_secret
from balancer.config.tree import MOST_PROBLEMS, Finding, Loc
from balancer.config.values import WANTS_TEXT
from balancer.config.vrrp import Authentication, CheckScript, Vrrp, VrrpInstance
from balancer.config.words import a_list_of, did_you_mean, shown

__all__ = ["explain"]

_MAPPING_WANTED = frozenset(("model_type", "model_attributes_type", "dict_type"))
_CHOICE_WANTED = frozenset(("literal_error", "enum"))
# keepalived's words (keepalived.conf(5)) for what has another name here.
_OF_KEEPALIVED: dict[type[BaseModel], dict[str, str]] = {
    Vrrp: {
        "vrrp_instance": "instances",
        "vrrp_sync_group": "sync_groups",
        "vrrp_script": "scripts",
        "vrrp_track_file": "files",
        "track_file": "files",
    },
    VrrpInstance: {"nopreempt": "preempt: false", "vrrp_version": "version"},
    Authentication: {"auth_type": "type", "auth_pass": "password"},
    CheckScript: {"user": "vrrp.script_user"},
}


def explain(error: ValidationError, root: tree.Mapping) -> tuple[list[Finding], list[Loc]]:
    """A finding for each error about the data of `root`, and the places of all errors.

    Values that are BROKEN count as errors, but have been complained of already.
    """
    details = error.errors(include_url=False, include_input=False)
    explained = (_explain(detail, root) for detail in details)
    findings = list(islice((finding for finding in explained if finding is not None), MOST_PROBLEMS + 1))
    return findings, [detail["loc"] for detail in details]


def _explain(detail: ErrorDetails, root: tree.Mapping) -> Finding | None:
    loc = _without_tag(detail["loc"])
    match detail["type"]:
        case "missing":
            return Finding((*tree.find(root, loc[:-1])[0], loc[-1]), "is missing; it has no default", "missing")
        case "extra_forbidden":
            return Finding(loc, _unknown_key(detail["loc"]), "key")
        case "union_tag_not_found":
            choices = a_list_of(_tags())
            node = tree.find(root, loc)[2]
            keys = node.entries if isinstance(node, tree.Mapping) else ()
            near = next((f"; `{key}` is no key, did you mean type?" for key in keys if did_you_mean(key, ["type"])), "")
            return Finding((*loc, "type"), f"is missing; a check is of type {choices}{near}", "missing")
        case "union_tag_invalid":
            loc = (*loc, "type")
    if loc[-1:] == ("[key]",):
        text = _text(detail)
        if loc[-3:-2] == ("users",):
            # NAME:PASSWORD, perhaps, as of htpasswd.
            text = text.replace(shown(loc[-2]), "this name")
        return Finding(loc[:-1], text, "key")
    walked, _, node = tree.find(root, loc)
    if isinstance(node, tree.Scalar) and node.value is tree.BROKEN:
        return None
    # pydantic counts the valid items only; the others have findings of their own.
    if detail["type"] == "too_short" and (isinstance(node, tree.Scalar) or node.size > 1):
        return None
    return Finding(walked, _about(detail, node, hidden=is_secret(walked)))


def _about(detail: ErrorDetails, node: tree.Node, *, hidden: bool) -> str:
    """What is wrong with the value at `node`, which is not repeated where it is `hidden`."""
    kind = detail["type"]
    # One that has to be one of few is no secret.
    found = _found(node, hidden=hidden and kind not in _CHOICE_WANTED)
    if kind == WANTS_TEXT:
        return _wants_text(node, hidden=hidden)
    if kind in _CHOICE_WANTED:
        expected = detail["ctx"]["expected"]
        choices = re.findall(r"'([^']*)'", expected) or re.split(", | or ", expected)
        text = f"{found} is not allowed; allowed is {a_list_of(choices)}{_near(node, choices)}"
    elif kind == "union_tag_invalid":
        text = f"{found} is no type of check; allowed is {a_list_of(_tags())}{_near(node, _tags())}"
    elif kind == "bool_type":
        return f"wants true or false, not {found}"
    elif kind in _MAPPING_WANTED:
        return f"wants a mapping (lines of `key: value`), not {found}"
    elif kind == "tuple_type":
        return f"wants a list, not {found}"
    elif kind == "too_short":
        return "must not be empty"
    else:
        text = _text(detail)
        if hidden and isinstance(node, tree.Scalar):
            text = text.replace(shown(node.value), "this value")
    if isinstance(node, tree.Scalar) and isinstance(node.value, bool) and node.text not in ("true", "false"):
        text += f" (to YAML, {node.text} without quotes is {shown(node.value)}; put it in quotes if it is text)"
    return text


def _wants_text(node: tree.Node, *, hidden: bool) -> str:
    if not isinstance(node, tree.Scalar) or node.value is None:
        return f"wants text, not {_found(node, hidden=hidden)}"
    kind = f"the value {shown(node.value)}" if isinstance(node.value, bool) else "a number"
    if hidden:
        return f"without quotes this is {kind} to YAML; put it in quotes"
    return f'wants text, and without quotes {node.text} is {kind} to YAML; write "{node.text}"'


def _found(node: tree.Node, *, hidden: bool) -> str:
    match node:
        case tree.Scalar() if hidden and node.value is not None:
            return "this value"
        case tree.Scalar():
            return shown(node.value)
        case tree.Sequence():
            return "a list"
        case tree.Mapping():
            return "a mapping"


def _near(node: tree.Node, choices: list[str]) -> str:
    return did_you_mean(node.value, choices) if isinstance(node, tree.Scalar) else ""


def _text(detail: ErrorDetails) -> str:
    """The text of our own validators; pydantic's only where no other was thought of."""
    reason = detail.get("ctx", {}).get("error")
    return str(reason) if isinstance(reason, ValueError) else detail["msg"]


def _unknown_key(loc: Loc) -> str:
    model = _model_at(loc[:-1])
    allowed = _keys(model)
    key = str(loc[-1])
    others = [tag for tag, other in _checks().items() if key in _keys(other)]
    if model in _checks().values() and others:
        belongs = f"a key of checks of type {a_list_of(others)} only"
        return f"{belongs}; allowed here: {', '.join(allowed)}"
    word = _OF_KEEPALIVED.get(model, {}).get(key)
    hint = f"; write `{word}`" if word else did_you_mean(key, allowed)
    return f"unknown key; allowed here: {', '.join(allowed)}{hint}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _without_tag(loc: Loc) -> Loc:
    """`loc` without the name of the union's member, which stands in no file: backends, NAME, check, TAG, …"""
    return loc[:3] + loc[4:] if loc[0:1] == ("backends",) and loc[2:3] == ("check",) and len(loc) > 3 else loc


@cache
def _checks() -> dict[str, type[BaseModel]]:
    """Type of check to model."""
    members: tuple[type[BaseModel], ...] = get_args(_bare(_model_at(("backends", "")).model_fields["check"].annotation))
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


def _tags() -> list[str]:
    return list(_checks())


def _model_at(loc: Loc) -> type[BaseModel]:
    """The model that `loc` leads to."""
    kind: Any = Config
    for step in loc:
        kind = _step(kind, step)
    model: type[BaseModel] = _bare(kind)
    return model


def _step(kind: Any, step: str | int) -> Any:
    kind = _bare(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return _checks()[str(step)]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    return next(field.annotation for name, field in kind.model_fields.items() if step == (field.alias or name))


def _bare(kind: Any) -> Any:
    """`kind` without Annotated and None."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
            rest = [member for member in get_args(kind) if member is not type(None)]
            kind = rest[0]
        else:
            return kind
