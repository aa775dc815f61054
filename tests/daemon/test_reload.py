from __future__ import annotations

import json
import os
import select
import signal
import socket
import time

import pytest

from balancer.daemon import reload
from balancer.daemon.plan import Plan
from balancer.daemon.reload import Draft, Reading, differences, draft, look, refusal
from balancer.daemon.sockets import Sockets
from balancer.errors import ConfigError, Problem, StartError
from balancer.pool.overrides import Override
from tests.e2e.bed.process import free_port

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
    found = result(Reading(lambda: Draft(made, ["careful"], ["chosen"], "more", (1, 2)), nothing))
    assert isinstance(found, Draft)
    assert (found.plan.config, found.plan.seats) == (made.config, made.seats)
    assert found[1:4] == (["careful"], ["chosen"], "more")


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


# What operators have changed


def moved(server: str, address: str) -> Override:
    return Override(("b", server), "address", address, "127.0.0.1:9", "somebody", 1.0)


def test_servers_are_as_operators_want_them_and_what_is_written_stays(plan):
    made = draft(plan({}).config, kept=[moved("s", "127.0.0.1:7")])
    assert str(made.plan.seats["b", "s"].address) == "127.0.0.1:7"
    assert str(made.plan.written.backends["b"].servers["s"].address) == "127.0.0.1:9"
    assert made.plan.laid.keys() == {(("b", "s"), "address")}
    again = draft(made.plan.written, made.plan, [moved("s", "127.0.0.1:8")], is_strict=True)
    assert again.changes == "1 server changed (b/s)"


@pytest.mark.parametrize(
    ("address", "why"),
    [("[fe80::1%nowhere]:1", "there is no interface 'nowhere'"), ("nobody.invalid:1", "no address found for nobody")],
)
def test_a_server_that_cannot_be_is_refused_but_keeps_nobody_from_starting(plan, monkeypatch, address, why):
    monkeypatch.setattr("balancer.daemon.plan.first_addresses", lambda *_, **__: {})
    kept = [moved("s", address)]
    with pytest.raises(StartError, match=why):
        draft(plan({}).config, kept=kept, is_strict=True)
    made = draft(plan({}).config, kept=kept)
    assert any(why.removesuffix("y") in text or "no address found" in text for text in made.warnings)
    if "nowhere" in address:
        assert str(made.plan.seats["b", "s"].address) == "127.0.0.1:9" and not made.plan.laid


def test_what_does_not_fit_together_is_refused(plan):
    config = plan({"frontends": {"f": {"mode": "udp", "bind": "127.0.0.1:9999", "default_backend": "b"}}}).config
    added = Override(("b", "new"), "added", {"address": "/run/x"}, None, "somebody", 1.0)
    with pytest.raises(StartError, match=r"backends\.b\.servers\.new"):
        draft(config, kept=[added], is_strict=True)


# What would come


def test_all_of_it_is_said_object_by_object(plan):
    servers = {f"s{i}": f"127.0.0.1:{i + 9}" for i in range(50)}
    made = draft(plan({"backends": {"b": {"servers": {"s": "127.0.0.1:9"} | servers}}}).config, plan({}))
    assert made.lines[0] == "server b/s0 added: takes clients at once"
    assert made.lines[20:] == ("and 30 more changes",)
    assert len(json.loads(made.body)["changes"]) == 51


def test_a_look_finds_ports_that_are_taken_and_listens_nowhere(plan):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        front = {"mode": "tcp", "default_backend": "b"}
        before = plan({"frontends": {"f": front | {"bind": f"127.0.0.1:{free_port()}"}}})
        sockets = Sockets.open(before.config, 1)
        try:
            after = {"frontends": {"f": front | {"bind": f"127.0.0.1:{port}"}}}
            found = look(draft(plan(after).config, before), sockets)
            assert found.why.startswith(f"frontends.f.bind: cannot bind 127.0.0.1:{port}: Address already in use")
            assert json.loads(found.body)["changes"]
            assert look(draft(before.config, before), sockets).why == ""
        finally:
            sockets.close()


def test_a_look_finds_too_few_descriptors(plan, monkeypatch):
    monkeypatch.setattr(reload.privileges, "raise_open_files", lambda wanted: 10)
    made = draft(plan({}).config, plan({}))
    assert "10 open files are too few to serve anybody" in look(made, Sockets()).why


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
        ({}, {"global": {"state_directory": "/a"}},
         "global.state_directory: None is to become /a, which needs a restart"),
        ({}, {"vrrp": VRRP}, ""),
        ({"vrrp": VRRP}, {}, ""),
        ({"frontends": {"f": FRONT | {"bind": {"address": "/run/x", "mode": "0600"}}}},
         {"frontends": {"f": FRONT | {"bind": {"address": "/run/x", "mode": "0660"}}}},
         "/run/x: another mode of a Unix socket needs a restart"),
    ],
    ids=["same", "most of global", "user", "group", "vrrp", "directory", "vrrp comes", "vrrp goes", "mode"],
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


def test_what_has_changed_of_virtual_routers_is_said(plan):
    own = VRRP["instances"]
    (name,) = own
    lower = {"instances": {name: own[name] | {"priority": 90}}, "script_user": "nobody"}
    said = f"1 virtual router changed ({name}); changed: vrrp"
    assert changed(plan, {"vrrp": VRRP}, {"vrrp": lower}) == said
    assert changed(plan, {"vrrp": VRRP}, {}) == f"1 virtual router removed ({name})"
    more = {"instances": own | {"B": own[name] | {"virtual_router_id": 250}}}
    assert changed(plan, {"vrrp": VRRP}, {"vrrp": more}) == "1 virtual router added (B)"


def test_the_user_of_programs_is_looked_up_by_who_has_time(plan):
    config = plan({"vrrp": VRRP | {"script_user": "nosuchuser"}}).config
    with pytest.raises(StartError, match=r"vrrp\.script_user: there is no user 'nosuchuser'"):
        draft(config)
    assert draft(plan({"vrrp": VRRP}).config).scripts is None
    # Who has no programs needs nobody.
    assert draft(plan({"vrrp": {"script_user": "nosuchuser"}}).config).scripts is None


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
