"""Real programs and pipes, and a clock that is only an argument."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path

import pytest

from balancer.config.vrrp import SyncGroup, Vrrp, VrrpInstance
from balancer.daemon.spawn import spawn
from balancer.vrrp.notify import Notifier
from balancer.vrrp.script import has_ended, kill
from tests.e2e.bed.process import is_alive, until

NOBODY = pwd.getpwnam("nobody")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


class Bench:
    """A notifier, and what a supervisor does for it. Its programs write to the file `told`."""

    def __init__(self, path: Path, *, instances: Sequence[str], keys: dict[str, object], **vrrp: object) -> None:
        self.path = path
        self.now = 1000.0
        self.running: list[int] = []
        self.said: list[str] = []
        self.warned: list[str] = []
        self.spawn_error: OSError | None = None
        own = {
            name: VrrpInstance(interface="eth0", virtual_router_id=7, virtual_ipaddress=("192.0.2.1/32",), **keys)
            for name in instances
        }
        groups = {"G": SyncGroup(group=tuple(instances), **keys)}
        self.vrrp = Vrrp(instances=own, sync_groups=groups, **vrrp)
        self.notifier = Notifier(self.vrrp, spawn=self._spawn, log=self._log)

    def _spawn(self, words: Sequence[str]) -> int:
        if self.spawn_error is not None:
            raise self.spawn_error
        self.running.append(spawn(words, None))
        return self.running[-1]

    def _log(self, line: str, is_warning: bool) -> None:
        (self.warned if is_warning else self.said).append(line)

    @property
    def told(self) -> list[str]:
        """What the programs wrote."""
        path = self.path / "told"
        return path.read_text().splitlines() if path.exists() else []

    def tell(self, state: str, name: str = "VI_1", *, kind: str = "INSTANCE", priority: int = 100) -> None:
        self.notifier.tell(kind, name, state, priority, self.now)

    def turn(self) -> None:
        self.notifier.turn(self.now)

    def reap(self) -> int:
        """Wait for the oldest child; its status."""
        pid = self.running[0]
        _, status = until(lambda: found if (found := os.waitpid(pid, os.WNOHANG))[0] else None, "a child ends")
        del self.running[0]
        assert self.notifier.ended(pid, status, self.now)
        return status

    def run(self) -> None:
        """Until there is nothing more to start."""
        while self.running or self.notifier.due <= self.now:
            self.turn()
            if self.running:
                self.reap()

    def clean(self) -> None:
        for pid in self.running:
            with contextlib.suppress(ChildProcessError):
                has_ended(pid)
                kill(pid)
                os.waitpid(pid, 0)
        self.notifier.close()


Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Make]:
    """Makes a notifier whose programs are the named ones; each writes its name and arguments to `told`."""
    made: list[Bench] = []

    def make(*programs: str, instances: Sequence[str] = ("VI_1",), lines: str = "", **vrrp: object) -> Bench:
        keys = {name: (program(tmp_path, name, lines), "own arg") for name in programs}
        made.append(Bench(tmp_path, instances=instances, keys=keys, **vrrp))
        return made[-1]

    yield make
    for each in made:
        each.clean()


def program(directory: Path, name: str, lines: str = "") -> str:
    path = directory / name
    path.write_text(f'#!/bin/sh\necho "{name}" "$@" >> {directory}/told\n{lines}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    return tmp_path / "pipe"


@contextlib.contextmanager
def reader(path: Path) -> Iterator[Callable[[], str]]:
    """Reads a pipe; what has come since it was asked last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> str:
        with contextlib.suppress(BlockingIOError):
            return os.read(descriptor, 1 << 20).decode()
        return ""

    try:
        yield read
    finally:
        os.close(descriptor)


ALL = ("notify_master", "notify_backup", "notify_fault", "notify_stop", "notify")


@pytest.mark.parametrize("state", ["MASTER", "BACKUP", "FAULT", "STOP"])
def test_the_program_of_the_state_gets_its_own_arguments_and_notify_four_more(bench, state):
    own = bench(*ALL)
    own.tell(state, priority=150)
    own.run()
    assert sorted(own.told) == sorted([f"notify_{state.lower()} own arg", f"notify own arg INSTANCE VI_1 {state} 150"])
    assert not own.warned


def test_of_a_group(bench):
    own = bench(*ALL)
    own.tell("MASTER", "G", kind="GROUP", priority=0)
    own.run()
    assert own.told == ["notify_master own arg", "notify own arg GROUP G MASTER 0"]


def test_an_instance_and_a_group_of_the_same_name_are_two(tmp_path, bench):
    own = bench("notify", instances=["G"])
    own.tell("MASTER", "G")
    own.tell("BACKUP", "G", kind="GROUP")
    own.run()
    assert own.told == ["notify own arg INSTANCE G MASTER 100", "notify own arg GROUP G BACKUP 100"]


def test_without_programs_there_is_nothing_to_do(bench):
    own = bench()
    assert own.notifier.due == inf
    own.tell("MASTER")
    assert own.notifier.due == inf
    own.turn()
    own.tell("STOP")
    assert not own.running
    assert own.notifier.dropped == 0


def test_only_its_own_children_are_its_own(bench):
    own = bench("notify")
    own.tell("MASTER")
    own.turn()
    assert not own.notifier.ended(own.running[0] + 1, 0, own.now)
    own.run()


def test_telling_forks_nothing_and_a_turn_starts_one(bench):
    """A transition has more urgent things to do."""
    own = bench("notify", instances=["VI_1", "VI_2", "VI_3"])
    for name in ("VI_1", "VI_2", "VI_3"):
        own.tell("MASTER", name)
    assert not own.running
    for number in (1, 2, 3):
        assert own.notifier.due <= own.now
        own.turn()
        assert len(own.running) == number
    assert own.notifier.due > own.now
    own.run()


def test_one_after_another_and_the_last_state_last(bench, tmp_path):
    own = bench("notify", lines=f"[ $4 != MASTER ] || until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    own.tell("MASTER")
    own.turn()
    until(lambda: own.told, "the first was started")
    # While its program runs.
    for state in ("BACKUP", "MASTER", "FAULT", "BACKUP"):
        own.tell(state)
        own.turn()
    assert len(own.running) == 1
    (tmp_path / "go").touch()
    own.run()
    assert own.told == ["notify own arg INSTANCE VI_1 MASTER 100", "notify own arg INSTANCE VI_1 BACKUP 100"]
    assert own.notifier.due == inf


def test_a_state_that_was_begun_is_told_to_both_programs(bench):
    own = bench(*ALL)
    own.tell("MASTER")
    own.turn()
    own.tell("BACKUP")
    own.run()
    assert [line.removesuffix(" 100") for line in own.told] == [
        "notify_master own arg",
        "notify own arg INSTANCE VI_1 MASTER",
        "notify_backup own arg",
        "notify own arg INSTANCE VI_1 BACKUP",
    ]


def test_a_state_that_was_left_before_its_turn_came_is_not_told(bench):
    own = bench(*ALL)
    own.tell("BACKUP")
    own.tell("MASTER")
    own.run()
    assert own.told == ["notify_master own arg", "notify own arg INSTANCE VI_1 MASTER 100"]


def test_a_state_that_has_no_program_leaves_the_one_before_untold_too(bench):
    own = bench("notify_master")
    own.tell("MASTER")
    own.tell("BACKUP")
    assert own.notifier.due == inf
    own.run()
    assert own.told == []


def test_others_do_not_wait_for_one_that_hangs(bench, tmp_path):
    own = bench("notify", instances=["VI_1", "VI_2"], lines="[ $3 != VI_1 ] || exec sleep 300")
    own.tell("MASTER", "VI_1")
    own.turn()
    own.tell("MASTER", "VI_2")
    own.turn()
    until(lambda: len(own.told) == 2, "both were told")


def test_one_that_hangs_is_killed_with_all_it_started(bench, tmp_path):
    lines = f"[ $4 != MASTER ] || {{ sleep 300 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait; }}"
    own = bench("notify", lines=lines)
    own.tell("MASTER")
    own.turn()
    own.tell("BACKUP")
    until((tmp_path / "pid").exists, "the child is there")
    child = int((tmp_path / "pid").read_text())
    assert own.notifier.due == own.now + 60
    own.now += 59.9
    own.turn()
    assert is_alive(own.running[0])
    assert not own.warned
    own.now += 0.2
    own.turn()
    assert own.reap() == signal.SIGKILL
    until(lambda: not is_alive(child), "the child is gone")
    assert own.warned == [f"(VI_1) {tmp_path}/notify, told of MASTER: killed after 60 s"]
    own.run()
    assert own.told[-1].endswith("BACKUP 100")
    assert len(own.warned) == 1


def test_one_that_the_kernel_does_not_let_go_of_holds_up_nobody(bench, monkeypatch):
    own = bench("notify", lines="[ $4 = FAULT ] || exec sleep 300")
    own.tell("MASTER")
    own.turn()
    own.tell("BACKUP")
    until(lambda: len(own.told) == 1, "the first was told")
    own.now += 60
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda *_: None)
        own.turn()
    until(lambda: len(own.told) == 2, "the second was told")
    own.tell("FAULT")
    # Its end at last does not mean that the second has ended.
    kill(own.running[0])
    own.reap()
    own.turn()
    assert len(own.running) == 1
    assert own.notifier.due == own.now + 60
    kill(own.running[0])
    own.run()
    assert [line.split()[-2] for line in own.told] == ["MASTER", "BACKUP", "FAULT"]
    assert own.warned == [
        f"(VI_1) {own.path}/notify, told of MASTER: killed after 60 s",
        f"(VI_1) {own.path}/notify, told of BACKUP: killed by signal 9 (Killed)",
    ]


def test_one_that_ended_in_time_is_not_killed_for_being_reaped_late(bench, monkeypatch):
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))
    own = bench("notify", lines="exit 3")
    own.tell("MASTER")
    own.turn()
    until(lambda: has_ended(own.running[0]), "it ended")
    own.now += 100
    own.turn()
    assert not killed
    assert own.notifier.due == inf
    own.reap()
    assert own.warned == [f"(VI_1) {own.path}/notify, told of MASTER: exit status 3"]


def test_nobody_is_killed_whose_number_may_be_anothers(bench, monkeypatch):
    killed: list[int] = []
    own = bench("notify")
    own.tell("MASTER")
    own.turn()
    pid = own.running.pop()
    os.waitpid(pid, 0)
    monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))
    own.now += 60
    own.turn()
    assert not killed
    assert not own.notifier.ended(pid, 0, own.now)
    own.tell("BACKUP")
    own.run()
    assert own.told[-1].endswith("BACKUP 100")


def test_one_that_fails_is_told_of(bench, tmp_path):
    own = bench("notify_master", lines="exit 7")
    own.tell("MASTER")
    own.run()
    (tmp_path / "notify_master").unlink()
    own.tell("MASTER")
    own.run()
    assert own.warned == [
        f"(VI_1) {tmp_path}/notify_master, told of MASTER: exit status 7",
        f"(VI_1) {tmp_path}/notify_master, told of MASTER: exit status 127 (no such program)",
    ]


def test_where_there_can_be_no_process_it_is_tried_again(bench):
    own = bench("notify_master", "notify")
    own.spawn_error = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    own.tell("MASTER")
    for _ in range(3):
        own.turn()
        assert own.notifier.due == own.now + 1
        own.now += 1
    program = own.path / "notify_master"
    assert own.warned == [f"(VI_1) {program} cannot be told of MASTER: Resource temporarily unavailable"]
    own.spawn_error = None
    own.run()
    assert own.told == ["notify_master own arg", "notify own arg INSTANCE VI_1 MASTER 100"]


def test_a_stop_is_told_at_once_whatever_runs(bench):
    own = bench(*ALL, instances=["VI_1", "VI_2"], lines='case "$0$*" in *master*|*MASTER*) exec sleep 300;; esac')
    own.tell("MASTER")
    own.turn()
    own.tell("FAULT")
    until(lambda: own.told, "the first was started")
    own.tell("STOP")
    own.tell("STOP", "VI_2")
    assert len(own.running) == 5
    until(lambda: len(own.told) == 5, "all were started")
    assert not [line for line in own.told if "FAULT" in line or "notify_fault" in line]
    assert sorted(own.told[1:]) == [
        "notify own arg INSTANCE VI_1 STOP 100",
        "notify own arg INSTANCE VI_2 STOP 100",
        "notify_stop own arg",
        "notify_stop own arg",
    ]
    # They go on when we are gone.
    own.notifier.close()
    assert is_alive(own.running[0])
    # And nothing of what was left is told afterwards.
    kill(own.running[0])
    own.run()
    assert len(own.told) == 5
    assert own.notifier.due == inf


def test_a_stop_where_there_can_be_no_process(bench):
    own = bench("notify_stop", "notify")
    own.spawn_error = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    own.tell("STOP")
    assert own.warned
    assert own.notifier.due == inf


# The pipe


def test_the_pipe_is_made_and_for_nobody_else(bench, fifo):
    bench(notify_fifo=str(fifo))
    made = fifo.lstat()
    assert stat.S_ISFIFO(made.st_mode)
    assert stat.S_IMODE(made.st_mode) == 0o600
    assert made.st_uid == os.geteuid()


@as_root
def test_the_pipe_belongs_to_the_user_of_scripts(bench, fifo):
    own = bench(notify_fifo=str(fifo), script_user="nobody")
    assert (fifo.stat().st_uid, fifo.stat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    with reader(fifo) as read:
        own.tell("MASTER")
        assert read()
    assert not own.warned


def test_lines_as_keepalived_writes_them(bench, fifo):
    own = bench(notify_fifo=str(fifo))
    with reader(fifo) as read:
        own.tell("MASTER", priority=150)
        own.tell("MASTER", "G", kind="GROUP", priority=0)
        own.tell("STOP", priority=150)
        assert read() == 'INSTANCE "VI_1" MASTER 150\nGROUP "G" MASTER 0\nINSTANCE "VI_1" STOP 150\n'
    assert own.notifier.due == inf
    assert not own.warned


def test_who_comes_to_read_learns_how_things_stand(bench, fifo):
    own = bench(notify_fifo=str(fifo), instances=["VI_1", "VI_2"])
    own.tell("BACKUP", "VI_1")
    own.tell("BACKUP", "VI_2")
    assert not own.warned
    own.tell("MASTER", "VI_1")
    own.tell("FAULT", "VI_1")
    assert own.notifier.due == own.now + 1
    assert own.warned == [f"{fifo}: nobody reads it, or too slowly: older lines are dropped"]
    assert own.notifier.dropped == 2
    with reader(fifo) as read:
        own.now += 1
        own.turn()
        assert read() == 'INSTANCE "VI_2" BACKUP 100\nINSTANCE "VI_1" FAULT 100\n'
        assert own.notifier.due == inf
        assert own.said == [f"{fifo}: is read again; lines dropped: 2"]
        own.tell("BACKUP")
        assert read() == 'INSTANCE "VI_1" BACKUP 100\n'
    assert len(own.said) == len(own.warned) == 1


def test_a_reader_that_goes_and_comes(bench, fifo):
    own = bench(notify_fifo=str(fifo))
    for state in ("MASTER", "BACKUP"):
        with reader(fifo) as read:
            own.tell(state)
            assert read() == f'INSTANCE "VI_1" {state} 100\n'
        own.tell("FAULT")
        assert own.notifier.due == own.now + 1
    with reader(fifo) as read:
        own.now += 1
        own.turn()
        assert read() == 'INSTANCE "VI_1" FAULT 100\n'
    assert not [line for line in own.warned if "older lines are dropped" not in line]


def test_a_slow_reader_holds_up_nobody(bench, fifo):
    own = bench(notify_fifo=str(fifo))
    with reader(fifo) as read:
        for number in range(5000):
            own.tell("MASTER" if number % 2 else "BACKUP", priority=number % 255)
        assert own.notifier.dropped > 1000
        # A shorter line may find room now and then.
        assert len(own.warned) == 1
        assert len(own.said) <= 1
        lines = read().splitlines()
        own.now += 1
        own.turn()
        lines += read().splitlines()
    # Whole lines, and the last state last.
    assert all(line.startswith('INSTANCE "VI_1" ') for line in lines)
    assert lines[-1] == f'INSTANCE "VI_1" MASTER {4999 % 255}'
    assert len(lines) + own.notifier.dropped == 5000


def test_a_pipe_that_was_removed_is_made_again(bench, fifo):
    own = bench(notify_fifo=str(fifo))
    with reader(fifo):
        own.tell("MASTER")
        fifo.unlink()
        own.tell("BACKUP")
        assert stat.S_ISFIFO(fifo.lstat().st_mode)
    with reader(fifo) as read:
        own.now += 1
        own.turn()
        assert read() == 'INSTANCE "VI_1" BACKUP 100\n'


def test_a_pipe_that_was_replaced_is_written_to(bench, fifo, tmp_path):
    own = bench(notify_fifo=str(fifo))
    with reader(fifo) as read_old:
        own.tell("MASTER")
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        os.mkfifo(tmp_path / "other")
        (tmp_path / "other").rename(fifo)
        with reader(fifo) as read:
            own.tell("BACKUP")
            assert read() == 'INSTANCE "VI_1" BACKUP 100\n'
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
        assert read_old() == 'INSTANCE "VI_1" MASTER 100\n'


def test_a_file_in_the_place_of_the_pipe_is_left_alone(bench, fifo):
    fifo.write_text("precious")
    own = bench(notify_fifo=str(fifo))
    own.tell("MASTER")
    own.tell("BACKUP")
    assert fifo.read_text() == "precious"
    text = "changes are not written there: there is something else in the place of the pipe"
    assert own.warned[0] == f"{fifo}: {text}"
    # And at the next line, and each second, it is tried again.
    fifo.unlink()
    own.now += 1
    own.turn()
    with reader(fifo) as read:
        own.now += 1
        own.turn()
        assert read() == 'INSTANCE "VI_1" BACKUP 100\n'


def test_a_link_in_the_place_of_the_pipe_is_not_followed(bench, fifo, tmp_path):
    os.mkfifo(tmp_path / "elsewhere")
    fifo.symlink_to("elsewhere")
    own = bench(notify_fifo=str(fifo))
    with reader(tmp_path / "elsewhere") as read:
        own.tell("MASTER")
        assert read() == ""
    assert fifo.is_symlink()
    assert "something else" in own.warned[0]


def test_a_dangling_link_makes_nothing_elsewhere(bench, fifo, tmp_path):
    fifo.symlink_to("elsewhere")
    own = bench(notify_fifo=str(fifo))
    own.tell("MASTER")
    assert not (tmp_path / "elsewhere").exists()
    assert len(own.warned) == 1


@as_root
def test_a_pipe_of_somebody_else_is_not_written_to(bench, fifo):
    os.mkfifo(fifo)
    os.chown(fifo, NOBODY.pw_uid, NOBODY.pw_gid)
    own = bench(notify_fifo=str(fifo))
    with reader(fifo) as read:
        own.tell("MASTER")
        assert read() == ""
    assert own.warned == [f"{fifo}: changes are not written there: the pipe is somebody else's"]


@as_root
def test_a_pipe_of_the_user_of_scripts_is(bench, fifo):
    os.mkfifo(fifo)
    os.chown(fifo, NOBODY.pw_uid, NOBODY.pw_gid)
    own = bench(notify_fifo=str(fifo), script_user="nobody")
    with reader(fifo) as read:
        own.tell("MASTER")
        assert read()


def test_a_pipe_that_was_there_stays_as_it_is(bench, fifo):
    os.mkfifo(fifo)
    fifo.chmod(0o640)
    own = bench(notify_fifo=str(fifo))
    own.notifier.close()
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o640
    assert not own.warned


def test_a_directory_that_is_not_there_is_warned_of_and_tried_again(bench, tmp_path):
    fifo = tmp_path / "run" / "pipe"
    own = bench(notify_fifo=str(fifo), script_user="nosuchuser")
    for _ in range(3):
        own.tell("MASTER")
    assert own.warned[0] == f"{fifo}: changes are not written there: No such file or directory"
    assert len(own.warned) == 2
    fifo.parent.mkdir()
    own.now += 1
    own.turn()
    with reader(fifo) as read:
        own.now += 1
        own.turn()
        assert read() == 'INSTANCE "VI_1" MASTER 100\n'


def test_closing_writes_nothing(bench, fifo):
    """It is called in processes that inherited the pipe, too."""
    own = bench(notify_fifo=str(fifo))
    own.tell("MASTER")
    with reader(fifo) as read:
        own.notifier.close()
        own.notifier.close()
        assert read() == ""
