"""Real programs, and a clock that is only an argument."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.vrrp import CheckScript, TrackFile
from balancer.daemon.spawn import spawn
from balancer.vrrp.script import Files, Outcome, Scripts, ending, has_ended, kill
from tests.e2e.bed.process import is_alive, until

Write = Callable[..., tuple[str, ...]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a program of a shell's lines; its command."""

    def make(lines: str, *, name: str = "check", mode: int = 0o755) -> tuple[str, ...]:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(mode)
        return (str(path),)

    return make


class Bench:
    """Scripts, and what a supervisor does for them."""

    def __init__(self, scripts: dict[str, CheckScript]) -> None:
        self.now = 1000.0
        self.started: list[tuple[float, str]] = []
        """When, and which program."""
        self.running: list[int] = []
        self.said: list[str] = []
        self.warned: list[str] = []
        self.spawn_error: OSError | None = None
        self.scripts = Scripts(scripts, spawn=self._spawn, log=self._log)

    def _spawn(self, words: Sequence[str]) -> int:
        if self.spawn_error is not None:
            raise self.spawn_error
        self.started.append((self.now, words[0]))
        self.running.append(spawn(words, None))
        return self.running[-1]

    def _log(self, line: str, is_warning: bool) -> None:
        (self.warned if is_warning else self.said).append(line)

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.scripts.outcomes.values()
        return outcome

    @property
    def starts(self) -> list[float]:
        """Seconds after the first."""
        return [round(at - 1000, 3) for at, _ in self.started]

    def turn(self) -> None:
        """Go on to when something is due."""
        self.now = max(self.now, self.scripts.due)
        self.scripts.turn(self.now)

    def reap(self, *, after: float = 0.0) -> int:
        """Wait for the oldest child; its status."""
        pid = self.running[0]
        _, status = until(lambda: found if (found := os.waitpid(pid, os.WNOHANG))[0] else None, "a child ends")
        del self.running[0]
        self.now += after
        assert self.scripts.ended(pid, status, self.now)
        return status

    def run(self, times: int = 1) -> Outcome:
        """Start it and wait for its end."""
        for _ in range(times):
            self.turn()
            self.reap(after=0.01)
        return self.outcome

    def clean(self) -> None:
        for pid in self.running:
            with contextlib.suppress(ChildProcessError):
                has_ended(pid)
                kill(pid)
                os.waitpid(pid, 0)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes a bench of one script `chk`, or of several."""
    benches: list[Bench] = []

    def make(command: tuple[str, ...] = ("/bin/true",), *, count: int | None = None, **keys: object) -> Bench:
        scripts = {f"chk{number}" if count else "chk": check(command, **keys) for number in range(count or 1)}
        benches.append(Bench(scripts))
        return benches[-1]

    yield make
    for made in benches:
        made.clean()


def check(command: tuple[str, ...], **keys: object) -> CheckScript:
    return CheckScript.model_construct(**{**_DEFAULTS, "script": command, **keys})


_DEFAULTS = {name: field.default for name, field in CheckScript.model_fields.items() if name != "script"}


def test_nothing_is_known_before_the_first_run(bench):
    own = bench()
    assert own.outcome == Outcome(None, "not run yet")
    own.turn()
    assert own.outcome == Outcome(None, "not run yet")
    own.reap()
    assert own.outcome == Outcome(True, "exit status 0")
    assert own.said == ["script chk: succeeds"]


def test_without_scripts_there_is_nothing_to_do():
    own = Bench({})
    assert own.scripts.due == inf
    own.scripts.turn(5.0)
    assert own.scripts.due == inf
    own.scripts.stop()


@pytest.mark.parametrize("last", [0, 1])
def test_the_first_result_counts_at_once(bench, write, last):
    own = bench(write(f"exit {last}"), rise=5, fall=5)
    assert own.run().is_good == (not last)


def test_later_results_count_after_rise_and_fall_in_a_row(bench, write):
    own = bench(write("exit 0"), rise=3, fall=2)
    assert own.run().is_good
    write("exit 3")
    assert own.run() == Outcome(True, "exit status 3")
    write("exit 0")
    assert own.run().is_good
    write("exit 4")
    assert own.run().is_good
    assert own.run() == Outcome(False, "exit status 4")
    assert own.warned == ["script chk: failed (exit status 4)"]
    write("exit 0")
    assert own.run(2) == Outcome(False, "exit status 0")
    write("exit 4")
    own.run()
    write("exit 0")
    assert own.run(2) == Outcome(False, "exit status 0")
    assert own.run().is_good
    assert own.said == ["script chk: succeeds", "script chk: succeeds again"]
    assert len(own.warned) == 1


def test_init_fail_is_bad_until_it_was_good_often_enough(bench, write):
    own = bench(write("exit 0"), rise=2, init_fail=True)
    assert own.outcome == Outcome(False, "not run yet")
    assert own.run() == Outcome(False, "exit status 0")
    assert not own.said and not own.warned
    assert own.run().is_good
    assert own.said == ["script chk: succeeds"]


def test_init_fail_and_bad_from_the_first_is_said_once(bench, write):
    own = bench(write("exit 1"), init_fail=True, fall=4)
    own.run(3)
    assert own.warned == ["script chk: failed (exit status 1)"]


class Keepalived:
    """Its counting, as in vrrp_script_child_thread."""

    def __init__(self, *, rise: int, fall: int, init_fail: bool) -> None:
        self.rise, self.fall = rise, fall
        self.is_init = not init_fail
        self.result = 0 if init_fail else rise - 1

    def count(self, is_good: bool) -> bool:
        """Whether it is good now."""
        if is_good:
            if self.result < self.rise - 1:
                self.result += 1
            else:
                self.result = self.rise + self.fall - 1
        elif self.result > self.rise:
            self.result -= 1
        else:
            self.result = 0
        return self.result >= self.rise


@given(
    results=st.lists(st.booleans(), max_size=60),
    rise=st.integers(1, 5),
    fall=st.integers(1, 5),
    init_fail=st.booleans(),
)
def test_it_counts_as_keepalived_does(results, rise, fall, init_fail):
    pids = iter(range(1, 100))
    script = check(("/check",), rise=rise, fall=fall, init_fail=init_fail)
    scripts = Scripts({"chk": script}, spawn=lambda _: next(pids), log=lambda *_: None)
    expected = Keepalived(rise=rise, fall=fall, init_fail=init_fail)
    for number, is_good in enumerate(results, 1):
        scripts.turn(float(number))
        assert scripts.ended(number, 0 if is_good else 256, number + 0.5)
        assert scripts.outcomes["chk"].is_good == expected.count(is_good)


def test_only_its_own_children_are_its_own(bench):
    own = bench()
    own.turn()
    assert not own.scripts.ended(own.running[0] + 1, 0, own.now)
    assert own.outcome.is_good is None
    own.reap()
    assert not own.scripts.ended(1, 0, own.now)


def test_each_interval_begins_with_a_start(bench):
    own = bench(interval=2.0)
    own.run(3)
    assert own.starts == [0, 2, 4]


def test_a_turn_before_its_time_does_nothing(bench):
    own = bench()
    own.run()
    own.scripts.turn(own.scripts.due - 0.01)
    assert own.starts == [0]


def test_starts_that_were_missed_are_left_out(bench):
    """The machine stood still for a while."""
    own = bench()
    own.run()
    own.now += 100.5
    own.run(3)
    assert own.starts == [0, 100.51, 101.51, 102.51]


def test_a_run_longer_than_the_interval_is_not_started_twice(bench, write, tmp_path):
    own = bench(write(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"), interval=1.0, timeout=10.0)
    own.turn()
    for _ in range(3):
        own.now += 1
        own.scripts.turn(own.now)
    assert own.starts == [0]
    assert own.outcome.is_good is None
    (tmp_path / "go").touch()
    own.reap(after=0.5)
    assert own.outcome.is_good
    own.turn()
    assert own.starts == [0, 4]


HANGS = """trap '' TERM INT HUP
(trap '' TERM; for second in $(seq 60); do sleep 1; done) &
echo $! > {0}.new; mv {0}.new {0}
for second in $(seq 60); do sleep 1; done"""


def test_a_run_over_its_time_is_killed_with_all_it_started(bench, write, tmp_path):
    pid_file = tmp_path / "pid"
    own = bench(write(HANGS.format(pid_file)), interval=1.0, timeout=3.0)
    own.turn()
    until(pid_file.exists, "the script's child is there")
    child = int(pid_file.read_text())
    own.now += 2.9
    own.scripts.turn(own.now)
    assert is_alive(own.running[0])
    assert own.outcome.is_good is None
    own.turn()
    # At once, whenever it is reaped.
    assert own.outcome == Outcome(False, "killed after 3 s")
    assert own.reap() == signal.SIGKILL
    assert own.outcome == Outcome(False, "killed after 3 s")
    assert own.warned == ["script chk: failed (killed after 3 s)"]
    until(lambda: not is_alive(child), "the script's child is gone")


def test_a_script_that_hangs_is_tried_each_interval(bench, write):
    """Its default timeout is its interval: no start is missed for that."""
    own = bench(write("exec sleep 300"), fall=3)
    for _ in range(4):
        own.turn()
        own.turn()
        own.reap()
    assert own.starts == [0, 1, 2, 3]
    assert own.outcome.is_good is False


def test_each_run_over_its_time_counts_once(bench, write):
    own = bench(write("exit 0"), fall=3)
    own.run()
    write("exec sleep 300")
    for number in (1, 2, 3):
        own.turn()
        own.turn()
        assert own.outcome == Outcome(number < 3, "killed after 1 s")
        own.reap()
        assert own.outcome == Outcome(number < 3, "killed after 1 s")


def test_one_that_ended_in_time_is_not_killed_for_being_reaped_late(bench, write, monkeypatch):
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))
    own = bench(write("exit 0"))
    own.turn()
    until(lambda: has_ended(own.running[0]), "it ended")
    own.turn()
    assert own.outcome.is_good is None
    assert own.scripts.due > own.now
    own.reap()
    assert own.outcome == Outcome(True, "exit status 0")
    assert not killed


def test_nobody_is_killed_whose_number_may_be_anothers(bench, monkeypatch):
    """Somebody else in this process waited for the child."""
    killed: list[int] = []
    own = bench()
    own.turn()
    pid = own.running.pop()
    os.waitpid(pid, 0)
    for name in ("kill", "killpg"):
        monkeypatch.setattr(os, name, lambda pid, _: killed.append(pid))
    own.turn()
    assert not killed
    assert own.outcome == Outcome(False, "ended, nobody knows how")
    assert not own.scripts.ended(pid, 0, own.now)
    # The next has begun.
    own.reap()
    assert own.outcome.is_good


def test_one_that_cannot_be_killed_fails_each_interval_and_is_not_started_again(bench, write, monkeypatch):
    def killpg(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    own = bench(write("exit 0"), fall=3)
    own.run()
    write("exec sleep 300")
    own.turn()
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", killpg)
        own.turn()
        assert own.outcome == Outcome(True, "killed after 1 s")
        own.turn()
        assert own.outcome == Outcome(True, "killed after 1 s, still there after 2 s")
        own.turn()
        assert own.outcome == Outcome(False, "killed after 1 s, still there after 3 s")
    assert own.starts == [0, 1]
    own.turn()
    assert own.reap() == signal.SIGKILL
    own.turn()
    assert own.starts == [0, 1, 5]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("exit 255", "exit status 255"),
        ("kill -9 $$", "killed by signal 9 (Killed)"),
        ("kill $$", "killed by signal 15 (Terminated)"),
        ("/no/such/program", "exit status 127 (no such program)"),
    ],
)
def test_what_its_end_says(bench, write, lines, text):
    assert bench(write(lines)).run() == Outcome(False, text)


def test_one_that_writes_much_is_not_held_up(bench, write):
    assert bench(write("head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2")).run().is_good


def test_one_that_reads_finds_nothing(bench, write):
    assert bench(write("cat > /dev/null")).run().is_good


def test_a_program_replaced_while_we_run(bench, write):
    (path,) = command = write("exit 0")
    own = bench(command)
    assert own.run().is_good
    write("exit 0", mode=0o644)
    assert own.run() == Outcome(False, "exit status 126 (not executable)")
    Path(path).unlink()
    assert own.run() == Outcome(False, "exit status 127 (no such program)")
    Path(path).mkdir()
    assert own.run() == Outcome(False, "exit status 126 (not executable)")
    Path(path).rmdir()
    write("exit 0")
    assert own.run().is_good


def test_where_there_can_be_no_process_it_has_failed(bench):
    """Silence would be taken for health."""
    own = bench(fall=2)
    own.run()
    own.spawn_error = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    own.turn()
    assert own.outcome == Outcome(True, "cannot be started: Resource temporarily unavailable")
    own.turn()
    assert own.outcome == Outcome(False, "cannot be started: Resource temporarily unavailable")
    assert own.warned == ["script chk: failed (cannot be started: Resource temporarily unavailable)"]
    assert own.now == 1002
    own.spawn_error = None
    assert own.run().is_good


def test_many_are_not_started_at_the_same_moment(bench):
    own = bench(count=50, interval=2.0, timeout=100.0)
    for _ in range(150):
        own.turn()
        own.reap()
    gaps = [after - before for before, after in zip(own.starts, own.starts[1:], strict=False)]
    assert min(gaps) >= 0.019
    assert own.starts[49] <= 2
    assert own.starts[100] == 4


def test_a_turn_starts_one_and_the_one_that_waits_longest():
    """However many are due: forking takes time from somebody else."""
    started: list[str] = []

    def start(words: Sequence[str]) -> int:
        started.append(words[0])
        return len(started)

    intervals = {"/a": 4.0, "/b": 3.0, "/c": 2.0, "/d": 1.0}
    checks = {name: check((name,), interval=interval) for name, interval in intervals.items()}
    scripts = Scripts(checks, spawn=start, log=lambda *_: None)
    for number in (1, 2, 3, 4):
        scripts.turn(1000.1 if number > 1 else 1000.0)
        scripts.ended(number, 0, 1000.1)
    assert started == ["/a", "/b", "/c", "/d"]
    # All are due, the one of the shortest interval for the longest time.
    for number in (5, 6, 7, 8):
        assert scripts.due <= 1004.5
        scripts.turn(1004.5)
        assert len(started) == number
    assert started[4:] == ["/d", "/c", "/b", "/a"]
    assert scripts.due > 1004.5


def test_many_of_a_short_interval_begin_within_it(bench):
    own = bench(count=10, interval=0.05)
    for _ in range(10):
        own.turn()
    assert own.starts[-1] < 0.05
    assert len(own.starts) == 10


def test_after_the_stop_nothing_runs(bench, write, tmp_path):
    pid_file = tmp_path / "pid"
    own = bench(write(HANGS.format(pid_file)))
    own.turn()
    until(pid_file.exists, "the script's child is there")
    child = int(pid_file.read_text())
    own.scripts.stop()
    assert own.scripts.due == inf
    assert own.reap() == signal.SIGKILL
    until(lambda: not is_alive(child), "the script's child is gone")
    own.scripts.turn(own.now + 100)
    assert len(own.started) == 1
    assert own.scripts.due == inf
    assert not own.warned


def test_killing_one_that_has_no_group_yet():
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        kill(pid)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    finally:
        os.close(reading)
        os.close(writing)


def test_what_status_says():
    assert ending(0) == "exit status 0"
    assert ending(126 << 8) == "exit status 126 (not executable)"
    assert ending(signal.SIGSEGV) == "killed by signal 11 (Segmentation fault)"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files({"load": TrackFile(file=str(tmp_path / "load"))})


@pytest.mark.parametrize(
    ("octets", "number"),
    [
        (b"7", 7),
        (b"  -12\n", -12),
        (b"+5 apples", 5),
        (b"0x1F", 31),
        (b"010", 8),
        (b"0", 0),
        (b"", 0),
        (b"none", 0),
        (b"\xff\xfe", 0),
        (b"2147483648", 1 << 31),
        (b"-2147483648", -(1 << 31)),
        (b" " * 127 + b"5", 5),
        (b" " * 128 + b"5", 0),
    ],
)
def test_a_number_in_a_file(files, tmp_path, octets, number):
    (tmp_path / "load").write_bytes(octets)
    files.read()
    assert files.numbers == {"load": number}


@given(octets=st.text("+-0123456789xXabfg \n.", max_size=14))
def test_numbers_are_read_as_by_c(octets, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "strtol"
    path.write_text(octets)
    strtol = ctypes.CDLL(None).strtol
    strtol.restype = ctypes.c_long
    wanted = strtol(octets.encode(), None, 0)
    files = Files({"load": TrackFile(file=str(path))})
    files.read()
    assert files.numbers["load"] == (wanted if -(1 << 31) <= wanted <= 1 << 31 else 0)


def test_a_number_nobody_can_mean_is_not_taken(files, tmp_path):
    (tmp_path / "load").write_text("5")
    files.read()
    (tmp_path / "load").write_text("99999999999")
    files.read()
    assert files.numbers == {"load": 5}


def test_a_file_that_is_not_there_is_zero_at_once(files, tmp_path):
    files.read()
    assert files.numbers == {"load": 0}
    (tmp_path / "load").write_text("5")
    files.read()
    (tmp_path / "load").unlink()
    files.read()
    assert files.numbers == {"load": 0}


def test_a_file_that_is_just_being_written_keeps_its_number(files, tmp_path):
    path = tmp_path / "load"
    path.write_text("5")
    files.read()
    path.write_text("")
    files.read()
    assert files.numbers == {"load": 5}
    files.read()
    assert files.numbers == {"load": 0}
    path.write_text("6")
    files.read()
    assert files.numbers == {"load": 6}


def test_a_link_to_a_file_is_a_file(files, tmp_path):
    (tmp_path / "real").write_text("9")
    (tmp_path / "load").symlink_to("real")
    files.read()
    assert files.numbers == {"load": 9}


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK])
def test_what_is_no_file_does_not_hold_us_up(files, tmp_path, kind):
    path = tmp_path / "load"
    if kind == stat.S_IFDIR:
        path.mkdir()
    elif kind == stat.S_IFLNK:
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, kind | 0o600)
    files.read()
    assert files.numbers == {"load": 0}


def test_a_pipe_that_somebody_writes_to_is_not_read(files, tmp_path):
    path = tmp_path / "load"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, b"7")
        files.read()
        assert files.numbers == {"load": 0}
        assert os.read(descriptor, 10) == b"7"
    finally:
        os.close(descriptor)
