"""The configuration of each host that a file is for: overrides merged, validated, checked, complaints placed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from balancer.config import check, tree
from balancer.config.explain import explain
from balancer.config.model import Config, Frontend, Stats
from balancer.config.secret import key_path
from balancer.config.tree import Finding, Loc
from balancer.errors import Problem

__all__ = ["configure"]

# Values of all hosts' configurations together: a hundred hosts with thousands of servers each.
_MOST_VALUES = 1_000_000

_SECTIONS = ("frontends", "backends")
# What a frontend cannot do without.
_OUTLINE = {"mode": "tcp", "bind": "127.0.0.1:1", "default_backend": "-"}

_Valid = dict[int, tuple[tree.Node, BaseModel]]
"""Frontends and backends found valid: id of the node to node (kept, so that the id stays its own) and model."""


def configure(root: tree.Mapping, *, file: str, node: str) -> tuple[Config | None, list[Problem]]:
    """The configuration of the host `node`, and all that is wrong with it or with any other host's."""
    directory = str(Path(file).parent.absolute())
    report = _Report(file)
    overrides = _overrides(root, report)
    host = _Host(root, node, overrides.get(node))
    valid: _Valid = {}
    config, findings = host.validate(directory, valid)
    for finding in findings:
        report.add(finding, host)
    others = sorted(overrides.keys() - {node})
    affordable = _MOST_VALUES // root.size
    if len(others) > affordable:
        report.add(Finding(("nodes",), f"are {len(overrides)}, too many for a file of this size", "key"), host)
    for name in others[:affordable]:
        other = _Host(root, name, overrides[name])
        for finding in other.validate(directory, valid)[1]:
            report.add(finding, other, remark=f" (on node {key_path([name])})")
    return config, report.problems


def _overrides(root: tree.Mapping, report: _Report) -> dict[str, tree.Mapping]:
    """What stands under `nodes`, as far as it can be merged."""
    overrides = {}
    nodes = root.entries.get("nodes")
    if nodes is not None and isinstance(nodes.node, tree.Mapping):
        whole = _Host(root, "", None)
        for name, entry in nodes.node.entries.items():
            if isinstance(entry.node, tree.Mapping):
                overrides[name] = entry.node
                if "nodes" in entry.node.entries:
                    report.add(Finding(("nodes", name, "nodes"), "a node's overrides hold no nodes", "key"), whole)
            elif not (isinstance(entry.node, tree.Scalar) and entry.node.value is tree.BROKEN):
                text = "wants a mapping with what is different on this host"
                report.add(Finding(("nodes", name), text), whole)
    return overrides


class _Host:
    """One host's part of the file: everything, with what stands under its name merged over it."""

    def __init__(self, root: tree.Mapping, name: str, over: tree.Mapping | None) -> None:
        self.name = name
        self.over = over
        self.root = root if over is None else tree.overlay(root, over)
        self._nodes = root.entries.get("nodes")

    def validate(self, directory: str, valid: _Valid) -> tuple[Config | None, list[Finding]]:
        """Its configuration if it can be used, and all that is wrong with it.

        Hosts share most of the file: `valid` holds what need not be validated once more.
        """
        data = self._data(valid)
        try:
            config = Config.model_validate(data, context={"directory": directory})
        except ValidationError as error:
            findings, wrong = explain(error, self.root)
        else:
            self._remember(config, valid)
            findings = check.check(config)
            return (None if findings else config), findings
        # Someone who mistyped a key wants to hear of the clashing bind in the same run.
        try:
            sound = Config.model_validate(_without(data, wrong), context={"directory": directory, "part": True})
        except ValidationError:
            return None, findings
        self._remember(sound, valid)
        whole = sound.model_copy(update=_outlines(sound, data, wrong, directory))
        broken = frozenset(self._named("backends")) - sound.backends.keys()
        acls = frozenset(self._named("acls")) - sound.acls.keys()
        resolvers = frozenset(self._named("resolvers")) - sound.resolvers.keys()
        found = check.check(sound, whole=whole, broken=broken, broken_acls=acls, broken_resolvers=resolvers)
        return None, findings + found

    def _data(self, valid: _Valid) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for section, entry in self.root.entries.items():
            if section in _SECTIONS and isinstance(entry.node, tree.Mapping):
                named = {name: inner.node for name, inner in entry.node.entries.items()}
                data[section] = {n: valid[id(node)][1] if id(node) in valid else node.data for n, node in named.items()}
            elif section != "nodes":
                data[section] = entry.node.data
        if self._nodes is not None:
            nodes = self._nodes.node
            data["nodes"] = {name: {} for name in nodes.entries} if isinstance(nodes, tree.Mapping) else nodes.data
        return data

    def _remember(self, config: Config, valid: _Valid) -> None:
        for section in _SECTIONS:
            for name, model in getattr(config, section).items():
                node = self._named(section)[name].node
                valid[id(node)] = node, model

    def _named(self, section: str) -> dict[str, tree.Entry]:
        entry = self.root.entries.get(section)
        return entry.node.entries if entry is not None and isinstance(entry.node, tree.Mapping) else {}

    def wrote(self, loc: Loc, entry: tree.Entry | None) -> bool:
        """Whether `entry`, found at `loc`, comes from the overrides."""
        return self.over is not None and entry is not None and tree.find(self.over, loc)[1] is entry


def _without(data: dict[str, Any], wrong: list[Loc]) -> dict[str, Any]:
    """The parts of `data` in which nothing is wrong: whole acls, frontends, backends, virtual routers and sections."""
    sound = {key: dict(part) if isinstance(part, dict) else part for key, part in data.items()}
    for loc in wrong:
        match loc:
            case ("acls" | "frontends" | "backends" as section, str(name), *_) if isinstance(sound.get(section), dict):
                sound[section].pop(name, None)
            case ("vrrp", "instances" | "sync_groups" as part, str(name), *_) if _is_named(sound.get("vrrp"), part):
                sound["vrrp"] = _without_named(sound["vrrp"], part, name)
            case (section, *_):
                sound.pop(str(section), None)
    return sound


def _is_named(vrrp: Any, part: str) -> bool:
    return isinstance(vrrp, dict) and isinstance(vrrp.get(part), dict)


def _without_named(vrrp: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    """`vrrp` without an instance or a sync group; no group is complained of for the instance."""
    left = {**vrrp, part: {other: value for other, value in vrrp[part].items() if other != name}}
    if part == "instances" and _is_named(vrrp, "sync_groups"):
        groups = {group: _without_member(members, name) for group, members in vrrp["sync_groups"].items()}
        left["sync_groups"] = {group: members for group, members in groups.items() if members}
    return left


def _without_member(group: Any, name: str) -> Any:
    """A sync group as it was written, without an instance; None when nobody is left."""
    match group:
        case {"group": members}:
            left = _without_member(members, name)
            return {**group, "group": left} if left else None
        case tuple():
            return tuple(member for member in group if member != name)
        case _:
            return None if group == name else group


def _outlines(sound: Config, data: dict[str, Any], wrong: list[Loc], directory: str) -> dict[str, Any]:
    """All frontends and the stats page. Of those that are not sound: where they listen and whom they serve, as far
    as that is right."""
    context = {"directory": directory}
    spoiled = {loc[:3] if loc[:1] == ("frontends",) else loc[:2] for loc in wrong}
    frontends: dict[str, Frontend] = {}
    written = data.get("frontends")
    for name, raw in written.items() if isinstance(written, dict) else ():
        if name in sound.frontends:
            frontends[name] = sound.frontends[name]
        elif isinstance(raw, dict):
            right = {key: raw[key] for key in _OUTLINE if key in raw and ("frontends", name, key) not in spoiled}
            outline = Frontend.model_validate(_OUTLINE | right, context=context)
            listens = "mode" in right and "bind" in right
            known = {"bind": outline.bind if listens else (), "default_backend": right.get("default_backend", "")}
            frontends[name] = outline.model_copy(update=known)
    if "backends" in data and not isinstance(data["backends"], dict):
        # Nobody's backend is there then, and one complaint says why.
        frontends = {name: frontend.model_copy(update={"default_backend": ""}) for name, frontend in frontends.items()}
    stats, page = sound.stats, data.get("stats")
    if stats is None and isinstance(page, dict) and "bind" in page and ("stats", "bind") not in spoiled:
        stats = Stats.model_validate({"bind": page["bind"]}, context=context)
    return {"frontends": frontends, "stats": stats}


class _Report:
    """Findings made problems: each with its place, and once, however many hosts share it."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._seen: set[tuple[int, int, str, str | int]] = set()

    def add(self, finding: Finding, host: _Host, *, remark: str = "") -> None:
        walked, entry, node = tree.find(host.root, finding.loc)
        is_own = host.wrote(walked, entry)
        at_key = finding.at != "value" and entry is not None and isinstance(walked[-1], str)
        line, column = (entry.line, entry.column) if at_key and entry is not None else (node.line, node.column)
        path = finding.loc if finding.at == "missing" else walked
        # What an alias repeats is told of once; but two keys may be missing at one place.
        sign = (line, column, finding.text, path[-1] if finding.at == "missing" else "")
        if sign in self._seen:
            return
        self._seen.add(sign)
        if is_own:
            path = ("nodes", host.name, *path)
        text = finding.text + ("" if is_own else remark)
        self.problems.append(Problem(self._file, line, column, key_path(path), text))
