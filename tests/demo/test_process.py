from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balancer.demo import process

# Threads that other tests left behind are none of these children's business (Python 3.12 and newer warn of them).
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_its_exit_status_is_what_the_work_returns():
    assert wait(process.fork(lambda: 7)) == 7


def test_a_child_that_fails_says_why_and_ends_with_1(capfd):
    def fail() -> int:
        raise RuntimeError("no such luck")

    assert wait(process.fork(fail)) == 1
    assert "RuntimeError: no such luck" in capfd.readouterr().err


def test_it_never_runs_what_stands_behind_the_call(tmp_path):
    try:
        pid = process.fork(lambda: 0)
    finally:
        with (tmp_path / "who").open("a") as file:
            file.write(f"{os.getpid()}\n")
    wait(pid)
    assert (tmp_path / "who").read_text() == f"{os.getpid()}\n"


def test_it_leads_its_own_session():
    assert wait(process.fork(lambda: int(os.getsid(0) != os.getpid()))) == 0


def test_end_ends_one_that_is_stopped():
    pid = process.fork(lambda: signal.pause() or 0)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    process.end(pid)
    assert not Path(f"/proc/{pid}").exists()


def test_end_leaves_alone_what_is_no_child_of_ours():
    """As a number may be that was waited for and given to another process since."""
    pid = process.fork(lambda: 0)
    wait(pid)
    process.end(pid)

    script = "sleep 60 >/dev/null 2>&1 & echo $!"
    orphan = int(subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout)
    try:
        process.end(orphan)
        assert is_alive(orphan)
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_it_dies_with_a_parent_that_was_killed():
    program = (
        "import signal, sys, time\n"
        "from balancer.demo import process\n"
        "print(process.fork(lambda: signal.pause() or 0), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
