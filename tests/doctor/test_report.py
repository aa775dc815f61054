from __future__ import annotations

import json

from balancer.doctor.finding import ok, problem, unknown, warning
from balancer.doctor.report import as_json, lines, status

FINE = ("this host", [ok("host", "director1: Linux 6.1")])
WORSE = (
    "room",
    [warning("backlog", "somaxconn is 128", "global.backlog is 4096", "sysctl -w x=1", always=("echo x",))],
)
WORST = ("on the wire", [problem("vrrp", "two masters", "both answer", "# there"), unknown("vrrp", "nobody")])


def text(*areas, width: int = 100, is_coloured: bool = False, is_brief: bool = False) -> list[str]:
    return list(lines(areas, width=width, is_coloured=is_coloured, is_brief=is_brief))


def test_for_people() -> None:
    assert text(FINE, WORSE, WORST) == [
        "this host",
        "  ok          director1: Linux 6.1",
        "",
        "room",
        "  warning     somaxconn is 128",
        "              why: global.backlog is 4096",
        "              now:    sysctl -w x=1",
        "              always: echo x",
        "",
        "on the wire",
        "  problem     two masters",
        "              why: both answer",
        "              now:    # there",
        "  cannot tell nobody",
        "",
        "1 problem, 1 warning, 1 cannot tell, 1 ok",
    ]


def test_what_is_in_order_may_be_left_out() -> None:
    assert text(FINE, WORSE, is_brief=True)[0] == "room"
    assert text(FINE, is_brief=True) == ["1 ok"] and text() == ["nothing was looked at"]


def test_long_texts_are_broken_and_commands_are_not() -> None:
    long = ("x", [problem("x", "a word " * 30, "why " * 30, "command " * 30)])
    said = text(long, width=60)
    assert [line for line in said if len(line) > 60] == [f"{' ' * 14}now:    {'command ' * 30}"]


def test_colours() -> None:
    assert "\x1b[31;1mproblem    \x1b[0m two masters" in text(WORST, is_coloured=True)[1]


def test_the_exit_status() -> None:
    assert status([FINE], is_strict=True) == status([WORSE], is_strict=False) == 0
    assert status([WORSE], is_strict=True) == status([FINE, WORST], is_strict=False) == 1
    assert status([("x", [unknown("x", "y")])], is_strict=True) == 0


def test_for_programs() -> None:
    said = json.loads(as_json([FINE, WORSE], is_strict=False))
    assert said["ok"] is True
    assert said["findings"][1] == {
        "area": "room", "check": "backlog", "verdict": "warning", "what": "somaxconn is 128",
        "why": "global.backlog is 4096", "now": ["sysctl -w x=1"], "always": ["echo x"],
    }  # fmt: skip
    assert "\n" not in as_json([WORST], is_strict=True)
