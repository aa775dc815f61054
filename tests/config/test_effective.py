from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.config import effective
from balancer.config.logs import Log
from balancer.config.model import Config

Load = Callable[..., Config]

WEB = """
frontends:
  web: {mode: http, bind: "10.0.0.1:80", default_backend: b%s}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}%s}
"""


def waits(**other: object) -> effective.Waits:
    values: dict[str, object] = {
        "connect": 5.0, "queue": 5.0, "client": 30.0, "server": 30.0, "http_request": 10.0, "http_keep_alive": 10.0,
        "tunnel": 3600.0, "tunnel_given": False, "client_fin": 30.0, "server_fin": 30.0,
    }  # fmt: skip
    return effective.Waits(**values | other)  # type: ignore[arg-type]


def test_where_nothing_is_said_the_built_in_values_hold(config: Load) -> None:
    plain = config(WEB % ("", ""))
    assert effective.frontend(plain, "web") == effective.FrontendSettings(
        timeouts=waits(),
        maxconn=None,
        max_body_size=None,
        dontlognull=True,
        records=effective.Records((Log(),)),
        flow_log="none",
        tcp_keepalive=None,
        error_files={},
    )
    assert effective.backend(plain, "b") == effective.BackendSettings(
        timeouts=waits(), retries=3, redispatch=True, tcp_keepalive=None, error_files={}
    )


def test_defaults_come_before_built_in_values_and_own_words_before_both(config: Load) -> None:
    read_ = config(
        WEB
        % (
            ", maxconn: 7, dontlognull: true, flow_log: both, timeout: {client: 1m}",
            ", retries: 0, redispatch: true, timeout: {server: 2m}",
        )
        + "defaults: {maxconn: 9, dontlognull: false, flow_log: end, retries: 5, redispatch: false,"
        " timeout: {client: 2s, server: 3s, connect: 1s, tunnel: 4s}}"
    )
    front, back = effective.frontend(read_, "web"), effective.backend(read_, "b")
    assert (front.maxconn, front.dontlognull, back.retries, back.redispatch) == (7, True, 0, True)
    assert front.flow_log == "both"
    assert front.timeouts == waits(
        client=60.0, server=3.0, connect=1.0, queue=1.0, tunnel=4.0, tunnel_given=True, client_fin=60.0, server_fin=3.0
    )
    assert back.timeouts == waits(
        client=2.0, server=120.0, connect=1.0, queue=1.0, tunnel=4.0, tunnel_given=True, client_fin=2.0,
        server_fin=120.0, http_request=2.0, http_keep_alive=2.0,
    )  # fmt: skip


def test_a_short_client_timeout_shortens_what_falls_back_on_it(config: Load) -> None:
    short = effective.frontend(config(WEB % (", timeout: {client: 3s}", "")), "web").timeouts
    assert (short.http_request, short.http_keep_alive, short.client_fin) == (3.0, 3.0, 3.0)
    given = effective.frontend(config(WEB % (", timeout: {client: 3s, http_request: 20s}", "")), "web").timeouts
    assert (given.http_request, given.http_keep_alive) == (20.0, 3.0)


@pytest.mark.parametrize(
    ("defaults", "own", "holds"),
    [
        ("true", "", (60.0, 10.0, 5)),
        ("true", ", tcp_keepalive: false", None),
        ("true", ", tcp_keepalive: {idle: 5s}", (5.0, 10.0, 5)),
        ("{count: 2}", ", tcp_keepalive: true", (60.0, 10.0, 5)),
        ("false", ", tcp_keepalive: true", (60.0, 10.0, 5)),
        ("false", "", None),
    ],
)
def test_keepalive_may_be_switched_off_where_the_defaults_have_it_on(
    config: Load, defaults: str, own: str, holds: tuple[float, float, int] | None
) -> None:
    read_ = config(WEB % (own, own) + f"defaults: {{tcp_keepalive: {defaults}}}")
    for settings in (effective.frontend(read_, "web"), effective.backend(read_, "b")):
        keepalive = settings.tcp_keepalive
        assert (keepalive and (keepalive.idle, keepalive.interval, keepalive.count)) == holds


def test_error_files_are_merged_status_by_status(config: Load, tmp_path: Path) -> None:
    for name in ("default", "web", "b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    text = WEB % (f", error_files: {{503: {tmp_path}/web}}", f", error_files: {{504: {tmp_path}/b}}")
    read_ = config(text + f"defaults: {{error_files: {{502: {tmp_path}/default, 503: {tmp_path}/default}}}}")
    assert effective.frontend(read_, "web").error_files == {502: f"{tmp_path}/default", 503: f"{tmp_path}/web"}
    assert effective.backend(read_, "b").error_files == {
        502: f"{tmp_path}/default", 503: f"{tmp_path}/default", 504: f"{tmp_path}/b",
    }  # fmt: skip


def test_a_name_that_is_none(config: Load) -> None:
    with pytest.raises(KeyError):
        effective.frontend(config(WEB % ("", "")), "b")


def test_fullconn_is_a_tenth_of_what_leads_there() -> None:
    def front(*names: str, **more: object) -> dict[str, object]:
        rules = tuple({"backend": name, "if": {"path": "/x"}} for name in names[1:])
        return {"mode": "http", "bind": "127.0.0.1:1", "default_backend": names[0], "use_backend": rules} | more

    servers = {"s": {"address": "127.0.0.1:9"}}
    config = Config.model_validate(
        {
            "global": {"maxconn": 1000},
            "frontends": {"f": front("a", "b"), "g": front("b", maxconn=500), "h": front("given")},
            "backends": {name: {"servers": servers} for name in "abc"} | {"given": {"servers": servers, "fullconn": 7}},
        },
        strict=False,
    )
    assert effective.fullconn(config) == {"a": 100, "b": 150, "c": 1, "given": 7}
