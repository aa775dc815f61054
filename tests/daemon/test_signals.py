from __future__ import annotations

import os
import select
import signal
import sys
import time

from balancer.daemon import signals
from balancer.daemon.signals import Signals
from tests.daemon.conftest import talks
from tests.e2e.bed.process import Process, is_bound, members


def alone(run) -> int:
    """The exit status of a process that does it: handlers are a process's own."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tell(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_they_are_heard_in_their_order_and_do_nothing_else():
    def run() -> None:
        it = Signals()
        assert it.heard() == b""
        tell(signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)
        assert select.select([it], [], [], 5)[0] == [it]
        assert list(it.heard()) == [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2]
        assert it.heard() == b""
        it.close()
        tell(signal.SIGTERM)
        signals.ignore()
        tell(signal.SIGTERM, signal.SIGHUP)

    assert alone(run) == 0


def test_a_child_hears_for_itself_and_never_for_its_parent():
    def run() -> None:
        it = Signals()

        def child() -> None:
            tell(signal.SIGHUP)
            it.forget()
            tell(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

        with signals.blocked():
            assert alone(child) == -signal.SIGTERM
        assert list(it.heard()) == [signal.SIGCHLD]

    assert alone(run) == 0


def test_a_signal_that_must_not_kill(running):
    """SIGHUP: their terminal is gone. To the supervisor it is a wish to reload."""
    for pid in running.process.children:
        os.kill(pid, signal.SIGHUP)
    assert talks(running.ports["port"])
    assert len(running.process.children) == 3
    assert not any("starting another" in line for line in running.log)


def test_told_at_any_moment_of_its_start_it_leaves_nothing(start, tmp_path):
    """From before its handlers stand to when it serves."""
    it = start(wait=False)
    it.process.kill()
    it.expected_status = -9
    for i, delay in enumerate((0.05, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8)):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        again = Process([sys.executable, "-m", "balancer", "-c", it.file], cwd=tmp_path)
        try:
            time.sleep(delay)
            os.killpg(again.pid, number)
            ended = again.wait(within=15)
            # What Python and its imports make of Ctrl-C before anything of ours runs.
            assert ended in (0, -number, 130, 1), again.said()
            assert not members(again.pid)
            assert not is_bound(it.ports["port"])
            if ended == 0:
                assert not any("Traceback" in line for line in (*again.err, *again.out)), again.said()
                assert not (tmp_path / "s.sock").exists()
        finally:
            again.end()
