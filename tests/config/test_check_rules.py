"""What fits together. The texts about what does not are in `mistakes.txt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def test_a_file_of_users_is_looked_at(complaints: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ann:secret\n")
    text = CHAIN % "  a0: {path: /}"
    text = text.replace("use_backend:", f"http_request: {{auth: {{file: {file}}}}}, use_backend:")
    (told,) = complaints(text)
    why = "is not hashed by bcrypt, SHA-crypt ($5$, $6$) or apr1; make it with htpasswd -B"
    assert told.endswith(f"frontends.web.http_request.auth.file: {file}: line 1: the password {why}")
