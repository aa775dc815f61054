"""What fits together. The texts about what does not are in `mistakes.txt`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.config import read
from balancer.config.check import check
from balancer.config.model import Config
from balancer.errors import ConfigError

Complaints = Callable[..., list[str]]
Load = Callable[..., Config]

WEB = """\
frontends:
  web: {mode: http, bind: "10.0.0.1:80", default_backend: b}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}}
"""


@pytest.mark.parametrize(
    "text",
    [
        "vrrp: {instances: {A: {interface: eth0, virtual_router_id: 1, virtual_ipaddress: 10.0.0.1}}}",
        WEB + "  c: {balance: uri, cookie: {name: S}, servers: {a: {address: 'example.org:80', cookie: a}}}",
        WEB + "  c: {check: {type: http}, servers: {a: {address: /run/a.sock}}}",
        WEB + "vrrp:\n  instances:\n"
        "    A: {interface: eth0, virtual_router_id: 1, virtual_ipaddress: 10.0.0.1}\n"
        "    B: {interface: eth0, virtual_router_id: 1, virtual_ipaddress: 'fe80::1'}\n"
        "    C: {interface: eth1, virtual_router_id: 1, virtual_ipaddress: 10.0.0.2}\n"
        "  sync_groups: {G: [A, B], H: C}",
        WEB.replace("{servers: {a: {", "{cookie: {name: S}, servers: {c: {address: '10.0.1.2:80'}, a: {cookie: a, "),
        WEB + "stats: {bind: ':7000', uri: /, metrics: null, admin: true, users: {a: b}}",
    ],
    ids=["vrrp alone", "unused backend", "unix servers", "routers", "backup without cookie", "stats"],
)
def test_this_fits_together(config: Load, text: str) -> None:
    assert check(config(text)) == []


def test_broken_backends_are_not_missed() -> None:
    config = read.loads(WEB, node="this", environ={}).model_copy(update={"backends": {}})
    assert [finding.text for finding in check(config)] == [
        "there is no backend 'b', and no other; add it under `backends:`"
    ]
    assert check(config, broken=frozenset(["b"])) == []


def test_error_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "fits.html").write_bytes(b"x" * 65536)
    (tmp_path / "large.html").write_bytes(b"x" * 65537)
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "b.yaml"
    path.write_text(
        WEB + "defaults: {error_files: {400: fits.html, 500: large.html, 502: pipe, 503: ., 504: none.html}}", "utf-8"
    )
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError) as caught:
        read.load(path, node="this", environ={})
    assert [problem.text.removeprefix(str(tmp_path)) for problem in caught.value.problems] == [
        "/large.html has 65537 octets; 65536 are allowed",
        "/pipe is no regular file",
        " is no regular file",
        "/none.html cannot be read: No such file or directory",
    ]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_compression_needs_is_looked_for(config: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    text = WEB.replace("default_backend", "compression: {algorithms: [gzip, br, zstd]}, default_backend")
    read_before = config(text)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "brotli" else found(name))
    assert [finding.text for finding in check(read_before)] == [
        "br wants the Python module brotli: pip install 'pybalancerd[compression]', or python3-brotli"
    ]


def test_a_backend_may_be_empty_where_an_operator_has_emptied_it(config: Load) -> None:
    before = config(WEB)
    ((name, own),) = before.backends.items()
    emptied = before.model_copy(update={"backends": {name: own.model_copy(update={"servers": {}})}})
    assert [finding.text for finding in check(emptied)] == ["must not be empty"]
    assert check(emptied, emptied=(name,)) == []
