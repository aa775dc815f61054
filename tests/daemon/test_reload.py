from __future__ import annotations

import os
import select
import signal
import time

import pytest

from balancer.daemon import reload
from balancer.daemon.plan import Plan
from balancer.daemon.reload import Draft, Reading, differences, draft, refusal
from balancer.errors import ConfigError, Problem, StartError

FRONT = {"mode": "tcp", "bind": "127.0.0.1:1", "default_backend": "b"}
VRRP = {"instances": {"VI": {"interface": "lo", "virtual_router_id": 1, "virtual_ipaddress": "192.0.2.200"}}}


def result(reading: Reading) -> Draft | str:
    """What comes of it; the process is gone afterwards."""
    deadline = time.monotonic() + 20
    while (found := reading.turn()) is None:
        assert time.monotonic() < deadline
        select.select([reading], [], [], 1)
    reading.close()
    os.waitpid(reading.pid, 0)
    return found


def nothing() -> None:
    pass


# Reading


def test_what_was_read_comes_back_whole(plan):
    made = plan({"backends": {"b": {"servers": {f"s{i}": f"127.0.0.1:{i + 1}" for i in range(2000)}}}})
    found = result(Reading(lambda: Draft(made, ["careful"], ["chosen"], "more"), nothing))
    assert isinstance(found, Draft)
    assert (found.plan.config, found.plan.seats) == (made.config, made.seats)
    assert found[1:] == (["careful"], ["chosen"], "more")


def test_what_is_wrong_comes_back_as_text():
    def fail() -> Draft:
        raise ConfigError([Problem("x.yaml", 3, 1, "frontends", "is wrong"), Problem("x.yaml", 4, 1, "", "and that")])

    assert result(Reading(fail, nothing)) == "x.yaml:3:1: frontends: is wrong\nx.yaml:4:1: and that"


def test_a_process_that_dies_is_said():
    def die() -> Draft:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    assert result(Reading(die, nothing)) == "the process that was to read it has died"


def test_a_defect_of_ours_is_said_and_is_not_the_supervisors_end():
    def fail() -> Draft:
        raise KeyError("x")

    found = result(Reading(fail, nothing))
    assert isinstance(found, str) and found.startswith("KeyError: 'x'")


def test_a_file_that_takes_for_ever_is_given_up(monkeypatch):
    """A file system that hangs, say."""
    monkeypatch.setattr(reload, "_PATIENCE", 0.2)
    reading = Reading(lambda: time.sleep(60) or Draft(None, [], []), nothing)
    assert reading.turn() is None
    time.sleep(max(0.0, reading.deadline - time.monotonic()))
    assert reading.turn() == "it could not be read within 0 s"
    os.kill(reading.pid, signal.SIGKILL)
    os.waitpid(reading.pid, 0)
    reading.close()


def test_the_process_is_made_an_ordinary_one_first():
    def complain() -> None:
        raise StartError("not me")

    assert result(Reading(lambda: Draft(None, [], []), complain)) == "not me"


def test_a_name_that_does_not_resolve_now_keeps_its_address(plan, monkeypatch):
    servers = {"s": "there.example:80", "t": "never.example:80"}
    config = {"global": {"workers": 1}, "backends": {"b": {"servers": servers}}}
    monkeypatch.setattr("balancer.daemon.plan.first_addresses", lambda *_, **__: {"there.example": "192.0.2.7"})
    first = plan(config)
    monkeypatch.setattr("balancer.daemon.plan.first_addresses", lambda *_, **__: {})
    again = draft(first.config, first)
    assert str(again.plan.seats["b", "s"].address) == "192.0.2.7:80"
    assert "no address found for b/t: not used until the next start or reload" in again.warnings
    assert again.changes == "nothing has changed, all workers are new"


# What needs a restart


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({}, {}, ""),
        ({}, {"global": {"workers": 3, "hard_stop_after": "1s"}}, ""),
        ({}, {"global": {"user": "nobody"}}, "global.user: None is to become nobody, which needs a restart"),
        ({"global": {"group": "a"}}, {"global": {"group": "b"}},
         "global.group: a is to become b, which needs a restart"),
        ({"vrrp": VRRP}, {"vrrp": VRRP}, ""),
        ({}, {"vrrp": VRRP}, "vrrp: what is changed there needs a restart"),
        ({"vrrp": VRRP}, {}, "vrrp: what is changed there needs a restart"),
        ({"frontends": {"f": FRONT | {"bind": {"address": "/run/x", "mode": "0600"}}}},
         {"frontends": {"f": FRONT | {"bind": {"address": "/run/x", "mode": "0660"}}}},
         "/run/x: another mode of a Unix socket needs a restart"),
    ],
    ids=["same", "most of global", "user", "group", "vrrp", "vrrp comes", "vrrp goes", "mode"],
)  # fmt: skip
def test_what_cannot_change_while_it_runs(plan, before, after, why):
    assert refusal(plan(before).config, plan(after).config) == why


def test_what_cannot_follow_is_an_error(plan):
    with pytest.raises(StartError, match="needs a restart"):
        draft(plan({"global": {"user": "nobody"}}).config, plan({}))


# What has changed


def changed(plan, before: dict, after: dict) -> str:
    return differences(plan(before), plan(after))


def test_what_has_changed_is_said_by_kind(plan):
    before = {
        "frontends": {"f": dict(FRONT), "gone": FRONT | {"bind": "127.0.0.1:2"}},
        "backends": {"b": {"servers": {"s": "127.0.0.1:9", "t": "127.0.0.1:10"}}},
    }
    after = {
        "global": {"workers": 5, "backlog": 77},
        "frontends": {"f": FRONT | {"log": False}, "new": FRONT | {"bind": "127.0.0.1:3"}},
        "backends": {
            "b": {"balance": "leastconn", "servers": {"s": "127.0.0.1:8", "u": "127.0.0.1:10"}},
            "c": {"servers": {"s": "127.0.0.1:9"}},
        },
    }
    assert changed(plan, before, after) == (
        "1 frontend added (new); 1 frontend removed (gone); 1 frontend changed (f); "
        "1 backend added (c); 1 backend changed (b); "
        "2 servers added (b/u, c/s); 1 server removed (b/t); 1 server changed (b/s); "
        "5 workers instead of 1; changed: global"
    )


def test_many_are_a_number(plan):
    servers = {f"s{i}": f"127.0.0.1:{i + 9}" for i in range(1000)}
    assert changed(plan, {}, {"backends": {"b": {"servers": {"s": "127.0.0.1:9"} | servers}}}) == (
        "1000 servers added (b/s0, b/s1, b/s2, b/s3, b/s4 and 995 more)"
    )


def test_a_name_that_has_moved_is_a_change_of_its_server(plan, monkeypatch):
    plans: list[Plan] = []
    for address in ("192.0.2.7", "192.0.2.8"):
        monkeypatch.setattr("balancer.daemon.plan.first_addresses", lambda *_, at=address, **__: {"there.example": at})
        plans.append(plan({"backends": {"b": {"servers": {"s": "there.example:80"}}}}))
    assert differences(*plans) == "1 server changed (b/s)"


def test_nothing_is_said_as_well(plan):
    assert changed(plan, {}, {}) == "nothing has changed, all workers are new"
