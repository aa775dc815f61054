"""What fits together. The texts about what does not are in `mistakes.txt`."""

from __future__ import annotations

from collections.abc import Callable

from balancer.config.model import Config

CHAIN = """
acls:
%s
frontends:
  web: {mode: http, bind: ":80", use_backend: {backend: b, if: a0}, default_backend: b}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}}
"""


def chain(length: int) -> str:
    links = "".join(f"  a{i}: a{i + 1}\n" for i in range(length - 1)) + f"  a{length - 1}: {{path: /}}"
    return CHAIN % links


def test_acls_may_lead_to_acls(config: Callable[..., Config]) -> None:
    assert len(config(chain(32)).acls) == 32


def test_but_not_without_end(complaints: Callable[..., list[str]]) -> None:
    assert complaints(chain(33)) == ["3:3: acls.a0: leads through more than 32 acls"]
    assert complaints(chain(5000)) == ["4970:3: acls.a4967: leads through more than 32 acls"]


def test_the_last_rule_may_be_for_all(config: Callable[..., Config]) -> None:
    text = CHAIN.replace("default_backend: b", "log: true").replace("if: a0", "if: null")
    assert config(text % "  a0: {path: /}").frontends["web"].default_backend == ""
