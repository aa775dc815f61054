"""The text is the kernel's own, cut short; the readers are tried on this process and on children of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import procfs
import pytest
from hypothesis import given
from hypothesis import strategies as st

STAT = (
    "4242 (nginx) S 17 4242 4242 0 -1 4194560 259 0 0 0 31 64 9 8 20 0 1 0 1723 9453568 1221 18446744073709551615 "
    "1 1 0 0 0 0 0 4096 81926 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
ROLLUP = """\
55d0a0000000-7ffd61ffe000 ---p 00000000 00:00 0                          [rollup]
Rss:                5104 kB
Pss:                1312 kB
Pss_Dirty:           908 kB
Private_Clean:        12 kB
Private_Dirty:       896 kB
"""
CORES = """\
cpu  300 2 200 9000 50 3 40 9 7 0
cpu0 100 1 60 4500 20 1 10 4 7 0
cpu1 200 1 140 4500 30 2 30 5 0 0
intr 12345 0 0
ctxt 1
"""


def test_parent_and_ticks_of_a_process() -> None:
    assert procfs.parse_stat(STAT) == (17, 95)


@given(st.text(st.characters(exclude_characters="\0"), max_size=15))
def test_a_process_may_be_named_anything(name: str) -> None:
    assert procfs.parse_stat(STAT.replace("nginx", name)) == (17, 95)


def test_nanoseconds_on_the_core() -> None:
    assert procfs.parse_schedstat("1843467265 20442 311\n") == 1843467265


def test_memory_fields_are_kept_and_the_mapping_line_is_not() -> None:
    fields = procfs.parse_kib_fields(ROLLUP)
    assert fields == {"Rss": 5104, "Pss": 1312, "Pss_Dirty": 908, "Private_Clean": 12, "Private_Dirty": 896}


def test_status_lines_without_a_size_are_left_out() -> None:
    assert procfs.parse_kib_fields("Name:\tnginx\nUid:\t0\t0\t0\t0\nVmRSS:\t    1220 kB\n") == {"VmRSS": 1220}


def test_guest_time_is_not_counted_twice() -> None:
    assert procfs.parse_core(CORES, 0) == procfs.CoreTime(busy=172, steal=4, total=4696)
    assert procfs.parse_core(CORES, 1) == procfs.CoreTime(busy=373, steal=5, total=4908)


def test_a_core_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no core 2"):
        procfs.parse_core(CORES, 2)


def test_shares_between_two_readings() -> None:
    before, after = procfs.CoreTime(100, 10, 1000), procfs.CoreTime(190, 15, 1100)
    assert after.share_since(before) == (0.9, 0.05)
    assert before.share_since(before) == (0, 0)


def test_cpu_time_of_this_process_grows_with_its_work() -> None:
    before, own = procfs.cpu_ns([os.getpid()]), time.process_time_ns()
    while time.process_time_ns() - own < 50_000_000:
        pass
    # The scheduler's clock and the process' own differ by no more than a tick each.
    assert procfs.cpu_ns([os.getpid()]) - before >= 50_000_000 - 2 * procfs.NS_PER_TICK


def test_the_tree_holds_grandchildren_and_no_strangers() -> None:
    script = "import os, time; os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        pids = {int(child.stdout.readline()) for _ in range(2)}
        assert set(procfs.tree(child.pid)) == pids
        assert pids <= set(procfs.tree(os.getpid()))
        assert os.getppid() not in procfs.tree(os.getpid())
    finally:
        for pid in procfs.tree(child.pid):
            os.kill(pid, 9)
        child.communicate()


def test_private_memory_grows_by_what_is_touched() -> None:
    pid = os.getpid()
    before = procfs.memory_kib([pid], "Private_Clean", "Private_Dirty")
    block = bytearray(b"x") * (32 << 20)
    grown = procfs.memory_kib([pid], "Private_Clean", "Private_Dirty") - before
    assert grown >= 31 << 10
    assert len(block) == 32 << 20
    assert procfs.memory_kib([pid], "Pss") > 0


def test_a_peak_that_is_gone_again_is_seen() -> None:
    pids = [os.getpid()]
    procfs.reset_peak(pids)
    before = procfs.resident_kib(pids)
    block = bytearray(b"x") * (64 << 20)
    del block
    assert 60 << 10 <= procfs.peak_growth_kib(before) <= 80 << 10


def test_all_cores_together_without_interrupts() -> None:
    text = "cpu  100 20 3 900 50 7 8 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert procfs.parse_machine(text) == (123 * procfs.NS_PER_TICK, 40 * procfs.NS_PER_TICK)
