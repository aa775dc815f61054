from __future__ import annotations

from dataclasses import replace

import pytest

from balancer.observe.routers import chosen, is_stale, master, other, sum_lines, table, why
from balancer.pool.routers import PeerFacts, Standing, Term, Trouble
from tests.observe.conftest import NOW, router, two_routers


def test_why_is_a_sum_and_what_is_behind_it() -> None:
    standing = two_routers()
    assert why(standing, standing.routers, NOW) == (
        "VI_E  MASTER since 3m12s: no master is heard\n"
        "         150  priority\n"
        "           0  interface eth1: is up (weight -5)\n"
        "         -20  backend web: 2 of 3 servers up here, 3 of 3 at 10.9.0.3 (weight -60)\n"
        "        ----\n"
        "         130  effective priority\n"
        "      others  standby BACKUP; 192.0.2.3, priority 100, heard 3m12s ago\n"
        "  sync group  VG1\n"
        "     trouble  192.0.2.9 is master too (3 times, first 5m ago, last 2s ago)\n"
        "VI_I  FAULT since 5s: eth1 is down\n"
        "         150  priority\n"
        "       FAULT  interface eth1: is down\n"
        "        ----\n"
        "         150  effective priority\n"
        "      master  192.0.2.3, priority 100, every 1s\n"
        "      others  none was heard\n"
        "    released  by hand for another 30m\n"
        "      script  ping: bad, exit status 1\n"
        "      script  new: not known yet, not run yet\n"
        "        peer  10.9.0.3:694 (standby): alive, heard 0s ago, VI_E BACKUP, web 3 of 3 up\n"
        "        peer  10.9.0.4:694: was never heard\n"
    )


def test_the_table_has_a_line_each() -> None:
    assert table(two_routers(), NOW) == (
        "# instance  state             since  priority   master     group  addresses\n"
        "VI_E        MASTER            3m12s  130 (150)  itself     VG1    192.0.2.200/32, 192.0.2.202/24\n"
        "VI_I        FAULT (released)  5s     150        192.0.2.3  -      2001:db8::c8/128\n"
        "VI_E: 192.0.2.9 is master too (3 times, first 5m ago, last 2s ago)\n"
        "script ping: bad, exit status 1\n"
        "script new: not known yet, not run yet\n"
        "peer 10.9.0.3:694 (standby): alive, heard 0s ago, VI_E BACKUP, web 3 of 3 up\n"
        "peer 10.9.0.4:694: was never heard\n"
    )


def test_a_name_is_that_of_an_instance_or_of_a_group() -> None:
    standing = two_routers()
    outer, inner = standing.routers
    assert chosen(standing, None) == (outer, inner)
    assert chosen(standing, "VI_I") == (inner,)
    assert chosen(standing, "VG1") == (outer,)
    assert chosen(standing, "VI") == ()


def test_a_bonus_has_its_sign_and_the_first_term_has_none() -> None:
    lines = sum_lines(router(terms=(Term("priority", 100, ""), Term("script s", 5, "exit status 0 (weight +5)"))))
    assert lines[:2] == ["         100  priority", "          +5  script s: exit status 0 (weight +5)"]


def test_a_sum_that_was_too_long_says_so() -> None:
    assert sum_lines(router(terms=())) == [
        "         150  priority",
        "           …  what is added was too long to be told",
        "        ----",
        "         130  effective priority",
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [({}, "itself"), ({"state": "BACKUP"}, "none is heard"),
     ({"state": "BACKUP", "master": "192.0.2.3", "master_priority": 150, "interval": 0.1},
      "192.0.2.3, priority 150, every 0.1s")],
)  # fmt: skip
def test_which_master_is_followed(more, says: str) -> None:
    assert master(router(**more)) == says


def test_no_line_of_anothers_making_breaks_out_of_its_own() -> None:
    evil = "x\n\n> \x1b[2Jy"
    standing = Standing(
        at=NOW,
        routers=(router(why=evil, troubles=(Trouble(evil, NOW, NOW, 1),), terms=(Term(evil, 1, evil),)),),
        peers=(PeerFacts(address="a", is_alive=True, node=evil, last=NOW, states={evil: evil}),),
    )
    for text in (table(standing, NOW), why(standing, standing.routers, NOW)):
        assert "\x1b" not in text
        assert all(line.strip() for line in text.splitlines())
        assert not any(line.startswith(">") for line in text.splitlines())


def test_a_clock_that_was_set_back_shows_nothing_negative() -> None:
    standing = replace(two_routers(), routers=(router(since=NOW + 60),))
    assert "since 0s" in why(standing, standing.routers, NOW)


def test_what_may_be_true_no_more_is_shown_as_such() -> None:
    standing, said = two_routers(), "The supervisor has been silent for 12s; this is what it said last:"
    for text in (table(standing, NOW + 12), why(standing, standing.routers, NOW + 12)):
        first, *rest = text.splitlines()
        assert first == said
        assert any("MASTER" in line for line in rest)
    for text in (table(standing, NOW + 5), why(standing, standing.routers, NOW + 5)):
        assert "silent for" not in text


def test_whoever_has_stopped_has_said_its_last() -> None:
    stopped = router(state="STOPPED")
    assert not is_stale(Standing(at=NOW, routers=(stopped, stopped)), NOW + 100)
    assert is_stale(Standing(at=NOW, routers=(stopped, router())), NOW + 100)
    assert not is_stale(Standing(at=NOW, routers=(router(),)), NOW - 100), "the clock was set back"


def test_what_is_known_of_the_others() -> None:
    standing = two_routers()
    silent = replace(standing, peers=(replace(standing.peers[0], is_alive=False),))
    assert other(router(), silent, NOW).startswith("standby is silent; 192.0.2.3, priority 100")
    leaving = router(heard_priority=0, heard=NOW - 3)
    assert other(leaving, replace(standing, peers=()), NOW) == "192.0.2.3, leaving (priority 0), heard 3s ago"
    assert other(router(heard=None), replace(standing, peers=()), NOW) == "none was heard"
