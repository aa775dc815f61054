"""What a virtual router does when something happens: the state machine of RFC 9568 section 6.4.

`TABLE` is the machine: what each role does on each event, and the roles that this may lead to. An event that has
no row for a role does nothing in it. `step` looks the row up. Time is an argument, and the only timer is
`State.deadline`: the Active_Down_Timer of a BACKUP, the Adver_Timer of a MASTER.

keepalived's refinements are its own: FAULT, preempt_delay, down_timer_adverts, the advertisement to a lower
master, sync groups. Where this machine is stricter than both:
    - priority 0 counts only from the master that is followed, and never makes the wait longer;
    - an advertisement from our own address is never believed;
    - addresses are announced against lower masters once a second, however many advertisements come;
    - a timer that fires much too late is not believed (`_timer_in_backup`);
    - silence is not believed while the master is known to live by another path (`Vouched`), and is not waited for
      where it is known to be none any more (`Disowned`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

__all__ = [
    "TABLE",
    "Action",
    "Announce",
    "Changed",
    "Complain",
    "Disowned",
    "Event",
    "Fault",
    "Follow",
    "Heard",
    "Hold",
    "Leave",
    "Lost",
    "Reconfigured",
    "Recovered",
    "Release",
    "Role",
    "Router",
    "Rule",
    "Send",
    "Start",
    "State",
    "Stop",
    "Take",
    "Timer",
    "Vouched",
    "Wants",
    "Weigh",
    "doubts",
    "initial",
    "master_down",
    "skew",
    "step",
    "yields",
]

# RFC 9568 section 5.2.4: 255 is the owner of the addresses, 0 says that the master resigns.
_OWNER = 255
_RESIGNED = 0
# A fault is complained of again once it has been away for this long. More than the longest advertisement interval
# (255 s in VRRPv2), so that one that stays is one line.
_FORGET = 300.0
# Seconds between two announcements against lower masters: each is several frames for each address, and to provoke
# one costs a single packet.
_ANNOUNCE_GAP = 1.0
# So many intervals after an advertisement the next one has failed to come.
_MISSED = 1.5
# Seconds for which a router that could not keep its addresses does not take them from another.
_LOST_REST = 60.0


class Role(StrEnum):
    """RFC 9568 section 6.4 in keepalived's words: MASTER is Active; INIT, FAULT and STOPPED are Initialize."""

    INIT = "INIT"
    BACKUP = "BACKUP"
    MASTER = "MASTER"
    FAULT = "FAULT"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """What the operator configured (RFC 9568 section 6.1)."""

    name: str
    version: int
    vrid: int
    priority: int
    """1 to 255; 255 is the owner of the addresses."""
    interval: float
    """Seconds between a master's advertisements."""
    preempt: bool = True
    preempt_delay: float = 0.0
    """Seconds for which a lower master is borne before it is preempted."""
    down_timer_adverts: int = 3
    """Advertisements that may be missed."""
    higher_prio_send_advert: bool = False
    """Send one more advertisement when stepping down for a higher master."""
    is_grouped: bool = False
    """A member of a sync group says what it wants (`Wants`) and is told by `Follow` when it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a virtual router stands. Times are monotonic seconds."""

    role: Role
    priority: int
    """In effect now: the configured one with what the trackers add."""
    master_interval: float
    """Seconds between the advertisements of the master that is followed (learned in VRRPv3)."""
    since: float
    """When the role was taken."""
    deadline: float | None = None
    """When `step` wants `Timer`; None: never."""
    master: bytes | None = None
    """Packed address of who was last heard as master; None: nobody was, or we are it."""
    master_priority: int = 0
    """What `master` advertised last; 0 after it resigned."""
    heard: float | None = None
    """When an advertisement of `master` came last."""
    vouched_until: float | None = None
    """Until then another director is known to be master, whatever is heard of it here."""
    fault: str | None = None
    """Our own fault. None in FAULT: only another member of the sync group has one."""
    is_ready: bool = False
    """A BACKUP that would be MASTER if its sync group were ready too."""
    preempt_at: float | None = None
    """When preempt_delay ends; None: no lower master was heard."""
    yields_until: float | None = None
    """Until then any other master is accepted."""
    announced: float = 0.0
    """When a MASTER last announced its addresses."""
    complaints: tuple[tuple[str, float], ...] = ()
    """Kinds complained of in this role, and when each was last seen."""


@dataclass(frozen=True, slots=True)
class Start:
    """Take part."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave for good; a master resigns."""


@dataclass(frozen=True, slots=True)
class Timer:
    """`State.deadline` has passed. One that comes early does nothing.

    Packets that wait in the socket are to be given first: they may have moved the deadline.
    """


@dataclass(frozen=True, slots=True)
class Heard:
    """An advertisement that is valid on the wire, for this virtual router."""

    priority: int
    interval: float
    source: bytes
    own: bytes
    """The address, packed, that our own advertisements come from."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something without which the addresses are of no use is gone: interface, address, script."""

    why: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """All that made `Fault` is over."""


@dataclass(frozen=True, slots=True)
class Weigh:
    """The trackers give another priority; taken as 1 to 254, and the owner keeps its 255 (as in keepalived)."""

    priority: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An address was taken away from a MASTER and could not be put back."""

    why: str


@dataclass(frozen=True, slots=True)
class Vouched:
    """Another director says by the heartbeat that it is master: to be believed until then."""

    until: float


@dataclass(frozen=True, slots=True)
class Disowned:
    """Every other director says by the heartbeat that it is not master and cannot be."""


@dataclass(frozen=True, slots=True)
class Follow:
    """The sync group is `role` now: BACKUP, MASTER or FAULT."""

    role: Role
    why: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """By hand: let another router be master for so many seconds.

    Where no other takes the addresses they come back after the usual wait: on nobody they help nobody.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """By hand: take hold of the addresses again.

    Ends a `Release`, and preempts a lower master at once whatever preempt and preempt_delay say. A master that
    is not lower stays: it has to release.
    """


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The rules are others from now on, and were these. The priority comes by `Weigh`."""

    before: Router


Event = (
    Start | Stop | Timer | Heard | Fault | Recovered | Weigh | Lost | Vouched | Disowned | Follow | Release | Hold
    | Reconfigured
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Send:
    """Send an advertisement with this priority."""

    priority: int


@dataclass(frozen=True, slots=True)
class Take:
    """Put the addresses; some may be there already."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Take the addresses away, also those that a predecessor left."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the network where the addresses are: gratuitous ARP, unsolicited Neighbor Advertisements; and once more
    after garp_master_delay.
    """

    with_group: bool = False
    """Also those of the masters of its sync group: the loser of a split brain announced them too."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The role is another: to be logged, notified, and told to the sync group (group.follow)."""

    old: Role
    new: Role
    why: str


@dataclass(frozen=True, slots=True)
class Wants:
    """A member of a sync group would take this role, MASTER or BACKUP: the group decides (group.follow)."""

    role: Role
    why: str


@dataclass(frozen=True, slots=True)
class Complain:
    """Something is wrong in the network.

    Given once for each kind, until the role changes or five minutes pass without it.
    """

    kind: str
    text: str


Action = Send | Take | Leave | Announce | Changed | Wants | Complain
_Outcome = tuple[State, tuple[Action, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    # The key of the row says which class of event it is.
    act: Callable[[Router, State, Any, float], _Outcome]
    to: frozenset[Role]
    """The roles that it may lead to."""


def initial(router: Router, now: float) -> State:
    """The state before `Start`."""
    return State(role=Role.INIT, priority=router.priority, master_interval=router.interval, since=now)


def step(router: Router, state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """What becomes of `state`, and what is to be done, in this order.

    `now` is in monotonic seconds and never goes back. `router` may differ from the last call's: a reload keeps the
    state.
    """
    rule = TABLE.get((state.role, type(event)))
    return rule.act(router, state, event, now) if rule else (state, ())


def skew(router: Router, state: State) -> float:
    """Seconds by which the lower of two BACKUPs waits longer.

    RFC 9568 section 6.1; in VRRPv2 (RFC 3768 section 6.1) the interval does not matter.
    """
    interval = 1.0 if router.version == 2 else state.master_interval
    return (256 - state.priority) * interval / 256


def master_down(router: Router, state: State) -> float:
    """Seconds of silence after which the master is taken for dead (RFC 9568 section 6.1: Active_Down_Interval)."""
    return router.down_timer_adverts * _master_interval(router, state) + skew(router, state)


# From here on: what the rows of the table do.


def _start(router: Router, state: State, _event: Start, now: float) -> _Outcome:
    return _join(router, state, now, "started", Leave())


def _stop(_router: Router, state: State, _event: Stop, now: float) -> _Outcome:
    stopped = replace(_turned(state, Role.STOPPED, now), fault=None)
    return stopped, (*_resign(state), Changed(state.role, Role.STOPPED, "stopped"))


def _fault(_router: Router, state: State, event: Fault, now: float) -> _Outcome:
    faulty = replace(state, fault=event.why)
    return (faulty, ()) if state.role is Role.FAULT else _fall(faulty, now, event.why)


def _recovered(router: Router, state: State, _event: Recovered, now: float) -> _Outcome:
    if router.is_grouped:
        return replace(state, fault=None), (Wants(Role.BACKUP, "recovered"),)
    return _join(router, state, now, "recovered")


def _timer_in_backup(router: Router, state: State, _event: Timer, now: float) -> _Outcome:
    """The master is taken for dead, unless it was us who were.

    A timer more than a whole master_down late means that we were frozen (SIGSTOP, stalled machine) while the master
    may have spoken. Then a live one is given one more interval and skew to be heard. This cannot go on for ever for a
    router that is of use: one whose timers always come that late could not stay master either, as its advertisements
    would come as late.
    """
    assert state.deadline is not None
    late = now - state.deadline
    if late < 0:
        return state, ()
    if late > master_down(router, state):
        wait = _master_interval(router, state) + skew(router, state)
        text = f"the timer fired {late:.3f} s late; listening {wait:.3f} s more before taking over"
        return _complain(replace(state, deadline=now + wait), now, "late timer", text)
    if state.vouched_until is not None and now < state.vouched_until and _is_silent(router, state, now):
        text = "no advertisement comes, but by the heartbeat another director is master: not taking over"
        return _complain(replace(state, deadline=state.vouched_until), now, "heartbeat", text)
    return _claim(router, state, now, _why_claim(state))


def _timer_in_master(router: Router, state: State, _event: Timer, now: float) -> _Outcome:
    """One advertisement, however many are overdue; the rhythm is kept where that is still possible.

    A master that slept longer than the others wait has lost its leases, and its neighbours may have learned another:
    it takes and announces its addresses again. A higher one that rose meanwhile answers at once.
    """
    assert state.deadline is not None
    late = now - state.deadline
    if late < 0:
        return state, ()
    due = state.deadline + router.interval
    advertised = replace(state, deadline=due if due > now else now + router.interval)
    if late <= master_down(router, state):
        return advertised, (Send(state.priority),)
    text = f"the timer fired {late:.3f} s late; another may have been master meanwhile"
    woken, said = _complain(replace(advertised, announced=now), now, "late timer", text)
    return woken, (Send(state.priority), Take(), Announce(), *said)


def _heard_in_backup(router: Router, state: State, event: Heard, now: float) -> _Outcome:
    if doubt := doubts(router, event):
        return _complain(state, now, *doubt)
    if event.priority == _RESIGNED:
        return _master_resigned(router, state, event, now)
    heard = replace(state, master=event.source, master_priority=event.priority, heard=now)
    is_lower = event.priority < state.priority
    if is_lower and _preempts(router, state, now):
        text = f"{_text(event.source)} is master with priority {event.priority}, ours is {state.priority}: not followed"
        return _complain(heard, now, "lower priority master", text)
    begun = now + router.preempt_delay if state.preempt_at is None else state.preempt_at
    followed = replace(
        heard,
        master_interval=event.interval,
        preempt_at=begun if is_lower else None,
        is_ready=False,
    )
    return replace(followed, deadline=now + master_down(router, followed)), ()


def _master_resigned(router: Router, state: State, event: Heard, now: float) -> _Outcome:
    # Another that resigns, as the loser of a split brain does, says nothing of the master that we follow.
    if state.master_priority != _RESIGNED and event.source != state.master:
        return state, ()
    assert state.deadline is not None
    resigned = replace(state, master=event.source, master_priority=_RESIGNED, heard=now, vouched_until=None)
    return replace(resigned, deadline=min(state.deadline, now + skew(router, state))), ()


def _heard_in_master(router: Router, state: State, event: Heard, now: float) -> _Outcome:
    if doubt := doubts(router, event):
        return _complain(state, now, *doubt)
    said: tuple[Action, ...] = ()
    rival = _text(event.source)
    if _differs(event.interval, router.interval):
        text = f"{rival} advertises every {event.interval:g} s, we every {router.interval:g} s"
        state, said = _complain(state, now, "interval", text)
    if event.priority == _RESIGNED:
        # It was master: of a sync group whose split brain was seen to end on another network, perhaps.
        state = replace(state, deadline=now + router.interval)
        return _announce_again(state, now, *said, Send(state.priority))
    if event.priority == state.priority:
        state, more = _complain(state, now, "equal priority", f"{rival} is master with our priority {event.priority}")
        said += more
    if (event.priority, event.source) > (state.priority, event.own):
        return _step_down(router, state, event, now, *said)
    # The last word of one that steps down for us is nothing to complain of.
    if event.priority < state.priority and now - state.since > router.interval:
        text = f"{rival} is master too with priority {event.priority}, ours is {state.priority}"
        state, more = _complain(state, now, "lower priority master", text)
        said += more
    return _announce_again(state, now, *said, Send(state.priority))


def _announce_again(state: State, now: float, *first: Action) -> _Outcome:
    """Another was master too: the network may have learned that the addresses are there."""
    if now - state.announced < _ANNOUNCE_GAP:
        return state, first
    return replace(state, announced=now), (*first, Announce(with_group=True))


def _step_down(router: Router, state: State, event: Heard, now: float, *said: Action) -> _Outcome:
    """A better master was heard (RFC 9568 section 6.4.3): it advertises already, so nothing is said of it."""
    better = f"the higher priority {event.priority}" if event.priority > state.priority else "the higher address"
    backup = replace(
        _turned(state, Role.BACKUP, now),
        master=event.source,
        master_priority=event.priority,
        master_interval=event.interval,
        heard=now,
    )
    last_word = (Send(state.priority),) if router.higher_prio_send_advert else ()
    changed = Changed(Role.MASTER, Role.BACKUP, f"{_text(event.source)} has {better}")
    return replace(backup, deadline=now + master_down(router, backup)), (*said, *last_word, Leave(), changed)


def _weigh(router: Router, state: State, event: Weigh, _now: float) -> _Outcome:
    """A MASTER stays master with a lower priority until it hears a better one."""
    return replace(state, priority=_OWNER if router.priority == _OWNER else min(max(event.priority, 1), 254)), ()


def _weigh_in_backup(router: Router, state: State, event: Weigh, now: float) -> _Outcome:
    """The wait that has begun is made shorter or longer by the difference in skew, as in keepalived."""
    assert state.deadline is not None
    weighed, _ = _weigh(router, state, event, now)
    return replace(weighed, deadline=state.deadline + skew(router, weighed) - skew(router, state)), ()


def _vouched(_router: Router, state: State, event: Vouched, _now: float) -> _Outcome:
    return replace(state, vouched_until=event.until), ()


def _disowned(router: Router, state: State, _event: Disowned, now: float) -> _Outcome:
    """Nearly as if the master had resigned, which it cannot say where its link is down.

    But one that the heartbeat knows nothing of may be master too: what it says next is still waited for.
    """
    assert state.deadline is not None
    sooner = now + skew(router, state)
    if state.heard is not None:
        sooner = max(sooner, state.heard + _MISSED * _master_interval(router, state))
    return replace(state, vouched_until=None, deadline=min(state.deadline, sooner)), ()


def _lost(router: Router, state: State, event: Lost, now: float) -> _Outcome:
    return _give_up(router, replace(state, yields_until=now + _LOST_REST), now, event.why)


def _release(router: Router, state: State, event: Release, now: float) -> _Outcome:
    released = replace(state, yields_until=now + event.seconds)
    if state.role is not Role.MASTER:
        return released, ()
    return _give_up(router, released, now, f"released by hand for {event.seconds:g} s")


def _hold(_router: Router, state: State, _event: Hold, _now: float) -> _Outcome:
    return replace(state, yields_until=None), ()


def _hold_in_backup(router: Router, state: State, _event: Hold, now: float) -> _Outcome:
    held = replace(state, yields_until=None)
    if state.master is None:
        return held, ()
    if state.master_priority < state.priority:
        return _claim(router, held, now, "taken by hand")
    text = f"{_text(state.master)} has priority {state.master_priority}, ours is {state.priority}: release it there"
    return held, (Complain("hold", text),)


def _reconfigured_in_backup(router: Router, state: State, event: Reconfigured, now: float) -> _Outcome:
    """Waits that have begun are made longer or shorter."""
    assert state.deadline is not None
    longer = master_down(router, state) - master_down(event.before, state)
    borne = router.preempt_delay - event.before.preempt_delay
    return replace(
        state,
        deadline=max(state.deadline + longer, min(state.deadline, now)),
        preempt_at=None if state.preempt_at is None else state.preempt_at + borne,
    ), ()


def _reconfigured_in_master(router: Router, state: State, _event: Reconfigured, now: float) -> _Outcome:
    """The others expect the next advertisement no later than they did, and learn by it when more come."""
    assert state.deadline is not None
    return replace(state, deadline=min(state.deadline, now + router.interval), master_interval=router.interval), ()


def _follow_in_init(router: Router, state: State, event: Follow, now: float) -> _Outcome:
    if event.role is Role.MASTER:
        # New in a group that is master here: for one that listened first, all the others would have to step down.
        return _become_master(router, state, now, event.why)
    return _fall(state, now, event.why) if event.role is Role.FAULT else (state, ())


def _follow_in_backup(router: Router, state: State, event: Follow, now: float) -> _Outcome:
    if event.role is Role.MASTER:
        return _become_master(router, state, now, event.why)
    return _fall(state, now, event.why) if event.role is Role.FAULT else (state, ())


def _follow_in_master(router: Router, state: State, event: Follow, now: float) -> _Outcome:
    """To BACKUP with priority 0: it is another network where a better master was heard, here none may have been."""
    if event.role is Role.BACKUP:
        return _give_up(router, state, now, event.why)
    return _fall(state, now, event.why) if event.role is Role.FAULT else (state, ())


def _follow_in_fault(router: Router, state: State, event: Follow, now: float) -> _Outcome:
    if event.role is Role.BACKUP and state.fault is None:
        return _join(router, state, now, event.why)
    return state, ()


# The steps that several rows share.


def _join(router: Router, state: State, now: float, why: str, *first: Action) -> _Outcome:
    """Be BACKUP, and listen first; the owner is master at once (RFC 9568 section 6.4.1)."""
    fresh = replace(state, master=None, master_priority=0, heard=None, master_interval=router.interval, fault=None)
    is_owner = state.priority == _OWNER and not yields(state, now)
    if is_owner and not router.is_grouped:
        return _become_master(router, fresh, now, why)
    backup = _turned(fresh, Role.BACKUP, now)
    wait = 0.0 if is_owner else master_down(router, backup)
    return replace(backup, deadline=now + wait), (*first, Changed(state.role, Role.BACKUP, why))


def _claim(router: Router, state: State, now: float, why: str) -> _Outcome:
    if router.is_grouped:
        # The timer goes on, so that the group is asked again.
        ready = replace(state, is_ready=True, deadline=now + master_down(router, state))
        return ready, (Wants(Role.MASTER, why),)
    return _become_master(router, state, now, why)


def _become_master(router: Router, state: State, now: float, why: str) -> _Outcome:
    master = replace(
        _turned(state, Role.MASTER, now),
        deadline=now + router.interval,
        master_interval=router.interval,
        master=None,
        master_priority=0,
        heard=None,
        vouched_until=None,
        announced=now,
        yields_until=None,
    )
    # The advertisement first: a lower master leaves its addresses on it before ours are put.
    changed = Changed(state.role, Role.MASTER, why)
    return master, (Send(state.priority), Take(), Announce(), changed)


def _give_up(router: Router, state: State, now: float, why: str) -> _Outcome:
    """From MASTER to BACKUP without a better master: the others hear of it, and take over after their skew."""
    backup = _turned(state, Role.BACKUP, now)
    changed = Changed(state.role, Role.BACKUP, why)
    return replace(backup, deadline=now + master_down(router, backup)), (*_resign(state), changed)


def _fall(state: State, now: float, why: str) -> _Outcome:
    # What a predecessor left would stay until the end of the fault.
    left = (Leave(),) if state.role is Role.INIT else _resign(state)
    return _turned(state, Role.FAULT, now), (*left, Changed(state.role, Role.FAULT, why))


def _resign(state: State) -> tuple[Action, ...]:
    return (Send(_RESIGNED), Leave()) if state.role is Role.MASTER else ()


def _turned(state: State, role: Role, now: float) -> State:
    return replace(state, role=role, since=now, deadline=None, is_ready=False, preempt_at=None, complaints=())


def doubts(router: Router, event: Heard) -> tuple[str, str] | None:
    """Kind (`own address` or `interval`) and text of why an advertisement is dropped; None: it is believed."""
    source = _text(event.source)
    if event.source == event.own:
        return "own address", f"an advertisement with priority {event.priority} comes from our own address {source}"
    if router.version == 2 and _differs(event.interval, router.interval):
        # RFC 3768 section 7.1. Two masters may result, as with keepalived.
        return "interval", f"{source} advertises every {event.interval:g} s, we every {router.interval:g} s: dropped"
    return None


def _differs(heard: float, ours: float) -> bool:
    # The wire carries whole centiseconds.
    return round(heard * 100) != round(ours * 100)


def _preempts(router: Router, state: State, now: float) -> bool:
    """May a lower master be preempted now? The owner always may (RFC 9568 section 6.1: Preempt_Mode)."""
    if yields(state, now):
        return False
    if state.priority == _OWNER:
        return True
    if not router.preempt or router.preempt_delay == 0:
        return router.preempt
    return state.preempt_at is not None and now >= state.preempt_at


def _is_silent(router: Router, state: State, now: float) -> bool:
    """Whether an advertisement has failed to come."""
    return state.heard is None or now - state.heard > _MISSED * _master_interval(router, state)


def yields(state: State, now: float) -> bool:
    """Whether it leaves the addresses to others: by hand, or because it could not keep them."""
    return state.yields_until is not None and now < state.yields_until


def _master_interval(router: Router, state: State) -> float:
    # A reload may have changed ours, and VRRPv2 knows no other.
    return router.interval if router.version == 2 else state.master_interval


def _complain(state: State, now: float, kind: str, text: str) -> _Outcome:
    seen = dict(state.complaints)
    is_new = kind not in seen or now - seen[kind] > _FORGET
    seen[kind] = now
    return replace(state, complaints=tuple(seen.items())), (Complain(kind, text),) if is_new else ()


def _why_claim(state: State) -> str:
    if state.master is None:
        return "no master is heard"
    master = _text(state.master)
    if state.master_priority == _RESIGNED:
        return f"{master} has resigned"
    if state.master_priority < state.priority:
        return f"{master} has the lower priority {state.master_priority}"
    return f"{master} is silent"


def _text(address: bytes) -> str:
    return str(ip_address(address))


def _rule(act: Callable[[Router, State, Any, float], _Outcome], *to: Role) -> Rule:
    return Rule(act, frozenset(to))


_INIT, _BACKUP, _MASTER, _FAULT, _STOPPED = Role

TABLE: Mapping[tuple[Role, type[Event]], Rule] = {
    (_INIT, Start): _rule(_start, _BACKUP, _MASTER),
    (_INIT, Stop): _rule(_stop, _STOPPED),
    (_INIT, Fault): _rule(_fault, _FAULT),
    (_INIT, Weigh): _rule(_weigh, _INIT),
    (_INIT, Follow): _rule(_follow_in_init, _INIT, _MASTER, _FAULT),
    #
    (_BACKUP, Stop): _rule(_stop, _STOPPED),
    (_BACKUP, Timer): _rule(_timer_in_backup, _BACKUP, _MASTER),
    (_BACKUP, Heard): _rule(_heard_in_backup, _BACKUP),
    (_BACKUP, Fault): _rule(_fault, _FAULT),
    (_BACKUP, Weigh): _rule(_weigh_in_backup, _BACKUP),
    (_BACKUP, Vouched): _rule(_vouched, _BACKUP),
    (_BACKUP, Disowned): _rule(_disowned, _BACKUP),
    (_BACKUP, Follow): _rule(_follow_in_backup, _BACKUP, _MASTER, _FAULT),
    (_BACKUP, Release): _rule(_release, _BACKUP),
    (_BACKUP, Hold): _rule(_hold_in_backup, _BACKUP, _MASTER),
    (_BACKUP, Reconfigured): _rule(_reconfigured_in_backup, _BACKUP),
    #
    (_MASTER, Stop): _rule(_stop, _STOPPED),
    (_MASTER, Timer): _rule(_timer_in_master, _MASTER),
    (_MASTER, Heard): _rule(_heard_in_master, _MASTER, _BACKUP),
    (_MASTER, Fault): _rule(_fault, _FAULT),
    (_MASTER, Weigh): _rule(_weigh, _MASTER),
    (_MASTER, Lost): _rule(_lost, _BACKUP),
    (_MASTER, Follow): _rule(_follow_in_master, _MASTER, _BACKUP, _FAULT),
    (_MASTER, Release): _rule(_release, _BACKUP),
    (_MASTER, Reconfigured): _rule(_reconfigured_in_master, _MASTER),
    #
    (_FAULT, Stop): _rule(_stop, _STOPPED),
    (_FAULT, Fault): _rule(_fault, _FAULT),
    (_FAULT, Recovered): _rule(_recovered, _FAULT, _BACKUP, _MASTER),
    (_FAULT, Weigh): _rule(_weigh, _FAULT),
    (_FAULT, Follow): _rule(_follow_in_fault, _FAULT, _BACKUP, _MASTER),
    (_FAULT, Release): _rule(_release, _FAULT),
    (_FAULT, Hold): _rule(_hold, _FAULT),
    #
    (_STOPPED, Start): _rule(_start, _BACKUP, _MASTER),
    (_STOPPED, Weigh): _rule(_weigh, _STOPPED),
}
