from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.vrrp.group import Group, follow
from balancer.vrrp.machine import (
    TABLE,
    Announce,
    Changed,
    Complain,
    Disowned,
    Event,
    Fault,
    Follow,
    Heard,
    Hold,
    Leave,
    Lost,
    Reconfigured,
    Recovered,
    Release,
    Role,
    Router,
    Send,
    Start,
    Stop,
    Take,
    Timer,
    Vouched,
    Wants,
    Weigh,
    initial,
    master_down,
    skew,
    step,
)

INIT, BACKUP, MASTER, FAULT, STOPPED = Role
OWN, LOWER, HIGHER = (bytes([192, 0, 2, last]) for last in (10, 5, 20))
DOWN = 3.609375
"""Seconds that a router of priority 100 waits for a master of 1 s."""
TAKE_OVER = (Send(100), Take(), Announce())
AGAIN = Announce(with_group=True)
RESIGN = (Send(0), Leave())


def router(**keys):
    return Router(**{"name": "VI_1", "version": 2, "vrid": 51, "priority": 100, "interval": 1.0} | keys)


def heard(priority, source=HIGHER, interval=1.0, own=OWN):
    return Heard(priority, interval, source, own)


def play(rules, *story, state=None):
    """The last state and what was done in all, Changed and Complain by their first words."""
    state = state or initial(rules, 0.0)
    done = []
    for now, event in story:
        state, actions = step(rules, state, event, now)
        done += actions
    return state, tuple(done)


def kinds(actions):
    return [action.kind for action in actions if isinstance(action, Complain)]


def changes(actions):
    return [f"{action.old} → {action.new}: {action.why}" for action in actions if isinstance(action, Changed)]


def backup(rules=None, now=0.0):
    return play(rules or router(), (now, Start()))[0]


def master(rules=None, now=0.0):
    """MASTER since `now`."""
    rules = rules or router()
    waiting = backup(rules, now - 10.0)
    return step(rules, replace(waiting, deadline=now), Timer(), now)[0]


def faulty(rules=None):
    return play(rules or router(), (0.0, Start()), (1.0, Fault("eth0 is down")))[0]


# Timers


@pytest.mark.parametrize(
    ("keys", "seconds_of_skew", "seconds_to_take_over"),
    [
        ({}, 0.609375, 3.609375),
        ({"priority": 254}, 0.0078125, 3.0078125),
        ({"priority": 1}, 0.99609375, 3.99609375),
        ({"priority": 255}, 0.00390625, 3.00390625),
        ({"interval": 5.0}, 0.609375, 15.609375),
        ({"down_timer_adverts": 5}, 0.609375, 5.609375),
        ({"version": 3}, 0.609375, 3.609375),
        ({"version": 3, "interval": 0.1}, 0.0609375, 0.3609375),
        ({"version": 3, "interval": 0.01, "priority": 200}, 0.0021875, 0.0321875),
        ({"version": 3, "interval": 5.0}, 3.046875, 18.046875),
    ],
)
def test_timers(keys, seconds_of_skew, seconds_to_take_over):
    rules = router(**keys)
    state = initial(rules, 0.0)
    assert skew(rules, state) == pytest.approx(seconds_of_skew, abs=1e-12)
    assert master_down(rules, state) == pytest.approx(seconds_to_take_over, abs=1e-12)


def test_a_life():
    rules = router()
    state, actions = step(rules, initial(rules, 0.0), Start(), 0.0)
    assert actions == (Leave(), Changed(INIT, BACKUP, "started"))
    assert state.deadline == DOWN
    assert step(rules, state, Timer(), 3.609) == (state, ())
    state, actions = step(rules, state, Timer(), DOWN)
    assert actions == (*TAKE_OVER, Changed(BACKUP, MASTER, "no master is heard"))
    assert (state.since, state.deadline) == (DOWN, DOWN + 1.0)
    assert step(rules, state, Timer(), DOWN + 0.999) == (state, ())
    state, actions = step(rules, state, Timer(), DOWN + 1.0)
    assert (actions, state.deadline, state.since) == ((Send(100),), DOWN + 2.0, DOWN)
    state, actions = step(rules, state, Stop(), 7.0)
    assert actions == (*RESIGN, Changed(MASTER, STOPPED, "stopped"))
    assert state.deadline is None


# The table: every role with every event

ROLES = {
    INIT: initial(router(), 0.0),
    BACKUP: backup(),
    MASTER: master(),
    FAULT: faulty(),
    STOPPED: play(router(), (0.0, Start()), (1.0, Stop()))[0],
}
EVENTS = {
    "start": Start(),
    "stop": Stop(),
    "timer": Timer(),
    "higher": heard(150),
    "equal from a higher address": heard(100),
    "equal from a lower address": heard(100, LOWER),
    "lower": heard(50),
    "resigned": heard(0),
    "own address": heard(150, OWN),
    "other interval": heard(150, interval=2.0),
    "fault": Fault("eth0 is down"),
    "recovered": Recovered(),
    "weigh": Weigh(60),
    "lost": Lost("192.0.2.100 was taken away"),
    "vouched": Vouched(60.0),
    "disowned": Disowned(),
    "follow BACKUP": Follow(BACKUP, "VI_2"),
    "follow MASTER": Follow(MASTER, "VI_2"),
    "follow FAULT": Follow(FAULT, "VI_2"),
    "follow INIT": Follow(INIT, "VI_2"),
    "follow STOPPED": Follow(STOPPED, "VI_2"),
    "release": Release(60.0),
    "hold": Hold(),
    "reconfigured": Reconfigured(router(down_timer_adverts=2)),
}
NOTHING = "does nothing"
STARTS = (Leave(), Changed(INIT, BACKUP, "started"))
FALLS = Changed(BACKUP, FAULT, "eth0 is down")
DROPPED_INTERVAL = Complain("interval", "192.0.2.20 advertises every 2 s, we every 1 s: dropped")
DROPPED_OWN = Complain("own address", "an advertisement with priority 150 comes from our own address 192.0.2.10")

# At 4.0 s: the timers of BACKUP (3.6) and MASTER (1.0) have passed.
EXPECTED = {
    INIT: {
        "start": (BACKUP, *STARTS),
        "stop": (STOPPED, Changed(INIT, STOPPED, "stopped")),
        "timer": NOTHING,
        "higher": NOTHING,
        "equal from a higher address": NOTHING,
        "equal from a lower address": NOTHING,
        "lower": NOTHING,
        "resigned": NOTHING,
        "own address": NOTHING,
        "other interval": NOTHING,
        "fault": (FAULT, Leave(), Changed(INIT, FAULT, "eth0 is down")),
        "recovered": NOTHING,
        "weigh": (INIT,),
        "lost": NOTHING,
        "vouched": NOTHING,
        "disowned": NOTHING,
        "follow BACKUP": NOTHING,
        "follow MASTER": (MASTER, *TAKE_OVER, Changed(INIT, MASTER, "VI_2")),
        "follow FAULT": (FAULT, Leave(), Changed(INIT, FAULT, "VI_2")),
        "follow INIT": NOTHING,
        "follow STOPPED": NOTHING,
        "release": NOTHING,
        "hold": NOTHING,
        "reconfigured": NOTHING,
    },
    BACKUP: {
        "start": NOTHING,
        "stop": (STOPPED, Changed(BACKUP, STOPPED, "stopped")),
        "timer": (MASTER, *TAKE_OVER, Changed(BACKUP, MASTER, "no master is heard")),
        "higher": (BACKUP,),
        "equal from a higher address": (BACKUP,),
        "equal from a lower address": (BACKUP,),
        "lower": (
            BACKUP,
            Complain("lower priority master", "192.0.2.20 is master with priority 50, ours is 100: not followed"),
        ),
        "resigned": (BACKUP,),
        "own address": (BACKUP, DROPPED_OWN),
        "other interval": (BACKUP, DROPPED_INTERVAL),
        "fault": (FAULT, FALLS),
        "recovered": NOTHING,
        "weigh": (BACKUP,),
        "lost": NOTHING,
        "vouched": (BACKUP,),
        "disowned": NOTHING,
        "follow BACKUP": NOTHING,
        "follow MASTER": (MASTER, *TAKE_OVER, Changed(BACKUP, MASTER, "VI_2")),
        "follow FAULT": (FAULT, Changed(BACKUP, FAULT, "VI_2")),
        "follow INIT": NOTHING,
        "follow STOPPED": NOTHING,
        "release": (BACKUP,),
        "hold": NOTHING,
        "reconfigured": (BACKUP,),
    },
    MASTER: {
        "start": NOTHING,
        "stop": (STOPPED, *RESIGN, Changed(MASTER, STOPPED, "stopped")),
        "timer": (MASTER, Send(100)),
        "higher": (BACKUP, Leave(), Changed(MASTER, BACKUP, "192.0.2.20 has the higher priority 150")),
        "equal from a higher address": (
            BACKUP,
            Complain("equal priority", "192.0.2.20 is master with our priority 100"),
            Leave(),
            Changed(MASTER, BACKUP, "192.0.2.20 has the higher address"),
        ),
        "equal from a lower address": (
            MASTER,
            Complain("equal priority", "192.0.2.5 is master with our priority 100"),
            Send(100),
            AGAIN,
        ),
        "lower": (
            MASTER,
            Complain("lower priority master", "192.0.2.20 is master too with priority 50, ours is 100"),
            Send(100),
            AGAIN,
        ),
        "resigned": (MASTER, Send(100), AGAIN),
        "own address": (MASTER, DROPPED_OWN),
        "other interval": (MASTER, DROPPED_INTERVAL),
        "fault": (FAULT, *RESIGN, Changed(MASTER, FAULT, "eth0 is down")),
        "recovered": NOTHING,
        "weigh": (MASTER,),
        "lost": (BACKUP, *RESIGN, Changed(MASTER, BACKUP, "192.0.2.100 was taken away")),
        "vouched": NOTHING,
        "disowned": NOTHING,
        "follow BACKUP": (BACKUP, *RESIGN, Changed(MASTER, BACKUP, "VI_2")),
        "follow MASTER": NOTHING,
        "follow FAULT": (FAULT, *RESIGN, Changed(MASTER, FAULT, "VI_2")),
        "follow INIT": NOTHING,
        "follow STOPPED": NOTHING,
        "release": (BACKUP, *RESIGN, Changed(MASTER, BACKUP, "released by hand for 60 s")),
        "hold": NOTHING,
        "reconfigured": NOTHING,
    },
    FAULT: {
        "start": NOTHING,
        "stop": (STOPPED, Changed(FAULT, STOPPED, "stopped")),
        "timer": NOTHING,
        "higher": NOTHING,
        "equal from a higher address": NOTHING,
        "equal from a lower address": NOTHING,
        "lower": NOTHING,
        "resigned": NOTHING,
        "own address": NOTHING,
        "other interval": NOTHING,
        "fault": NOTHING,
        "recovered": (BACKUP, Changed(FAULT, BACKUP, "recovered")),
        "weigh": (FAULT,),
        "lost": NOTHING,
        "vouched": NOTHING,
        "disowned": NOTHING,
        "follow BACKUP": NOTHING,
        "follow MASTER": NOTHING,
        "follow FAULT": NOTHING,
        "follow INIT": NOTHING,
        "follow STOPPED": NOTHING,
        "release": (FAULT,),
        "hold": NOTHING,
        "reconfigured": NOTHING,
    },
    STOPPED: {
        "start": (BACKUP, Leave(), Changed(STOPPED, BACKUP, "started")),
        "stop": NOTHING,
        "timer": NOTHING,
        "higher": NOTHING,
        "equal from a higher address": NOTHING,
        "equal from a lower address": NOTHING,
        "lower": NOTHING,
        "resigned": NOTHING,
        "own address": NOTHING,
        "other interval": NOTHING,
        "fault": NOTHING,
        "recovered": NOTHING,
        "weigh": (STOPPED,),
        "lost": NOTHING,
        "vouched": NOTHING,
        "disowned": NOTHING,
        "follow BACKUP": NOTHING,
        "follow MASTER": NOTHING,
        "follow FAULT": NOTHING,
        "follow INIT": NOTHING,
        "follow STOPPED": NOTHING,
        "release": NOTHING,
        "hold": NOTHING,
        "reconfigured": NOTHING,
    },
}


@pytest.mark.parametrize(("role", "event"), [*itertools.product(Role, EVENTS)])
def test_every_role_with_every_event(role, event):
    before = ROLES[role]
    after, actions = step(router(), before, EVENTS[event], 4.0)
    expected = EXPECTED[role][event]
    if expected is NOTHING:
        assert (after, actions) == (before, ())
        return
    assert (after.role, *actions) == expected
    assert after != before
    assert after.since == (before.since if after.role is role else 4.0)
    assert (after.deadline is not None) == (after.role in (BACKUP, MASTER))


def test_no_pair_is_forgotten():
    assert {type(event) for event in EVENTS.values()} == set(get_args(Event))
    assert {role: set(row) for role, row in EXPECTED.items()} == {role: set(EVENTS) for role in Role}


def test_the_table_says_exactly_where_each_event_may_lead():
    """Random lives go all the ways that the table has, and no other."""
    chance = random.Random(9568)
    seen = {}
    for life in range(3000):
        priority, preempt, is_grouped = ((100, 255)[life & 1], bool(life & 2), bool(life & 4))
        rules = router(priority=priority, preempt=preempt, is_grouped=is_grouped)
        state, now = initial(rules, 0.0), 0.0
        for _ in range(20):
            now += chance.choice((0.0, 0.1, 2.0, 5.0))
            event = chance.choice(list(EVENTS.values()))
            after, actions = step(rules, state, event, now)
            if (state.role, type(event)) in TABLE:
                seen.setdefault((state.role, type(event)), set()).add(after.role)
            else:
                assert (after, actions) == (state, ())
            said = [(action.old, action.new) for action in actions if isinstance(action, Changed)]
            assert said == ([(state.role, after.role)] if after.role is not state.role else [])
            state = after
    assert seen == {key: set(rule.to) for key, rule in TABLE.items()}


# BACKUP


@pytest.mark.parametrize(
    ("keys", "event", "deadline"),
    [
        ({}, heard(150), 2.0 + DOWN),
        ({}, heard(100, LOWER), 2.0 + DOWN),
        ({}, heard(101), 2.0 + DOWN),
        ({}, heard(255), 2.0 + DOWN),
        ({}, heard(99), DOWN),
        ({"preempt": False}, heard(99), 2.0 + DOWN),
        ({"preempt": False}, heard(1), 2.0 + DOWN),
        ({}, heard(0), 2.0 + 0.609375),
        ({"preempt": False}, heard(0), 2.0 + 0.609375),
        ({}, heard(150, OWN), DOWN),
        ({}, heard(0, OWN), DOWN),
        ({}, heard(150, interval=5.0), DOWN),
        ({}, heard(0, interval=5.0), DOWN),
        ({"version": 3}, heard(150, interval=5.0), 2.0 + 15.0 + 5.0 * 156 / 256),
        ({"version": 3}, heard(150, interval=0.1), 2.0 + 0.3609375),
        ({"version": 3}, heard(99, interval=0.1), DOWN),
        ({"version": 3, "preempt": False}, heard(99, interval=0.1), 2.0 + 0.3609375),
    ],
)
def test_when_a_backup_takes_over_after_an_advertisement(keys, event, deadline):
    state, _ = play(router(**keys), (0.0, Start()), (2.0, event))
    assert (state.role, state.deadline) == (BACKUP, pytest.approx(deadline, abs=1e-12))


def test_the_interval_of_the_master_is_learned_and_forgotten_when_we_are_it():
    rules = router(version=3)
    state, _ = play(rules, (0.0, Start()), (1.0, heard(150, interval=0.5)))
    assert (state.master_interval, master_down(rules, state)) == (0.5, 1.8046875)
    state, _ = play(rules, (3.0, Timer()), state=state)
    assert (state.role, state.master_interval, state.deadline) == (MASTER, 1.0, 4.0)
    state, _ = play(rules, (3.5, heard(150, interval=0.5)), state=state)
    assert (state.role, state.master_interval, state.deadline) == (BACKUP, 0.5, 3.5 + 1.8046875)
    state, _ = play(rules, (4.0, Fault("")), (5.0, Recovered()), state=state)
    assert (state.master_interval, state.deadline) == (1.0, 5.0 + DOWN)


def test_who_is_followed():
    state, _ = play(router(), (0.0, Start()))
    assert (state.master, state.master_priority) == (None, 0)
    state, _ = play(router(), (0.5, heard(150)), state=state)
    assert (state.master, state.master_priority) == (HIGHER, 150)
    state, _ = play(router(), (5.0, Timer()), state=state)
    assert (state.role, state.master, state.master_priority) == (MASTER, None, 0)
    state, _ = play(router(), (6.0, heard(150)), (7.0, Fault("")), (8.0, Recovered()), state=state)
    assert (state.role, state.master, state.master_priority) == (BACKUP, None, 0)


def test_a_reload_with_another_interval():
    rules = router(interval=5.0)
    assert master_down(rules, backup(router())) == 15.609375
    state, _ = play(rules, (1.0, heard(150, interval=5.0)), state=backup(router()))
    assert state.deadline == 16.609375
    state, _ = play(rules, (1.0, Timer()), (6.0, Timer()), state=master())
    assert state.deadline == 11.0


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (heard(150), "192.0.2.20 is silent"),
        (heard(100), "192.0.2.20 is silent"),
        (heard(50), "192.0.2.20 has the lower priority 50"),
        (heard(0), "192.0.2.20 has resigned"),
        (heard(150, OWN), "no master is heard"),
        (heard(150, bytes.fromhex("fe80" + 13 * "00" + "01"), own=bytes(16)), "fe80::1 is silent"),
    ],
)
def test_the_reason_of_a_takeover(event, why):
    _, actions = play(router(), (0.0, Start()), (0.5, event), (4.5, Timer()))
    assert changes(actions)[-1] == f"BACKUP → MASTER: {why}"


def test_only_the_master_that_is_followed_can_resign():
    story = ((0.0, Start()), (1.0, heard(150, HIGHER)), (1.5, heard(0, LOWER)))
    state, _ = play(router(), *story)
    assert (state.deadline, state.master) == (1.0 + DOWN, HIGHER)
    state, _ = play(router(), *story, (1.6, heard(0, HIGHER)))
    assert state.deadline == 1.6 + 0.609375
    # A new one may rise in between.
    state, _ = play(router(), (1.7, heard(200, LOWER)), state=state)
    assert (state.deadline, state.master) == (1.7 + DOWN, LOWER)


def test_priority_0_again_and_again_does_not_put_the_takeover_off():
    rules = router()
    state, _ = play(rules, (0.0, Start()), *((i / 10, heard(0)) for i in range(6)))
    assert state.deadline == 0.609375


def test_equal_priorities_in_the_backup_follow_whatever_the_address():
    for source in (LOWER, HIGHER):
        state, actions = play(router(), (0.0, Start()), *((float(i), heard(100, source)) for i in range(1, 30)))
        assert (state.role, kinds(actions)) == (BACKUP, [])


# preempt, nopreempt, preempt_delay


def test_preempt_takes_over_from_a_lower_master_when_the_timer_ends():
    state, actions = play(router(), (0.0, Start()), *((i * 0.9, heard(50)) for i in range(1, 5)), (DOWN, Timer()))
    assert (state.role, kinds(actions)) == (MASTER, ["lower priority master"])


def test_nopreempt_follows_a_lower_master_until_it_falls_silent():
    rules = router(preempt=False)
    state, actions = play(rules, (0.0, Start()), *((i * 0.9, heard(50)) for i in range(1, 100)), (89.2, Timer()))
    assert (state.role, kinds(actions)) == (BACKUP, [])
    state, _ = play(rules, (state.deadline, Timer()), state=state)
    assert state.role is MASTER


def test_preempt_delay_runs_from_the_first_advertisement_of_a_lower_master():
    rules = router(preempt_delay=10.0)
    state, _ = play(rules, (0.0, Start()), *((float(i), heard(50)) for i in range(2, 12)))
    assert (state.preempt_at, state.deadline) == (12.0, 11.0 + DOWN)
    # From here on it is not followed, and the timer that runs is the last.
    state, actions = play(rules, (12.0, heard(50)), (13.0, heard(50)), (11.0 + DOWN, Timer()), state=state)
    assert (state.role, kinds(actions)) == (MASTER, ["lower priority master"])


def test_a_higher_master_ends_the_preempt_delay():
    rules = router(preempt_delay=10.0)
    state, _ = play(rules, (0.0, Start()), (1.0, heard(50)), (5.0, heard(150)))
    assert state.preempt_at is None
    state, _ = play(rules, (8.0, heard(50)), (13.0, heard(50)), state=state)
    assert (state.preempt_at, state.deadline) == (18.0, 13.0 + DOWN)


def test_a_fault_ends_the_preempt_delay():
    rules = router(preempt_delay=10.0)
    state, _ = play(rules, (0.0, Start()), (1.0, heard(50)), (2.0, Fault("")), (3.0, Recovered()), (4.0, heard(50)))
    assert state.preempt_at == 14.0


def test_preempt_delay_does_not_wait_for_a_master_that_resigns_or_dies():
    rules = router(preempt_delay=1000.0)
    state, _ = play(rules, (0.0, Start()), (1.0, heard(50)), (2.0, heard(0)))
    assert state.deadline == 2.609375
    state, _ = play(rules, (0.0, Start()), (1.0, heard(50)), (1.0 + DOWN, Timer()))
    assert state.role is MASTER


# The owner


def test_the_owner_is_master_at_once():
    state, actions = play(router(priority=255), (0.0, Start()))
    assert actions == (Send(255), Take(), Announce(), Changed(INIT, MASTER, "started"))
    assert state.deadline == 1.0
    state, actions = play(router(priority=255), (1.0, Fault("eth0 is down")), (2.0, Recovered()), state=state)
    assert changes(actions) == ["MASTER → FAULT: eth0 is down", "FAULT → MASTER: recovered"]


@pytest.mark.parametrize("keys", [{"preempt": False}, {"preempt_delay": 100.0}])
def test_the_owner_always_preempts(keys):
    rules = router(priority=255, **keys)
    waiting = backup(router(), 0.0)
    state, actions = play(rules, (1.0, heard(254)), state=replace(waiting, priority=255))
    assert (state.deadline, kinds(actions)) == (waiting.deadline, ["lower priority master"])


def test_of_two_owners_the_higher_address_stays():
    rules = router(priority=255)
    state, actions = play(rules, (0.0, Start()), (0.5, heard(255, LOWER)))
    assert (state.role, kinds(actions)) == (MASTER, ["equal priority"])
    state, actions = play(rules, (0.6, heard(255, HIGHER)), (1.6, heard(255, HIGHER)), state=state)
    assert state.role is BACKUP
    assert changes(actions) == ["MASTER → BACKUP: 192.0.2.20 has the higher address"]


# MASTER


def test_who_stays_master_of_two():
    """RFC 9568 section 6.4.3: the higher priority, then the higher address, compared as unsigned octets."""
    low, high = bytes.fromhex("c0000209"), bytes.fromhex("c00002c8")
    for own, source, role in ((low, high, BACKUP), (high, low, MASTER)):
        assert step(router(), master(), heard(100, source, own=own), 1.0)[0].role is role
        assert step(router(), master(), heard(101, source, own=own), 1.0)[0].role is BACKUP
        assert step(router(), master(), heard(99, source, own=own), 1.0)[0].role is MASTER
    six = bytes.fromhex("fe80" + 13 * "00" + "01"), bytes.fromhex("fe80" + 13 * "00" + "ff")
    assert step(router(), master(), heard(100, six[1], own=six[0]), 1.0)[0].role is BACKUP
    assert step(router(), master(), heard(100, six[0], own=six[1]), 1.0)[0].role is MASTER


def test_a_better_master_is_waited_for_in_full():
    state, _ = play(router(), (0.5, heard(150)), state=master())
    assert (state.master, state.master_priority, state.deadline) == (HIGHER, 150, 0.5 + DOWN)


def test_a_new_master_has_announced_its_addresses():
    rules = router()
    for woken in (master(now=20.0), step(rules, master(now=15.0), Timer(), 20.0)[0]):
        state, actions = play(rules, (20.9, heard(50)), state=woken)
        assert AGAIN not in actions
        assert AGAIN in step(rules, state, heard(50), 21.0)[1]


def test_higher_prio_send_advert():
    _, actions = play(router(higher_prio_send_advert=True), (0.5, heard(150)), state=master())
    assert actions[:2] == (Send(100), Leave())


def test_an_answer_to_priority_0_begins_a_new_interval_and_one_to_a_lower_master_does_not():
    state, actions = play(router(), (0.4, heard(0)), state=master())
    assert (actions, state.deadline) == ((Send(100),), 1.4)
    state, _ = play(router(), (0.4, heard(50)), state=master())
    assert state.deadline == 1.0


def test_addresses_are_announced_again_after_a_healed_split_brain_but_not_for_every_packet():
    state, actions = play(router(), *((10 + i / 1000, heard(50)) for i in range(2000)), state=master())
    assert actions.count(AGAIN) == 2
    assert actions.count(Send(100)) == 2000
    assert kinds(actions) == ["lower priority master"]
    assert state.role is MASTER


def test_the_last_word_of_one_that_steps_down_is_answered_but_not_complained_of():
    state, actions = play(router(), (1.0, heard(50)), state=master())
    assert (state.role, kinds(actions)) == (MASTER, [])
    assert actions == (Send(100), AGAIN)
    assert kinds(play(router(), (1.1, heard(50)), state=master())[1]) == ["lower priority master"]


def test_a_master_of_vrrpv3_only_complains_of_another_interval():
    rules = router(version=3)
    state, actions = play(rules, (1.5, heard(50, interval=0.5)), state=master(rules))
    assert (state.role, state.master_interval) == (MASTER, 1.0)
    assert kinds(actions) == ["interval", "lower priority master"]
    assert Send(100) in actions


def test_a_higher_master_of_vrrpv2_with_another_interval_makes_two():
    state, actions = play(router(), *((float(i), heard(150, interval=2.0)) for i in range(1, 9)), state=master())
    assert (state.role, actions) == (MASTER, (DROPPED_INTERVAL,))


@given(st.integers(1, 4095))
def test_intervals_are_compared_as_the_wire_has_them(centiseconds):
    rules = router(version=3, interval=centiseconds / 100)
    _, actions = step(rules, master(rules), heard(150, interval=centiseconds * 0.01), 0.5)
    assert kinds(actions) == []


# Priority


def test_a_master_whose_priority_falls_stays_until_it_hears_a_better_one():
    state, actions = play(router(priority=150), (0.5, Weigh(90)), (1.0, Timer()), state=master(router(priority=150)))
    assert (state.role, actions) == (MASTER, (Send(90),))
    assert step(router(priority=150), state, heard(90, LOWER), 1.5)[0].role is MASTER
    assert step(router(priority=150), state, heard(91, LOWER), 1.5)[0].role is BACKUP


def test_a_backup_recomputes_its_timer():
    state, _ = play(router(), (0.0, Start()), (1.0, Weigh(228)))
    assert state.deadline == 3.109375
    state, _ = play(router(), (2.0, Weigh(100)), state=state)
    assert state.deadline == DOWN
    state, actions = play(router(), (2.0, heard(150)), (2.5, Weigh(200)), (3.0, heard(150)), state=state)
    assert (state.deadline, kinds(actions)) == (2.0 + 3.21875, ["lower priority master"])
    # The short wait after priority 0 too.
    state, _ = play(router(), (0.0, Start()), (1.0, heard(0)), (1.1, Weigh(228)))
    assert state.deadline == 1.109375


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("sum_", "priority"), [(120, 120), (0, 1), (-300, 1), (254, 254), (255, 254), (900, 254)])
def test_the_sum_of_the_trackers_is_kept_in_range(role, sum_, priority):
    state, actions = step(router(), ROLES[role], Weigh(sum_), 2.0)
    assert (state.role, state.priority, actions) == (role, priority, ())


def test_nothing_weighs_on_the_owner():
    state, _ = play(router(priority=255), (0.0, Start()), (1.0, Weigh(3)))
    assert state.priority == 255


# FAULT


def test_a_master_in_fault_resigns_and_waits_in_full_after_it():
    state, actions = play(router(), (1.0, Fault("eth0 is down")), (2.0, heard(150)), (9.0, Timer()), state=master())
    assert actions == (*RESIGN, Changed(MASTER, FAULT, "eth0 is down"))
    assert (state.fault, state.deadline) == ("eth0 is down", None)
    state, actions = play(router(), (10.0, Recovered()), state=state)
    assert actions == (Changed(FAULT, BACKUP, "recovered"),)
    assert (state.fault, state.deadline) == (None, 10.0 + DOWN)


def test_a_second_fault_is_the_one_that_counts():
    state, actions = play(router(), (3.0, Fault("eth1 is down")), state=faulty())
    assert (state.fault, actions) == ("eth1 is down", ())


def test_a_router_that_was_stopped_can_start_again():
    state, _ = play(router(), (2.0, Stop()), state=faulty())
    assert (state.role, state.fault, state.deadline) == (STOPPED, None, None)
    state, _ = play(router(), (3.0, Start()), state=state)
    assert (state.role, state.fault, state.deadline) == (BACKUP, None, 3.0 + DOWN)


# By hand


def test_released_addresses_stay_with_the_other_until_the_time_is_over():
    state, _ = play(router(), (1.0, Release(60.0)), state=master())
    assert state.deadline == 1.0 + DOWN
    state, actions = play(router(), *((1.7 + i, heard(50)) for i in range(59)), state=state)
    assert (state.role, actions, state.deadline) == (BACKUP, (), pytest.approx(59.7 + DOWN))
    state, actions = play(router(), (61.0, heard(50)), (59.7 + DOWN, Timer()), state=state)
    assert (state.role, kinds(actions)) == (MASTER, ["lower priority master"])


def test_released_addresses_that_nobody_takes_come_back():
    state, actions = play(router(), (1.0, Release(600.0)), (1.0 + DOWN, Timer()), state=master())
    assert changes(actions)[-1] == "BACKUP → MASTER: no master is heard"
    assert state.yields_until is None


def test_an_owner_that_was_released_does_not_come_back_from_a_fault_before_the_time_is_over():
    rules = router(priority=255)
    story = ((0.0, Start()), (1.0, Release(60.0)), (2.0, Fault("eth0 is down")))
    assert play(rules, *story, (9.0, Recovered()))[0].role is BACKUP
    assert play(rules, *story, (61.0, Recovered()))[0].role is MASTER


@pytest.mark.parametrize("keys", [{"preempt": False}, {"preempt_delay": 1000.0}, {}])
def test_hold_takes_the_addresses_from_a_lower_master_at_once(keys):
    rules = router(**keys)
    state, actions = play(rules, (0.0, Start()), (1.0, Release(600.0)), (1.5, heard(50)), (2.0, Hold()))
    assert actions[2:] == (*TAKE_OVER, Changed(BACKUP, MASTER, "taken by hand"))
    assert state.yields_until is None


@pytest.mark.parametrize("priority", [100, 150])
def test_hold_takes_nothing_from_a_master_that_is_not_lower(priority):
    state, actions = play(router(), (0.0, Start()), (1.5, heard(priority)), (2.0, Hold()))
    complaint = Complain("hold", f"192.0.2.20 has priority {priority}, ours is 100: release it there")
    assert (state.role, actions[-1]) == (BACKUP, complaint)


@pytest.mark.parametrize("middle", [(), ((1.5, Fault("eth0 is down")),)])
def test_hold_ends_a_release(middle):
    state, _ = play(router(), (0.0, Start()), (1.0, Release(600.0)), *middle, (2.0, Hold()))
    assert state.yields_until is None


def test_addresses_that_cannot_be_kept_are_left_to_another_for_a_minute():
    state, _ = play(
        router(), (1.0, Lost("192.0.2.100 was taken away")), (1.7, heard(50)), (60.9, heard(50)), state=master()
    )
    assert state.deadline == 60.9 + DOWN
    state, actions = play(router(), (61.0, heard(50)), state=state)
    assert kinds(actions) == ["lower priority master"]


# Late timers


@pytest.mark.parametrize(("now", "due"), [(1.0, 2.0), (1.25, 2.0), (1.75, 2.0), (2.0, 3.0), (2.25, 3.25), (4.5, 5.5)])
def test_a_late_master_advertises_once_and_finds_its_rhythm_again(now, due):
    state, actions = play(router(), (now, Timer()), (now, Timer()), (now + 0.1, Timer()), state=master())
    assert (actions, state.deadline) == ((Send(100),), due)


def test_a_master_that_slept_longer_than_the_others_wait_takes_its_addresses_again():
    state, actions = play(router(), (1.1 + DOWN, Timer()), state=master())
    text = "the timer fired 3.709 s late; another may have been master meanwhile"
    assert actions == (*TAKE_OVER, Complain("late timer", text))
    assert (state.role, state.since, state.deadline) == (MASTER, 0.0, pytest.approx(2.1 + DOWN))


def test_a_backup_that_slept_does_not_take_over_on_a_stale_timer():
    rules = router()
    slept = backup(rules)
    state, actions = step(rules, slept, Timer(), 2 * DOWN)
    assert state.role is MASTER
    now = 2 * DOWN + 0.5
    state, actions = step(rules, slept, Timer(), now)
    text = "the timer fired 4.109 s late; listening 1.609 s more before taking over"
    assert actions == (Complain("late timer", text),)
    assert (state.role, state.deadline) == (BACKUP, now + 1.609375)
    # The master is alive: it is followed. It is not: one interval later it is replaced.
    assert step(rules, state, heard(150), now + 0.9)[0].deadline == now + 0.9 + DOWN
    assert step(rules, state, Timer(), now + 1.609375)[0].role is MASTER


def test_how_late_is_too_late_follows_the_interval():
    rules = router(version=3, interval=0.1)
    assert step(rules, backup(rules), Timer(), 0.72)[0].role is MASTER
    state, _ = step(rules, backup(rules), Timer(), 0.73)
    assert (state.role, state.deadline) == (BACKUP, pytest.approx(0.73 + 0.1609375))


# The other path


def test_silence_is_no_reason_while_another_is_known_to_be_master():
    rules = router()
    state, actions = play(rules, (0.0, Start()), (0.5, heard(150)), (4.0, Vouched(7.0)), (0.5 + DOWN, Timer()))
    assert kinds(actions) == ["heartbeat"]
    assert (state.role, state.deadline) == (BACKUP, 7.0)
    again, actions = play(rules, (6.5, Vouched(9.5)), (7.0, Timer()), state=state)
    assert (again.role, again.deadline, actions) == (BACKUP, 9.5, ())
    # Silent there too: dead.
    assert step(rules, state, Timer(), 7.0)[0].role is MASTER


def test_who_starts_beside_a_master_that_it_cannot_hear_does_not_take_over():
    state, actions = play(router(), (0.0, Start()), (1.0, Vouched(10.0)), (DOWN, Timer()))
    assert (state.role, kinds(actions)) == (BACKUP, ["heartbeat"])


def test_a_lower_master_that_is_heard_is_preempted_whoever_vouches_for_it():
    state, _ = play(router(), (0.0, Start()), (3.0, heard(50)), (3.1, Vouched(10.0)), (DOWN, Timer()))
    assert state.role is MASTER


def test_a_master_that_resigns_is_vouched_for_no_more():
    story = (0.0, Start()), (0.5, heard(150)), (0.6, Vouched(10.0)), (1.0, heard(0)), (1.7, Timer())
    assert play(router(), *story)[0].role is MASTER


def test_a_group_waits_too_where_one_of_its_members_is_silent():
    rules = router(is_grouped=True)
    _, actions = play(rules, (0.0, Start()), (1.0, Vouched(10.0)), (DOWN, Timer()))
    assert not [action for action in actions if isinstance(action, Wants)]


def test_who_can_be_master_no_more_is_not_waited_for():
    rules = router()
    state, _ = play(rules, (0.0, Start()), (5.0, heard(150)), (5.2, Disowned()))
    assert state.deadline == 6.5, "one advertisement more would have come by then"
    state, _ = play(rules, (0.0, Start()), (5.0, heard(150)), (7.0, Disowned()))
    assert state.deadline == 7.609375
    assert step(rules, state, Timer(), 7.609375)[0].role is MASTER


def test_one_that_the_heartbeat_does_not_know_stays_master():
    rules = router()
    story = [(0.0, Start())]
    for second in range(1, 10):
        story += [(second, heard(150)), (second + 0.1, Disowned()), (second + 0.99, Timer())]
    assert play(rules, *story)[0].role is BACKUP


# Complaints


def test_a_complaint_is_made_once_until_the_role_changes():
    rules = router()
    state, actions = play(rules, (0.0, Start()), *((i / 1000, heard(150, OWN)) for i in range(3000)))
    assert kinds(actions) == ["own address"]
    _, actions = play(rules, (DOWN, Timer()), (4.0, heard(150, OWN)), (5.0, heard(150, OWN)), state=state)
    assert kinds(actions) == ["own address"]


def test_random_sources_make_no_more_complaints():
    sources = [bytes([10, 0, i, j]) for i in range(20) for j in range(1, 100)]
    state, actions = play(router(), (0.0, Start()), *((1.0, heard(150, source, 2.0)) for source in sources))
    assert kinds(actions) == ["interval"]
    assert len(state.complaints) == 1


@pytest.mark.parametrize(("gap", "lines"), [(255.0, 1), (301.0, 3)])
def test_a_complaint_is_made_again_when_its_cause_was_away(gap, lines):
    _, actions = play(router(), *((gap * i, heard(150, interval=255.0)) for i in range(1, 4)), state=master())
    assert kinds(actions) == ["interval"] * lines


# Any story at all

events = st.one_of(
    st.sampled_from([Start(), Stop(), Timer(), Fault("f"), Recovered(), Lost("l"), Hold()]),
    st.builds(
        Heard,
        st.integers(0, 255),
        st.sampled_from([0.01, 0.5, 1.0, 2.0]),
        st.sampled_from([LOWER, OWN, HIGHER]),
        st.just(OWN),
    ),
    st.builds(Weigh, st.integers(-10, 300)),
    st.builds(Follow, st.sampled_from(Role)),
    st.builds(Release, st.sampled_from([0.0, 1.0, 30.0])),
)
routers = st.builds(
    router,
    version=st.sampled_from([2, 3]),
    priority=st.integers(1, 255),
    preempt=st.booleans(),
    preempt_delay=st.sampled_from([0.0, 5.0]),
    higher_prio_send_advert=st.booleans(),
    is_grouped=st.booleans(),
)


@given(routers, st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.7, 4.0, 50.0]), events), max_size=40))
def test_the_addresses_are_there_exactly_while_we_are_master(rules, story):
    state, now, has = initial(rules, 0.0), 0.0, False
    for pause, event in story:
        now += pause
        before = state
        state, actions = step(rules, state, event, now)
        for action in actions:
            if isinstance(action, Take | Leave):
                has = isinstance(action, Take)
            if isinstance(action, Send):
                assert action.priority in (0, state.priority)
                assert before.role is MASTER or action.priority > 0
        assert has == (state.role is MASTER)
        assert (state.deadline is None) == (state.role not in (BACKUP, MASTER))
        assert 1 <= state.priority <= 255
        if state.deadline is not None and not (isinstance(event, Timer) and before.role is state.role):
            assert state.deadline <= max(now, before.deadline or now) + master_down(rules, state) + 1.0
        if isinstance(event, Timer) and state.role in (BACKUP, MASTER):
            assert state.deadline > now
        assert (state.role is FAULT) >= (state.fault is not None)


# A simulated network of routers


class Node:
    """One machine with a member on each of its networks. `states` is None while it is switched off."""

    def __init__(self, number, rules):
        self.own = bytes([192, 0, 2, number])
        self.rules = rules
        self.group = Group("VG1", tuple(rules)) if len(rules) > 1 else None
        self.states = None
        self.is_frozen = False
        self.inbox = []

    def deadline(self):
        if self.states is None or self.is_frozen:
            return float("inf")
        return min(
            (state.deadline for state in self.states.values() if state.deadline is not None), default=float("inf")
        )

    def role(self, name="VI_1"):
        return self.states[name].role if self.states else STOPPED


class Network:
    def __init__(self, nodes, seed, delay):
        self.nodes, self.delay = nodes, delay
        self.chance = random.Random(seed)
        self.now, self.loss, self.order = 0.0, 0.0, itertools.count()
        self.cut = set()
        self.flying = []
        self.changes = []

    def boot(self, node):
        if node.states is None:
            node.states = {name: initial(rules, self.now) for name, rules in node.rules.items()}
            for name in node.rules:
                self.give(node, name, Start())

    def crash(self, node):
        node.states, node.inbox, node.is_frozen = None, [], False

    def give(self, node, name, event):
        """An event for one member, and all that follows in its group."""
        waiting = [(name, event)]
        for _ in range(50):
            if not waiting:
                break
            name, event = waiting.pop(0)
            node.states[name], actions = step(node.rules[name], node.states[name], event, self.now)
            for action in actions:
                if isinstance(action, Send):
                    self.send(node, name, action.priority)
                if isinstance(action, Changed):
                    self.changes.append((self.now, name, action))
                if isinstance(action, Changed | Wants) and node.group:
                    waiting += follow(node.group, name, action, node.states)
        assert not waiting, "the group does not come to rest"

    def send(self, node, name, priority):
        for other in self.nodes:
            if other is node or (node, other, name) in self.cut or self.chance.random() < self.loss:
                continue
            due = self.now + self.chance.uniform(0, self.delay)
            event = (name, Heard(priority, node.rules[name].interval, node.own, other.own))
            heapq.heappush(self.flying, (due, next(self.order), other, event))

    def arrive(self, node, name, event):
        if node.is_frozen:
            node.inbox.append((name, event))
        elif node.states is not None:
            self.give(node, name, event)

    def thaw(self, node):
        node.is_frozen = False
        waiting, node.inbox = node.inbox, []
        for name, event in waiting:
            self.arrive(node, name, event)

    def run(self, until, watch=lambda: None):
        while True:
            node = min(self.nodes, key=Node.deadline)
            due = self.flying[0][0] if self.flying else float("inf")
            if min(due, node.deadline()) > until:
                break
            if due <= node.deadline():
                self.now, _, node, (name, event) = heapq.heappop(self.flying)
                self.arrive(node, name, event)
            else:
                # A timer may have passed while the machine was frozen.
                self.now = max(self.now, node.deadline())
                for name, state in list(node.states.items()):
                    if state.deadline is not None and node.states[name].deadline is not None:
                        self.give(node, name, Timer())
            watch()
        self.now = until

    def disturb(self, what, which, other, name):
        node, peer = self.nodes[which % len(self.nodes)], self.nodes[other % len(self.nodes)]
        name = name if name in node.rules else "VI_1"
        if what == "boot":
            self.boot(node)
        elif what == "crash":
            self.crash(node)
        elif what == "freeze":
            node.is_frozen = node.states is not None
        elif what == "thaw":
            self.thaw(node)
        elif what == "cut one way":
            self.cut.add((node, peer, name))
        elif what == "cut":
            self.cut |= {(node, peer, name), (peer, node, name)}
        elif what == "mend":
            self.cut -= {(node, peer, name), (peer, node, name)}
        elif node.states is not None and not node.is_frozen:
            event = {"fault": Fault("f"), "recovered": Recovered(), "stop": Stop(), "start": Start()}[what]
            self.give(node, name, event)

    def heal(self):
        self.cut.clear()
        self.loss = 0.0
        for node in self.nodes:
            self.thaw(node)
            self.boot(node)
            for name in node.rules:
                self.give(node, name, Recovered())
                self.give(node, name, Start())

    def masters(self, name="VI_1"):
        return [node for node in self.nodes if node.role(name) is MASTER]


DISTURBANCES = ["boot", "crash", "freeze", "thaw", "cut one way", "cut", "mend", "fault", "recovered", "stop", "start"]
disturbances = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.sampled_from(DISTURBANCES),
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from(["VI_1", "VI_2"]),
    ),
    max_size=25,
)
members = st.tuples(st.one_of(st.sampled_from([100, 150]), st.integers(1, 255)), st.booleans())


def trouble(network, story):
    """30 s of disturbances, then all is well again."""
    for node in network.nodes:
        network.boot(node)
    for now, what, which, other, name in sorted(story):
        network.run(max(now, network.now))
        network.disturb(what, which, other, name)
    network.run(max(30.0, network.now))
    network.heal()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(members, min_size=2, max_size=3),
    st.sampled_from([(2, 1.0), (3, 1.0), (3, 0.1)]),
    disturbances,
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(0, 9999),
)
def test_there_is_one_master_soon_after_all_is_well(nodes, protocol, story, loss, seed):
    version, interval = protocol
    keys = {"version": version, "interval": interval}
    rules = [router(priority=priority, preempt=preempt, **keys) for priority, preempt in nodes]
    network = Network([Node(i, {"VI_1": each}) for i, each in enumerate(rules, 1)], seed, interval / 50)
    network.loss = loss
    trouble(network, story)

    longest = max(master_down(each, initial(each, 0.0)) for each in rules)
    network.run(network.now + 2 * longest)
    (first,) = network.masters()
    if all(preempt for _, preempt in nodes):
        assert first.rules["VI_1"].priority == max(priority for priority, _ in nodes)

    def watch():
        assert network.masters() == [first]

    network.run(network.now + 4 * longest, watch)


@settings(max_examples=40, deadline=None)
@given(st.permutations([0.2, 0.5, 1.0]), disturbances, st.integers(0, 9999))
def test_there_is_one_master_where_the_intervals_of_vrrpv3_differ(intervals, story, seed):
    rules = [router(version=3, interval=each, priority=100 + i) for i, each in enumerate(intervals)]
    network = Network([Node(i, {"VI_1": each}) for i, each in enumerate(rules, 1)], seed, 0.01)
    trouble(network, story)
    network.run(network.now + 8.0)
    assert network.masters() == [network.nodes[2]]
    network.changes.clear()
    network.run(network.now + 20.0)
    assert network.changes == []


# Sync groups


def pair(seed=0, high=150, low=100):
    """Two machines on two networks, all up; the first has the priority."""
    network = Network(
        [
            Node(i, {name: router(name=name, priority=priority, is_grouped=True) for name in ("VI_1", "VI_2")})
            for i, priority in enumerate((high, low), 1)
        ],
        seed,
        0.02,
    )
    for node in network.nodes:
        network.boot(node)
    return network, *network.nodes


def roles(node):
    return [node.role(name) for name in node.rules]


def test_a_group_takes_over_together_and_gives_back_together():
    network, high, low = pair()
    network.run(10.0)
    assert (roles(high), roles(low)) == ([MASTER] * 2, [BACKUP] * 2)
    network.crash(high)
    network.run(14.0)
    assert roles(low) == [MASTER] * 2
    network.boot(high)
    network.run(18.0)
    assert (roles(high), roles(low)) == ([MASTER] * 2, [BACKUP] * 2)


def test_a_fault_on_one_network_moves_both_and_its_end_moves_them_back():
    network, high, low = pair()
    network.run(10.0)
    network.give(high, "VI_2", Fault("eth1 is down"))
    assert roles(high) == [FAULT] * 2
    assert network.changes[-1][2].why == "sync group VG1: VI_2: eth1 is down"
    network.run(11.0)
    assert roles(low) == [MASTER] * 2
    network.give(high, "VI_1", Fault("eth0 is down"))
    network.give(high, "VI_2", Recovered())
    assert roles(high) == [FAULT] * 2
    network.give(high, "VI_1", Recovered())
    assert roles(high) == [BACKUP] * 2
    network.run(15.0)
    assert (roles(high), roles(low)) == ([MASTER] * 2, [BACKUP] * 2)


@pytest.mark.parametrize("ways", [[(0, 1)], [(1, 0)], [(0, 1), (1, 0)]])
def test_one_network_cut_makes_no_ping_pong(ways):
    network, *nodes = pair()
    network.run(10.0)
    network.cut = {(nodes[a], nodes[b], "VI_1") for a, b in ways}
    network.changes.clear()
    network.run(100.0)
    assert network.changes == []


def test_a_group_is_released_and_held_together():
    network, high, low = pair()
    network.run(10.0)
    network.give(high, "VI_1", Release(600.0))
    network.run(30.0)
    assert (roles(high), roles(low)) == ([BACKUP] * 2, [MASTER] * 2)
    for name in high.rules:
        network.give(high, name, Hold())
    assert roles(high) == [MASTER] * 2
    network.run(31.0)
    assert roles(low) == [BACKUP] * 2


def test_owners_in_a_group_are_master_at_once():
    network, high, _ = pair(high=255)
    network.run(0.1)
    assert roles(high) == [MASTER] * 2


def test_the_fault_of_a_member_ends_when_it_is_stopped():
    network, high, _ = pair()
    network.run(10.0)
    network.give(high, "VI_2", Fault("eth1 is down"))
    network.give(high, "VI_2", Stop())
    assert roles(high) == [BACKUP, STOPPED]
    network.run(20.0)
    assert roles(high) == [MASTER, STOPPED]


def test_a_member_that_is_stopped_takes_no_other_with_it():
    network, high, _ = pair()
    network.run(10.0)
    network.give(high, "VI_2", Stop())
    assert roles(high) == [MASTER, STOPPED]


def test_a_member_says_what_it_wants_and_is_told():
    rules = router(is_grouped=True)
    state, actions = play(rules, (DOWN, Timer()), state=backup(rules))
    assert actions == (Wants(MASTER, "no master is heard"),)
    assert (state.role, state.is_ready, state.deadline) == (BACKUP, True, 2 * DOWN)
    assert step(rules, state, Follow(MASTER, "VI_2"), 4.0)[1] == (*TAKE_OVER, Changed(BACKUP, MASTER, "VI_2"))
    # Until it hears a master that it has to follow, or leaves the role.
    assert not step(rules, state, heard(150), 4.0)[0].is_ready
    assert step(rules, state, heard(50), 4.0)[0].is_ready
    assert not step(rules, state, Fault("eth0 is down"), 4.0)[0].is_ready
    state, actions = play(rules, (5.0, Recovered()), state=faulty(rules))
    assert (state.role, state.fault, actions) == (FAULT, None, (Wants(BACKUP, "recovered"),))


def test_a_group_is_master_once_every_member_would_be():
    rules = router(is_grouped=True)
    waits, ready = backup(rules), play(rules, (DOWN, Timer()), state=backup(rules))[0]
    group, wants = Group("VG1", ("VI_1", "VI_2")), Wants(MASTER, "192.0.2.20 is silent")
    assert follow(group, "VI_1", wants, {"VI_1": ready, "VI_2": waits}) == ()
    orders = follow(group, "VI_1", wants, {"VI_1": ready, "VI_2": ready})
    told = Follow(MASTER, "sync group VG1: VI_1: 192.0.2.20 is silent")
    assert orders == (("VI_1", told), ("VI_2", told))


def test_a_member_that_starts_while_another_is_in_fault_waits_for_it():
    rules = router(is_grouped=True)
    states = {"VI_1": backup(rules), "VI_2": faulty(rules), "VI_3": initial(rules, 0.0)}
    orders = follow(Group("VG1", tuple(states)), "VI_1", Changed(INIT, BACKUP, "started"), states)
    assert [(name, event.role) for name, event in orders] == [("VI_1", FAULT), ("VI_3", FAULT)]


@settings(max_examples=100, deadline=None)
@given(disturbances, st.sampled_from([0.0, 0.2]), st.integers(0, 9999))
def test_the_members_of_a_group_are_always_in_one_role(story, loss, seed):
    network, high, low = pair(seed)
    network.loss = loss

    def watch():
        for node in network.nodes:
            assert len({role for role in roles(node) if role is not STOPPED}) <= 1

    for now, what, which, other, name in sorted(story):
        network.run(max(now, network.now), watch)
        # Members are started and stopped one by one by the tests above.
        if what not in ("start", "stop"):
            network.disturb(what, which, other, name)
        watch()
    network.heal()
    network.run(network.now + 2 * DOWN, watch)
    assert (roles(high), roles(low)) == ([MASTER] * 2, [BACKUP] * 2)
    network.changes.clear()
    network.run(network.now + 20.0, watch)
    assert network.changes == []


# Other rules


def reconfigured(state, now, before, after):
    return step(router(**after), state, Reconfigured(router(**before)), now)


@pytest.mark.parametrize(
    ("before", "after", "now", "deadline"),
    [
        ({}, {"down_timer_adverts": 5}, 1.0, DOWN + 2.0),
        ({"down_timer_adverts": 5}, {}, 1.0, DOWN),
        ({}, {"interval": 2.0}, 1.0, DOWN + 3.0),
        ({}, {"priority": 50, "preempt": False}, 1.0, DOWN),
        # It would have been over by now, or is.
        ({"down_timer_adverts": 50}, {}, 10.0, 10.0),
        ({}, {"down_timer_adverts": 1}, 4.0, DOWN),
    ],
)
def test_the_wait_of_a_backup_is_that_of_the_new_rules(before, after, now, deadline):
    waiting = backup(router(**before))
    state, actions = reconfigured(waiting, now, before, after)
    assert (state.deadline, actions) == (pytest.approx(deadline), ())
    assert replace(state, deadline=waiting.deadline) == waiting


def test_a_lower_master_is_borne_as_long_as_is_written_now():
    before, after = {"preempt_delay": 10.0}, {"preempt_delay": 3.0}
    state, _ = step(router(**before), backup(router(**before)), heard(50), 1.0)
    assert state.preempt_at == 11.0
    state, _ = reconfigured(state, 2.0, before, after)
    assert state.preempt_at == 4.0


@pytest.mark.parametrize(("interval", "deadline"), [(0.5, 1.0), (0.25, 0.75), (5.0, 1.0)])
def test_the_next_advertisement_of_a_master_is_no_later_than_it_was_expected(interval, deadline):
    rules = {"version": 3, "interval": interval}
    state, actions = reconfigured(master(router(version=3)), 0.5, {"version": 3}, rules)
    assert (state.deadline, actions) == (deadline, ())
    state, actions = step(router(**rules), state, Timer(), deadline)
    assert (state.deadline, actions) == (deadline + interval, (Send(100),))
