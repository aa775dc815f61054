"""Whatever happens, nothing that was started is left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest
from rig import BALANCER_CORE, LOAD_CORE, BenchError, Rig, find_tool, free_port, wait_for

PYTHON = sys.executable
# A program that will not hear SIGTERM, with a child of the same mind; both print their numbers.
STUBBORN = r"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
os.write(1, b"%d\n" % os.getpid())
time.sleep(60)
"""


pytestmark = pytest.mark.skipif(
    not {BALANCER_CORE, LOAD_CORE} <= os.sched_getaffinity(0), reason="the bench needs two cores"
)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(BenchError, match="named is missing: apt install bind9"):
        find_tool("named")
    with pytest.raises(BenchError, match="/opt/haproxy is no program"):
        find_tool("/opt/haproxy")


def test_output_and_core_of_a_load(rig: Rig) -> None:
    text = rig.run([PYTHON, "-c", "import os; print(os.sched_getaffinity(0))"], within=10)
    assert text == f"{{{LOAD_CORE}}}\n"


def test_a_load_that_fails_says_its_last_line(rig: Rig) -> None:
    with pytest.raises(BenchError, match=r"failed with status 3: out of luck"):
        rig.run([PYTHON, "-c", "print('x'); print('out of luck'); raise SystemExit(3)"], within=10)


def test_a_load_that_hangs_is_ended(rig: Rig) -> None:
    with pytest.raises(BenchError, match=r"not done within 0\.2 s"):
        rig.run([PYTHON, "-c", "import time; time.sleep(60)"], within=0.2)


def test_a_balancer_that_died_is_noticed(rig: Rig) -> None:
    process = rig.start("balancer", [PYTHON, "-c", "print('no such key')"], core=BALANCER_CORE)
    assert process.ended(within=10)
    with pytest.raises(BenchError, match="balancer has ended: no such key"):
        process.pids()


def test_leaving_ends_all_even_the_stubborn_and_removes_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rig.END_AFTER", 0.1)
    cores = os.sched_getaffinity(0)
    with pytest.raises(KeyboardInterrupt), Rig() as rig:
        process = rig.start("stubborn", [PYTHON, "-c", STUBBORN], core=BALANCER_CORE)
        wait_for("both run", lambda: process.log.read_text().count("\n") == 2, within=10)
        pids = {int(line) for line in process.log.read_text().split()}
        assert set(process.pids()) == pids
        raise KeyboardInterrupt
    wait_for("none is left", lambda: not any(map(is_alive, pids)), within=10)
    assert not rig.directory.exists()
    assert os.sched_getaffinity(0) == cores


def test_waiting_ends_when_it_holds_and_when_it_never_does() -> None:
    answers = iter([False, False, True])
    wait_for("the third", lambda: next(answers), within=10, every=0.001)
    start = time.monotonic()
    with pytest.raises(BenchError, match=r"never: not within 0\.05 s"):
        wait_for("never", lambda: False, within=0.05, every=0.001)
    assert time.monotonic() - start >= 0.05


def test_a_free_port_is_below_the_outgoing_ones() -> None:
    assert 20000 <= free_port() < 32000
