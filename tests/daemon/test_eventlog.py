from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from balancer.daemon.eventlog import EventLog, opened
from balancer.daemon.reload import Draft
from balancer.observe.log import Level
from tests.daemon.conftest import talks
from tests.daemon.whole import CONFIG, children_of
from tests.e2e.bed.process import is_bound, until


def lines(path) -> list[str]:
    """What was said, without when."""
    return [line.partition("] ")[2] for line in path.read_text().splitlines()]


def test_it_goes_to_the_log_and_to_the_console(plan, tmp_path, capfd):
    first, second = (plan({"global": {"log": {"target": str(tmp_path / name)}}}) for name in ("one", "two"))
    it = EventLog(opened(first, None), first, None)
    it.say(Level.WARNING, "one")
    it.remark("two", False)
    it.log.flush()
    assert lines(tmp_path / "one") == ["WARNING: one", "NOTICE: two"]
    # As after a reload.
    it.use(opened(second, None), second)
    it.say_of(Draft(second, ["three"], ["four"]))
    it.log.flush()
    assert len(lines(tmp_path / "one")) == 2
    assert lines(tmp_path / "two") == ["WARNING: three", "NOTICE: four"]
    assert [line.rpartition(": ")[2] for line in capfd.readouterr().err.splitlines()] == ["one", "two", "three", "four"]


def test_nothing_is_said_twice_where_the_log_is_the_console(plan, capfd):
    one = plan({"global": {"log": {"target": "stderr"}}})
    it = EventLog(opened(one, None), one, None)
    it.say(Level.NOTICE, "once")
    it.log.flush()
    assert capfd.readouterr().err.count("once") == 1


def test_a_file_that_is_taken_away_is_made_anew(plan, tmp_path):
    path = tmp_path / "log"
    one = plan({"global": {"log": {"target": str(path)}}})
    it = EventLog(opened(one, None), one, None)
    path.unlink()
    until(lambda: time.monotonic() >= it.due, "its time has come")
    it.look()
    assert path.exists()


def test_nobody_reads_what_it_says_and_it_goes_on(start, tmp_path):
    """stderr is a pipe that is full: no event may wait for its reader."""
    it = start(CONFIG.replace("{workers: 2,", "{workers: 2, log: {target: none},"), wait=False)
    it.process.kill()
    it.expected_status = -9
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    with subprocess.Popen([sys.executable, "-m", "balancer", "-c", it.file], stderr=writer) as again:
        try:
            until(lambda: is_bound(it.ports["port"]) and talks(it.ports["port"]), "it serves")
            for _ in range(2):
                before = set(children_of(again.pid))
                os.kill(min(before), signal.SIGKILL)
                until(lambda b=before: len(set(children_of(again.pid)) - b) == 1, "it is replaced")
            again.terminate()
            assert again.wait(20) == 0
        finally:
            again.kill()
    os.close(reader)
    os.close(writer)
