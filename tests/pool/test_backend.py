from __future__ import annotations

import pytest


def usable(backend):
    backend.refresh()
    return [server.name for server in backend.usable]


@pytest.fixture
def settle(backend, become):
    """A backend whose servers are all up."""

    def make(servers, **keys):
        made = backend(servers, **keys)
        for server in made.servers:
            become(server, "UP")
        made.refresh()
        return made

    return make


def test_usable_servers_take_turns_and_a_dead_one_gets_nothing(settle, become):
    web = settle({"s1": {}, "s2": {}, "s3": {}})
    assert [web.pick().name for _ in range(4)] == ["s1", "s2", "s3", "s1"]
    become(web.servers[1], "DOWN")
    web.refresh()
    assert [web.pick().name for _ in range(4)] == ["s3", "s1", "s3", "s1"]


@pytest.mark.parametrize(
    ("condition", "admin", "weight"),
    [("DOWN", "READY", 1), ("UP", "DRAIN", 1), ("UP", "MAINT", 1), ("UP", "READY", 0), ("UNKNOWN", "READY", 1)],
)
def test_who_gets_no_new_clients(settle, become, condition, admin, weight):
    web = settle({"s1": {}, "s2": {}})
    become(web.servers[0], condition, admin, weight=weight)
    assert usable(web) == ["s2"]


def test_the_first_backup_alone_serves_when_all_others_are_gone(settle, become):
    web = settle({"s1": {}, "b1": {"backup": True}, "b2": {"backup": True}})
    assert usable(web) == ["s1"]
    become(web.servers[0], "DOWN")
    assert usable(web) == ["b1"]
    become(web.servers[1], "DOWN")
    assert usable(web) == ["b2"]
    become(web.servers[0], "UP")
    assert usable(web) == ["s1"]


def test_with_allbackups_they_share(settle, become):
    web = settle({"s1": {}, "b1": {"backup": True}, "b2": {"backup": True}}, allbackups=True)
    assert usable(web) == ["s1"]
    become(web.servers[0], "UP", "MAINT")
    assert usable(web) == ["b1", "b2"]


def test_draining_all_servers_brings_the_backup_in(settle, become):
    web = settle({"s1": {}, "b1": {"backup": True}})
    become(web.servers[0], "UP", "DRAIN")
    assert usable(web) == ["b1"]


def test_no_server_no_choice(settle, become):
    web = settle({"s1": {}, "s2": {}})
    for server in web.servers:
        become(server, "DOWN")
    assert usable(web) == []
    assert web.pick() is None
    assert web.pick(avoid=web.servers[0]) is None


def test_before_the_first_checks_unchecked_servers_are_better_than_none(backend, become):
    web = backend({"s1": {}, "s2": {}, "s3": {}})
    assert usable(web) == ["s1", "s2", "s3"]
    become(web.servers[0], "DOWN")
    assert usable(web) == ["s2", "s3"]
    become(web.servers[2], "UP")
    assert usable(web) == ["s3"]


def test_an_unchecked_server_in_maintenance_or_without_weight_is_not_used(backend, become):
    web = backend({"s1": {}, "s2": {"weight": 0}, "s3": {}})
    become(web.servers[0], "UNKNOWN", "MAINT")
    assert usable(web) == ["s3"]
    become(web.servers[2], "UNKNOWN", "DRAIN")
    assert usable(web) == []


@pytest.mark.parametrize(("allbackups", "backups"), [(False, ["b1"]), (True, ["b1", "b2"])])
def test_unchecked_backups_wait_for_the_others_too(backend, become, allbackups, backups):
    web = backend({"s1": {}, "b1": {"backup": True}, "b2": {"backup": True}}, allbackups=allbackups)
    assert usable(web) == ["s1"]
    become(web.servers[0], "DOWN")
    assert usable(web) == backups


def test_a_new_weight_takes_effect(settle, become):
    web = settle({"s1": {}, "s2": {}})
    become(web.servers[0], "UP", weight=3)
    web.refresh()
    picks = [web.pick().name for _ in range(8)]
    assert (picks.count("s1"), picks.count("s2")) == (6, 2)


def test_take_and_release_count_server_and_backend(settle):
    web = settle({"s1": {}, "s2": {}})
    s1, s2 = web.servers
    web.take(s1)
    web.take(s1)
    web.take(s2)
    web.release(s1)
    web.take(s1)
    for server, scur, smax, stot in ((s1, 2, 2, 3), (s2, 1, 1, 1)):
        assert (server.counters.scur, server.counters.smax, server.counters.stot) == (scur, smax, stot)
    assert (web.counters.scur, web.counters.smax) == (3, 3)
    for server in (s1, s1, s2):
        web.release(server)
    assert (web.counters.scur, web.counters.smax) == (0, 3)
    # A backend's total is put together from its servers'.
    assert web.counters.stot == 0


def test_taking_puts_a_servers_row_once_on_the_list_to_be_copied(settle):
    web = settle({"s1": {}, "s2": {}})
    for _ in range(3):
        web.take(web.servers[0])
    assert web._touched == [web.servers[0].counters]


def test_an_algorithm_by_load_hears_of_every_change(settle):
    web = settle({"s1": {}, "s2": {}}, balance="leastconn")
    s1, s2 = web.servers
    web.take(s1)
    web.take(s1)
    web.take(s2)
    assert web.pick() is s2
    web.release(s1)
    web.release(s1)
    assert web.pick() is s1


def test_a_hashing_backend_says_what_it_wants_to_hash(settle):
    assert settle({"s1": {}}, balance="source").needs == "source"
    assert settle({"s1": {}}, balance="uri").needs == "uri"
    assert settle({"s1": {}}).needs == ""


def test_the_key_reaches_the_algorithm(settle):
    web = settle({f"s{i}": {} for i in range(10)}, balance="uri")
    assert len({web.pick(b"/a?%d" % i) for i in range(20)}) == 1
    assert len({web.pick(b"/%d" % i) for i in range(200)}) == 10


def test_a_failed_server_is_avoided(settle):
    web = settle({"s1": {}, "s2": {}})
    assert {web.pick(avoid=web.servers[0]).name for _ in range(4)} == {"s2"}
