from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from balancer.config import read
from balancer.config.model import Config, Server

# A key that wants a file stands behind a #, as the file is the operator's.
COMMENTED_KEY = re.compile(
    r"^( *)# ((?:- )?(?:\d{3}|auth|ca_file|crt|file|key|mcast_src_ip|realm|ssl_min_ver|tls)):", re.MULTILINE
)


@pytest.mark.parametrize("name", ["minimal.yaml", "cluster.yaml", "full.yaml"])
@pytest.mark.parametrize("node", ["active", "standby"])
def test_the_examples_load(examples: Path, name: str, node: str) -> None:
    config = read.load(examples / name, node=node, environ={})
    assert config.frontends


def test_the_cluster_is_read_as_it_is_meant(examples: Path) -> None:
    active = read.load(examples / "cluster.yaml", node="active", environ={})
    standby = read.load(examples / "cluster.yaml", node="standby", environ={})
    assert active.global_.runtime_socket is not None
    assert (active.global_.runtime_socket.mode, active.global_.runtime_socket.level) == (0o660, "admin")
    assert str(active.frontends["dns"].bind[0].address) == "192.168.1.200:53"
    kernel_web = active.backends["kernel-web"]
    assert list(kernel_web.servers) == ["cluster2", "cluster3", "cluster4"]
    assert (kernel_web.check.type, getattr(kernel_web.check, "interval", None)) == ("tcp", 3.0)
    assert active.backends["http-servers"].servers["cluster3"].cookie == "cluster3"
    assert active.gateway.masquerade[0].source == "10.0.100.0/24"
    for config, description, state, priority in (
        (active, "Nodo Master", "MASTER", 150),
        (standby, "Nodo Standby", "BACKUP", 100),
    ):
        assert config.stats is not None
        assert config.stats.description == description
        assert {(router.state, router.priority) for router in config.vrrp.instances.values()} == {(state, priority)}
    assert active.vrrp.instances["VI_E"].virtual_ipaddress == standby.vrrp.instances["VI_E"].virtual_ipaddress


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of `kind` may be made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) in (Annotated, Union, types.UnionType, dict, tuple):
        for argument in get_args(kind):
            yield from models(argument)


def keys(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[str, str]]:
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        yield model.__name__, field.alias or name
        for inner in models(field.annotation):
            yield from keys(inner, seen)


def written(part: Any, kind: Any) -> Iterator[tuple[str, str]]:
    """The keys of the model that a file gives, by model."""
    if isinstance(part, list):
        for item in part:
            yield from written(item, get_args(kind)[0] if get_origin(kind) is tuple else kind)
    if not isinstance(part, dict):
        return
    while get_origin(kind) in (Annotated, tuple, Union, types.UnionType) and list(models(kind)) == []:
        # A dictionary that may be left out, most of all.
        kind = get_args(kind)[0]
    while get_origin(kind) in (Annotated, tuple):
        kind = get_args(kind)[0]
    if get_origin(kind) is dict:
        for inner in part.values():
            yield from written(inner, get_args(kind)[1])
        return
    candidates = list(models(kind))
    if len(candidates) > 1:
        candidates = [model for model in candidates if part["type"] in get_args(model.model_fields["type"].annotation)]
    (model,) = candidates
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key in part:
            yield model.__name__, key
            yield from written(part[key], field.annotation)


def as_written(value: Any) -> Any:
    return {str(k): as_written(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_the_full_example_names_every_key(examples: Path) -> None:
    text = (examples / "full.yaml").read_text(encoding="utf-8")
    part = as_written(yaml.safe_load(COMMENTED_KEY.sub(r"\1\2:", text)))
    # Checks share most keys; what one of them shows need not be shown for all.
    shared = {"interval", "fast_interval", "down_interval", "timeout", "rise", "fall", "port", "send_proxy"}
    others = ("TcpCheck", "DnsCheck")
    wanted = {(model, key) for model, key in keys(Config, set()) if model not in others or key not in shared}
    # A template has the keys of a server, and two more.
    wanted -= {("ServerTemplate", key) for key in Server.model_fields}
    assert wanted - set(written(part, Config)) == {("NoCheck", "type")}


def test_every_key_of_the_full_example_has_a_comment(examples: Path) -> None:
    lines = (examples / "full.yaml").read_text(encoding="utf-8").splitlines()
    matches = [re.match(r" *(?:- |# |# - )?([a-z0-9_]+):.*#", line) for line in lines]
    assert {key for _, key in keys(Config, set())} - {match[1] for match in matches if match} == set()
