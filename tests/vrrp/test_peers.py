"""Real sockets on loopback; time is what the test says it is."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from balancer.addr import Address, parse_address
from balancer.config.vrrp import Heartbeat
from balancer.pool.routers import PeerFacts
from balancer.vrrp.peers import Peers
from balancer.vrrp.track import Service
from balancer.wire import heartbeat as wire
from balancer.wire.heartbeat import Beat
from tests.vrrp.conftest import Net, as_root, descriptors

KEY = "the key of both"
ROUTERS = {"VI_1": ("MASTER", 150)}
SERVICE = Service(is_serving=True, servers={"web": (2, 3)})
SESSION = b"session1"
# Not the start of any clock.
NOW = 1000.0
# Nothing on loopback takes as long, unless it never comes.
_DEADLINE = 10.0


def free(*hosts: str) -> list[str]:
    """Each of these addresses with a port that nobody has."""
    with contextlib.ExitStack() as taken:
        found = []
        for host in hosts:
            sock = taken.enter_context(socket.socket(Address(host, 1).family, socket.SOCK_DGRAM))
            sock.bind((host, 0))
            found.append(str(Address(host, sock.getsockname()[1])))
    return found


class Director:
    """One with its peers, and what it said to the log."""

    def __init__(self, bind: str, peers: list[str], *, key: str = KEY, interval: float = 1.0, node: str = "") -> None:
        self.beats = 0
        self.said: list[str] = []
        self.warned: list[str] = []
        self.address = parse_address(bind)
        heartbeat = Heartbeat(bind=bind, peers=tuple(peers), key=key)
        self.peers = Peers(heartbeat, node=node or bind, interval=interval, log=self._log)

    def _log(self, line: str, is_warning: bool) -> None:
        (self.warned if is_warning else self.said).append(line)

    def beat(self, now: float, service: Service = SERVICE) -> None:
        """Send."""
        self.beats += 1
        self.peers.send(ROUTERS, service.is_serving, service.servers, now)

    @property
    def taken(self) -> int:
        """How many datagrams it took, whatever became of them."""
        return self.peers.counted.total() - sum(self.peers.counted[kind] for kind in ("sent", "send_err", "own"))

    def take(self, now: float, count: int = 1) -> None:
        """Receive so many."""
        wanted = self.taken + count
        while self.taken < wanted:
            assert select.select([self.peers], [], [], _DEADLINE)[0], "nothing came"
            self.peers.receive(now)
        assert self.taken == wanted

    def hears(self, now: float) -> list[str]:
        """The addresses of those that are alive."""
        return [str(peer.address) for peer in self.peers.alive(now)]


class Other:
    """One that the test plays: a socket, and the beats that it makes."""

    def __init__(self, host: str, to: Director, port: int = 0) -> None:
        self.to = to
        self.socket = socket.socket(Address(host, 1).family, socket.SOCK_DGRAM)
        self.socket.bind((host, port))
        self.socket.settimeout(_DEADLINE)
        self.address = Address(host, self.socket.getsockname()[1])
        self.session = SESSION
        self.number = 0
        self.got = 0

    def send(self, octets: bytes) -> bytes:
        """Any octets."""
        self.socket.sendto(octets, self.to.address.sockaddr)
        return octets

    def heard(self) -> Beat:
        """What the director sent last."""
        return wire.parse(self.copy(), KEY.encode())

    def copy(self) -> bytes:
        """The same, as it came."""
        octets = b""
        while self.got < self.to.beats:
            octets = self.socket.recv(65536)
            self.got += 1
        return octets

    def make(self, answer_to: Beat | None = None, *, key: str = KEY, **members: object) -> bytes:
        """The next beat, which tells that it heard that one."""
        self.number += 1
        beat = Beat(
            node="lb2",
            session=self.session,
            number=self.number,
            sender=str(self.address),
            interval=1.0,
            heard={answer_to.session: answer_to.number} if answer_to else {},
            routers={"VI_1": ("BACKUP", 100)},
            is_serving=True,
            servers={"web": (1, 3)},
        )
        return wire.build(replace(beat, **members), key.encode())


Make = Callable[..., Director]


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def make(closing: contextlib.ExitStack) -> Make:
    """Makes directors, and closes them at the end."""

    def make_director(*arguments: object, **keywords: object) -> Director:
        director = Director(*arguments, **keywords)
        closing.callback(director.peers.close)
        return director

    return make_director


def pair(make: Make, *hosts: str, **keywords: object) -> tuple[Director, Director]:
    """Two that have each other as peer."""
    one, two = free(*(hosts or ("127.0.0.2", "127.0.0.3")))
    return make(one, [two], node="lb1", **keywords), make(two, [one], node="lb2", **keywords)


@pytest.fixture
def ours(make: Make) -> Director:
    """A director at 127.0.0.2 with the peers 127.0.0.3 and 127.0.0.4."""
    own, *peers = free("127.0.0.2", "127.0.0.3", "127.0.0.4")
    return make(own, peers, node="lb1")


@pytest.fixture
def other(ours: Director, closing: contextlib.ExitStack) -> Other:
    """Its peer at 127.0.0.3."""
    made = Other("127.0.0.3", ours, ours.peers.peers[0].address.port)
    closing.enter_context(made.socket)
    return made


@pytest.fixture
def third(ours: Director, closing: contextlib.ExitStack) -> Other:
    """Its peer at 127.0.0.4."""
    made = Other("127.0.0.4", ours, ours.peers.peers[1].address.port)
    closing.enter_context(made.socket)
    return made


def exchange(ours: Director, other: Other, now: float) -> bytes:
    """Ours sends and the other answers: believed from now on. What the other sent."""
    ours.beat(now)
    octets = other.send(other.make(other.heard()))
    ours.take(now)
    assert ours.hears(now) == [str(other.address)]
    return octets


class Clockwork:
    """Directors that each send when it is due, on one clock; datagrams take no time."""

    def __init__(self, start: float = NOW) -> None:
        self.now = start
        self.running: list[Director] = []

    def run(self, seconds: float, lost: Callable[[Director], bool] = lambda to: False) -> None:
        """Until then; whoever is `lost` gets nothing."""
        end = self.now + seconds
        while True:
            due = min((director.peers.due for director in self.running), default=end)
            if max(due, self.now) >= end:
                self.now = end
                return
            self.now = max(due, self.now)
            for director in self.running:
                if director.peers.due <= self.now:
                    director.beat(self.now)
                    for to in self.running:
                        if to is not director and to.address in [peer.address for peer in director.peers.peers]:
                            self._deliver(to, is_lost=lost(to))

    def _deliver(self, to: Director, *, is_lost: bool) -> None:
        if not is_lost:
            to.take(self.now)
            return
        assert select.select([to.peers], [], [], _DEADLINE)[0]
        with socket.fromfd(to.peers.fileno(), to.address.family, socket.SOCK_DGRAM) as its:
            its.recv(65536)


# Two that hear each other


@pytest.mark.parametrize("hosts", [("127.0.0.2", "127.0.0.3"), ("::1", "::1")], ids=["IPv4", "IPv6"])
def test_two_hear_each_other(make: Make, hosts: tuple[str, str]) -> None:
    ours, theirs = pair(make, *hosts)
    clock = Clockwork()
    clock.running = [ours, theirs]
    clock.run(2.0)
    assert ours.hears(clock.now) == [str(theirs.address)]
    assert theirs.hears(clock.now) == [str(ours.address)]
    (peer,) = ours.peers.peers
    assert peer.beat is not None
    assert (peer.beat.routers, peer.beat.is_serving, peer.beat.servers) == (ROUTERS, *SERVICE[:2])
    assert len(ours.said) == len(theirs.said) == 1
    assert "is heard" in ours.said[0]
    assert not ours.warned + theirs.warned


@pytest.mark.parametrize("lead", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0, 7.7])
@pytest.mark.parametrize("restarts", [(0,), (1,), (0, 1), (1, 0)], ids=str)
def test_whoever_starts_when_is_believed_within_two_intervals(
    make: Make, lead: float, restarts: tuple[int, ...]
) -> None:
    addresses = free("127.0.0.2", "127.0.0.3")

    def start(which: int) -> Director:
        return make(addresses[which], [addresses[1 - which]])

    def assert_heard(since: float) -> None:
        for which, director in enumerate(clock.running):
            assert director.hears(clock.now) == [addresses[1 - which]]
            assert director.peers.peers[0].heard_at > since
            assert not director.peers.counted["refused"] + director.peers.counted["stranger"]

    clock = Clockwork()
    clock.running = [start(0)]
    clock.run(lead)
    clock.running.append(start(1))
    clock.run(2.0)
    assert_heard(NOW + lead)
    clock.run(3.3)
    for which in restarts:
        clock.running[which].peers.close()
        clock.running[which] = start(which)
        clock.run(lead)
    began = clock.now - lead
    clock.run(max(2.0 - lead, 0.0))
    assert_heard(began)


def test_one_that_fell_silent_is_believed_again_within_two_intervals(make: Make) -> None:
    ours, theirs = pair(make)
    clock = Clockwork()
    clock.running = [ours, theirs]
    clock.run(5.5)
    clock.run(20.0, lost=lambda to: True)
    assert not ours.hears(clock.now)
    assert not theirs.hears(clock.now)
    clock.run(2.0)
    assert ours.hears(clock.now)
    assert theirs.hears(clock.now)
    assert [line.partition(" (")[2] for line in ours.said] == ["lb2) is heard", ours.said[1].partition(" (")[2]]
    assert "is heard again after 21." in ours.said[1]
    assert len(ours.warned) == 1
    assert "is silent for 4.0 s" in ours.warned[0]


def test_of_two_intervals_the_slower_counts(make: Make) -> None:
    one, two = free("127.0.0.2", "127.0.0.3")
    fast, slow = make(one, [two], interval=0.1), make(two, [one], interval=2.0)
    clock = Clockwork()
    clock.running = [fast, slow]
    clock.run(4.0)
    for _ in range(50):
        clock.run(0.2)
        assert fast.hears(clock.now)
        assert slow.hears(clock.now)
    clock.running = [fast]
    clock.run(5.9)
    assert fast.hears(clock.now - 2.0)
    assert not fast.hears(clock.now + 0.2)


def test_a_start_costs_a_few_beats_more_and_then_one_an_interval(make: Make) -> None:
    ours, theirs = pair(make)
    clock = Clockwork()
    clock.running = [ours, theirs]
    clock.run(3.0)
    before = ours.peers.counted["sent"]
    assert before <= 6
    clock.run(100.0)
    assert ours.peers.counted["sent"] - before in (99, 100, 101)


# What is not believed


def test_one_that_does_not_hear_us_does_not_count(ours: Director, other: Other) -> None:
    now = NOW
    for step in range(20):
        now = NOW + step
        ours.beat(now)
        other.send(other.make())
        ours.take(now)
        assert not ours.hears(now)
    assert ours.peers.counted["unheard"] == 20
    deaf = [line for line in ours.warned if str(other.address) in line]
    assert len(deaf) == 1
    assert "sends but does not hear us" in deaf[0]
    exchange(ours, other, now + 1)


def test_one_that_hears_us_no_longer_falls_silent(ours: Director, other: Other) -> None:
    ours.beat(NOW)
    last = other.heard()
    ends = None
    for step in range(20):
        now = NOW + step + 0.1
        ours.beat(now)
        other.send(other.make(last))
        ours.take(now)
        if not ours.hears(now) and ends is None:
            ends = step
    # It repeats our last for three intervals, and its own last counts for three more.
    assert ends == 6
    (line,) = [line for line in ours.warned if str(other.address) in line]
    assert "(lb2) sends but does not hear us, so it does not count" in line


def test_beats_of_an_earlier_start_of_ours_do_not_count(make: Make, ours: Director, other: Other) -> None:
    """All that a peer said to the director before it started anew, played back to it afterwards."""
    recorded = [exchange(ours, other, NOW + step) for step in range(5)]
    ours.peers.close()
    anew = make(str(ours.address), [str(other.address)])
    for step, octets in enumerate(recorded):
        anew.beat(NOW + 10 + step)
        other.send(octets)
        anew.take(NOW + 10 + step)
        assert not anew.hears(NOW + 10 + step)
    assert anew.peers.counted["unheard"] == 5
    assert anew.peers.peers[0].beat is None


def test_beats_of_an_earlier_start_of_a_peer_do_not_count(ours: Director, other: Other) -> None:
    """A peer started anew and died: what was recorded of its first life, and of its second, makes it no more alive."""
    recorded = [exchange(ours, other, NOW + step) for step in range(5)]
    withheld = [other.make() for _ in range(3)]
    other.session, other.number = b"session2", 0
    recorded += [exchange(ours, other, NOW + 5 + step) for step in range(5)]
    before = ours.peers.counted.copy()
    for step, octets in enumerate(recorded + withheld):
        now = NOW + 20 + step
        ours.beat(now)
        other.send(octets)
        ours.take(now)
        assert not ours.hears(now)
    assert ours.peers.counted["old"] - before["old"] == len(recorded + withheld)


def test_beats_held_back_for_long_do_not_count(ours: Director, other: Other) -> None:
    """Somebody in between keeps what a peer sends, and lets it through one by one once the peer is dead."""
    exchange(ours, other, NOW)
    kept = []
    for step in range(1, 10):
        ours.beat(NOW + step)
        kept.append(other.make(other.heard()))
    for step, octets in enumerate(kept):
        now = NOW + 20 + step
        ours.beat(now)
        other.send(octets)
        ours.take(now)
        assert not ours.hears(now)


def test_the_same_beat_again_and_an_older_one_do_not_count(ours: Director, other: Other) -> None:
    first = exchange(ours, other, NOW)
    ours.beat(NOW + 1)
    heard = other.heard()
    early, late = (other.make(heard, servers={"web": (up, 3)}) for up in (1, 2))
    other.send(late)
    ours.take(NOW + 1.0)
    for octets in (early, late, first):
        other.send(octets)
        ours.take(NOW + 1.5)
    (peer, _) = ours.peers.peers
    assert peer.beat is not None
    assert peer.beat.servers == {"web": (2, 3)}
    assert peer.heard_at == NOW + 1.0
    assert ours.peers.counted["old"] == 3
    assert not [line for line in ours.warned if "127.0.0.3" in line], "such things happen on a network"


def test_our_own_beat_that_comes_back_does_not_count(ours: Director, other: Other) -> None:
    exchange(ours, other, NOW)
    for step in range(1, 10):
        ours.beat(NOW + step)
        other.send(other.copy())
        ours.take(NOW + step)
    assert not ours.hears(NOW + 9)
    assert ours.peers.counted["own"] == ours.peers.counted["refused"] == 9
    assert len([line for line in ours.warned if "our own beat" in line]) == 1


def test_one_peers_beats_from_another_peers_address_do_not_count(ours: Director, other: Other, third: Other) -> None:
    """Both have one key, and what the one says is as fresh as can be."""
    ours.beat(NOW)
    octets = other.make(other.heard())
    third.send(octets)
    ours.take(NOW)
    assert not ours.hears(NOW)
    other.send(octets)
    ours.take(NOW)
    assert ours.hears(NOW) == [str(other.address)]
    (line,) = ours.warned
    assert f"a beat sent from {other.address}" in line


def test_a_repeated_number_that_we_never_sent_does_not_count(ours: Director, other: Other) -> None:
    ours.beat(NOW)
    heard = other.heard()
    other.send(other.make(replace(heard, number=heard.number + 1)))
    other.send(other.make(replace(heard, number=2**64 - 1)))
    ours.take(NOW, 2)
    assert not ours.hears(NOW)


def test_what_is_played_back_does_not_make_us_forget_the_living(ours: Director, other: Other) -> None:
    """Recordings of many lives, between all that it says: it would think that we do not hear it."""
    for step in range(20):
        number = other.number
        exchange(ours, other, NOW + step)
        for life in range(10):
            other.session, other.number = f"old {step:02}{life:02}".encode(), 0
            other.send(other.make())
        ours.take(NOW + step, 10)
        other.session, other.number = SESSION, number + 1
        ours.beat(NOW + step + 0.5)
        heard = other.heard().heard
        assert heard[SESSION] == other.number
        assert len(heard) <= 5
    assert not ours.warned or "127.0.0.3" not in "".join(ours.warned)


def test_it_answers_recordings_no_more_than_twice_an_interval(ours: Director, other: Other) -> None:
    sent = 0
    ours.beat(NOW)
    for step in range(1000):
        now = NOW + step / 100
        other.send(other.make())
        ours.take(now)
        if ours.peers.due <= now:
            ours.beat(now)
            sent += 1
    assert sent <= 20


def test_another_key(make: Make) -> None:
    ours, theirs = pair(make)
    theirs.peers.close()
    theirs = make(str(theirs.address), [str(ours.address)], key="another", node="lb2")
    clock = Clockwork()
    clock.running = [ours, theirs]
    clock.run(250.0)
    for director, peer in ((ours, theirs), (theirs, ours)):
        assert not director.hears(clock.now)
        assert director.peers.counted["refused"] in (250, 251)
        (line, silent) = director.warned
        assert str(peer.address) in line
        assert "most likely `vrrp.heartbeat.key` is not the same there" in line
        assert "is silent since we started" in silent


def test_any_garbage(ours: Director, other: Other) -> None:
    exchange(ours, other, NOW)
    good = other.make()
    garbage = [b"", b"\0", b"x" * 65507, good[:40], good[:-1], good + b"\0", bytes(24) + good[24:]]
    for octets in garbage:
        other.send(octets)
        ours.take(NOW + 1)
    assert ours.peers.counted["refused"] == len(garbage)
    assert len(ours.warned) == 1
    exchange(ours, other, NOW + 2)


def test_a_stranger(ours: Director, closing: contextlib.ExitStack) -> None:
    """Right key, wrong address; and the right address, but not the right port."""
    for host, port in (("127.0.0.9", ours.peers.peers[0].address.port), ("127.0.0.3", 0)):
        stranger = Other(host, ours, port)
        closing.enter_context(stranger.socket)
        stranger.send(stranger.make())
        ours.take(NOW)
    assert ours.peers.counted["stranger"] == 2
    (line,) = ours.warned
    assert "127.0.0.9" in line
    assert "no peer of ours" in line
    assert not ours.hears(NOW)


def test_a_flood_takes_a_bounded_time_and_few_lines(
    ours: Director, other: Other, closing: contextlib.ExitStack
) -> None:
    stranger = Other("127.0.0.9", ours)
    closing.enter_context(stranger.socket)
    for step in range(50):
        for each in range(100):
            (other, stranger)[each % 2].send(b"garbage" * 10)
        ours.take(NOW + step / 100, 100)
        if step % 10 == 0:
            ours.beat(NOW + step / 100)
    assert ours.peers.counted["refused"] == ours.peers.counted["stranger"] == 2500
    assert len(ours.said + ours.warned) == 2
    exchange(ours, other, NOW + 1)


def test_one_call_takes_so_much_and_no_more(ours: Director, other: Other) -> None:
    for _ in range(100):
        other.send(b"garbage")
    ours.peers.receive(NOW)
    assert 0 < ours.taken <= 64


def test_a_flood_of_the_longest_datagrams_is_bounded_too(ours: Director, other: Other) -> None:
    """However many fit into the socket."""
    sock = socket.fromfd(ours.peers.fileno(), socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), 4 << 20)
        except PermissionError:
            pytest.skip("wants CAP_NET_ADMIN")
    for _ in range(20):
        other.send(b"x" * 65507)
    assert select.select([ours.peers], [], [], _DEADLINE)[0]
    ours.peers.receive(NOW)
    assert ours.taken <= 5


def test_the_same_is_said_again_after_five_minutes(ours: Director, other: Other) -> None:
    for seconds in (0, 1, 299, 301, 302, 599, 602):
        other.send(b"garbage")
        ours.take(NOW + seconds)
    assert [line.rpartition("(")[2] for line in ours.warned] == ["1 so far)", "4 so far)", "7 so far)"]


def test_one_that_comes_and_goes_all_the_time_is_told_of_ten_times_and_then_how_it_ends(
    ours: Director, other: Other
) -> None:
    now = NOW
    for _ in range(50):
        exchange(ours, other, now)
        ours.beat(now + 4)
        other.heard()
        now += 5
    lines = [line for line in ours.said + ours.warned if str(other.address) in line]
    assert len(lines) == 10
    while now < NOW + 700:
        ours.beat(now)
        now += 1
    silent = [line for line in ours.warned if str(other.address) in line]
    assert "is silent" in silent[-1]
    assert len([line for line in ours.said + ours.warned if str(other.address) in line]) <= 12


def test_a_peer_that_starts_is_not_called_deaf(ours: Director, other: Other) -> None:
    """Its first beat cannot tell that it heard us. This one's network fails each time when it has sent that."""
    for start in range(10):
        now = NOW + 100 * start
        ours.beat(now)
        other.session, other.number = f"start {start:02}".encode(), 0
        for later in (0.0, 0.5):
            other.send(other.make())
            ours.take(now + later)
        for later in range(1, 100):
            ours.beat(now + later)
            other.copy()
    exchange(ours, other, NOW + 1000)
    assert "does not hear" not in "".join(ours.warned)


# What is sent


def test_what_a_beat_says(ours: Director, other: Other) -> None:
    ours.beat(NOW)
    beat = other.heard()
    assert (beat.node, beat.sender, beat.interval) == ("lb1", str(ours.address), 1.0)
    assert (beat.routers, beat.is_serving, beat.servers) == (ROUTERS, *SERVICE[:2])
    assert not beat.heard
    ours.beat(NOW)
    assert other.heard().number == beat.number + 1, "grows though the clock does not"


def test_when_it_is_due(ours: Director) -> None:
    assert ours.peers.due <= 0.0
    ours.beat(NOW)
    assert ours.peers.due == NOW + 1.0
    ours.beat(NOW + 0.2)
    assert ours.peers.due == NOW + 1.2


def test_names_of_any_kind(make: Make) -> None:
    one, two = free("127.0.0.2", "127.0.0.3")
    ours, theirs = make(one, [two], node="lädt\n\ud800 負載" + "x" * 300), make(two, [one])
    clock = Clockwork()
    clock.running = [ours, theirs]
    clock.run(2.0)
    (facts,) = theirs.peers.facts(clock.now, 0.0)
    assert facts.node.startswith("lädt?? 負載x")
    assert "(lädt?? 負載x" in theirs.said[0]


def test_five_thousand_servers_in_two_hundred_backends(ours: Director, other: Other) -> None:
    servers = {f"a-backend-with-a-long-name-{number}": (25, 25) for number in range(200)}
    ours.beat(NOW, Service(is_serving=True, servers=servers))
    assert other.heard().servers == servers
    assert not ours.warned


def test_more_backends_than_fit_are_left_out_and_the_rest_is_sent(ours: Director, other: Other) -> None:
    servers = {f"{number:0128}": (25, 25) for number in range(1000)}
    for step in range(10):
        ours.beat(NOW + step, Service(is_serving=True, servers=servers))
        beat = other.heard()
        assert (beat.routers, beat.servers) == (ROUTERS, {})
    (line,) = [line for line in ours.warned if "left out" in line]
    assert "the servers of 1000 backends are left out" in line


def test_what_cannot_be_said_at_all_is_no_end(ours: Director, other: Other) -> None:
    ours.peers.send({"VI_1": ("ASLEEP", 1)}, True, {}, NOW)
    assert "cannot be sent" in ours.warned[-1]
    exchange(ours, other, NOW + 1)


# Facts


def test_facts(ours: Director, other: Other, third: Other) -> None:
    unknown = PeerFacts(address=str(third.address), is_alive=False, node="", last=None)
    known = PeerFacts(
        address=str(other.address),
        is_alive=True,
        node="lb2",
        last=1.7e9 - 2.0,
        states={"VI_1": "BACKUP"},
        servers={"web": (1, 3)},
    )
    assert ours.peers.facts(NOW, 1.7e9) == (
        replace(known, is_alive=False, node="", last=None, states={}, servers={}),
        unknown,
    )
    exchange(ours, other, NOW)
    assert ours.peers.facts(NOW + 2, 1.7e9) == (known, unknown)
    assert ours.peers.facts(NOW + 4, 1.7e9 + 2.0) == (replace(known, is_alive=False), unknown)


def test_alive_ends_three_intervals_after_the_last(ours: Director, other: Other) -> None:
    exchange(ours, other, NOW)
    (peer, _) = ours.peers.peers
    assert peer.heard_at == NOW
    assert peer.until == NOW + 3.0
    assert ours.peers.alive(NOW + 3.0) == [peer]
    assert ours.peers.alive(NOW + 3.01) == []
    assert peer.beat is not None, "what it said last is still known"


# The socket


def test_the_port_is_taken(make: Make, ours: Director) -> None:
    with pytest.raises(OSError) as caught:
        make(str(ours.address), ["127.0.0.3:1"])
    assert caught.value.errno == errno.EADDRINUSE


def test_nobody_else_can_have_our_datagrams(ours: Director) -> None:
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError):
                thief.bind(ours.address.sockaddr)


@pytest.mark.parametrize(("bind", "peer"), [("127.0.0.2:7000", "[::1]:7000"), ("[::1]:7000", "127.0.0.2:7000")])
def test_addresses_of_two_families(make: Make, bind: str, peer: str) -> None:
    with pytest.raises(OSError, match="not of the family"):
        make(bind, [peer])


def test_a_failure_leaves_no_socket(make: Make, ours: Director) -> None:
    before = descriptors()
    for _ in range(10):
        with pytest.raises(OSError):
            make(str(ours.address), ["127.0.0.3:1"])
    assert descriptors() == before


def await_both(net: Net, one: str, two: str) -> None:
    """Datagrams go both ways: the kernel may make the route to a new IPv6 address a moment later."""
    end = time.monotonic() + _DEADLINE
    for source, destination in ((one, two), (two, one)):
        while time.monotonic() < end:
            with net, contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                addresses = Address(source, 1), Address(destination, 1)
                sender, target = (
                    opened.enter_context(socket.socket(each.family, socket.SOCK_DGRAM)) for each in addresses
                )
                sender.bind(addresses[0].sockaddr)
                target.bind(addresses[1].sockaddr)
                to = Address(f"{destination.partition('%')[0]}{''.join(source.partition('%')[1:])}", 1)
                sender.sendto(b"", to.sockaddr)
                if select.select([target], [], [], 0.05)[0]:
                    break
        else:
            pytest.fail(f"no datagram comes from {source} to {destination}")


@as_root
@pytest.mark.parametrize(
    ("one", "two", "length"),
    [("192.0.2.1", "192.0.2.2", 32), ("2001:db8::1", "2001:db8::2", 128)],
    ids=["IPv4", "IPv6"],
)
def test_an_interface_that_comes_and_goes(
    make: Make, closing: contextlib.ExitStack, one: str, two: str, length: int
) -> None:
    """Nothing is up at the start, then the addresses come, go, and come."""
    net = Net()
    closing.callback(net.close)
    binds = [str(Address(host, 7000)) for host in (one, two)]
    # As on any host. Before a namespace has its first address, the kernel takes all others for broadcast ones.
    net.ip("link set lo up")
    with net:
        ours, theirs = make(binds[0], binds[1:]), make(binds[1], binds[:1])
    for step in range(5):
        ours.beat(NOW + step)
        ours.peers.receive(NOW + step)
    assert ours.peers.counted["send_err"] == 5
    unreachable = [line for line in ours.warned if "cannot send" in line]
    assert len(unreachable) == 1
    assert "unreachable" in unreachable[0]
    clock = Clockwork(NOW + 5)
    clock.running = [ours, theirs]
    for _ in range(2):
        for host in (one, two):
            net.ip(f"address add {host}/{length} dev lo")
        await_both(net, one, two)
        clock.run(2.0)
        assert ours.hears(clock.now)
        assert theirs.hears(clock.now)
        for host in (one, two):
            net.ip(f"address del {host}/{length} dev lo")
        for _ in range(5):
            clock.now += 1.0
            ours.beat(clock.now)
            theirs.beat(clock.now)
        assert not ours.hears(clock.now)
    assert ours.peers.counted["send_err"] == 15


@as_root
def test_link_local_addresses(make: Make, closing: contextlib.ExitStack) -> None:
    """Each end has its own name for the link, and may say nothing of the other's."""
    net = Net()
    closing.callback(net.close)
    net.ip("link add name one type veth peer name two")
    for name, host in (("one", "fe80::1"), ("two", "fe80::2")):
        net.ip(f"link set {name} up")
        net.ip(f"address add {host}/64 dev {name}")
    await_both(net, "fe80::1%one", "fe80::2%two")
    with net:
        ours = make("[fe80::1%one]:7000", ["[fe80::2%one]:7000"])
        theirs = make("[fe80::2%two]:7000", ["[fe80::1%two]:7000"])
        for step in range(2):
            ours.beat(NOW + step)
            theirs.take(NOW + step)
            theirs.beat(NOW + step)
            ours.take(NOW + step)
        assert ours.hears(NOW + 1) == ["[fe80::2%one]:7000"]
        assert theirs.hears(NOW + 1) == ["[fe80::1%two]:7000"]
        net.ip("link delete one")
        ours.beat(NOW + 2)
        theirs.beat(NOW + 2)
    assert "cannot send" in ours.warned[-1]
    assert "cannot send" in theirs.warned[-1]
