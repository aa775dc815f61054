"""What the kernel says of a process and of a core, proc(5). Parsers take text; the readers below them open files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CoreTime",
    "began",
    "core_time",
    "cpu_by_thread",
    "cpu_ns",
    "descriptors",
    "machine_ns",
    "memory_kib",
    "parse_core",
    "parse_kib_fields",
    "parse_schedstat",
    "parse_stat",
    "peak_growth_kib",
    "reset_peak",
    "resident_kib",
    "tree",
]

PROC = Path("/proc")
NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CoreTime:
    """Ticks of one core since boot: at work for anyone, taken by the hypervisor, and altogether."""

    busy: int
    steal: int
    total: int

    def share_since(self, before: CoreTime) -> tuple[float, float]:
        """Busy and stolen share of the core between two readings."""
        total = max(self.total - before.total, 1)
        return (self.busy - before.busy) / total, (self.steal - before.steal) / total


def parse_stat(text: str) -> tuple[int, int]:
    """Parent and CPU ticks (utime + stime) from /proc/PID/stat; the name in brackets may hold anything."""
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[11]) + int(fields[12])


def parse_schedstat(text: str) -> int:
    """Nanoseconds on a core from /proc/PID/task/TID/schedstat."""
    return int(text.split()[0])


def parse_kib_fields(text: str) -> dict[str, int]:
    """The `Name:   12 kB` lines of smaps_rollup and status, in KiB."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) == 2 and words[1] == "kB":
            fields[name] = int(words[0])
    return fields


def parse_core(text: str, core: int) -> CoreTime:
    """One core's line of /proc/stat. Guest time is part of user time already (proc(5)) and not added again."""
    for line in text.splitlines():
        name, *numbers = line.split()
        if name == f"cpu{core}":
            user, nice, system, idle, iowait, irq, softirq, steal = (int(number) for number in numbers[:8])
            busy = user + nice + system + irq + softirq
            return CoreTime(busy=busy, steal=steal, total=busy + idle + iowait + steal)
    raise ValueError(f"no core {core} in /proc/stat")


def tree(root: int) -> list[int]:
    """`root` and every process that descends from it."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent, _ = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of these processes, all threads, in nanoseconds.

    From the scheduler's own clock where the kernel gives it (CONFIG_SCHED_INFO), else from utime and stime, which
    are exact to a tick of 10 ms. Both hold the softirq work that the kernel did in these threads' name.
    """
    return sum(_cpu_ns(pid) for pid in pids)


def cpu_by_thread(pids: Iterable[int]) -> dict[int, int]:
    """CPU time of each thread of these processes, in nanoseconds; {} where the kernel does not give it so exactly."""
    found = {}
    for pid in pids:
        for task in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[int(task.name)] = parse_schedstat((task / "schedstat").read_text())
    return found


def _cpu_ns(pid: int) -> int:
    tasks = list((PROC / str(pid) / "task").iterdir())
    try:
        return sum(parse_schedstat((task / "schedstat").read_text()) for task in tasks)
    except FileNotFoundError:
        return parse_stat((PROC / str(pid) / "stat").read_text())[1] * NS_PER_TICK


def core_time(core: int) -> CoreTime:
    return parse_core((PROC / "stat").read_text(), core)


def machine_ns() -> tuple[int, int]:
    """Nanoseconds since boot, to a tick, of all cores together: in programs and the kernel on their behalf (not in
    interrupts), and taken by the hypervisor."""
    return parse_machine((PROC / "stat").read_text())


def parse_machine(text: str) -> tuple[int, int]:
    """The first line of /proc/stat, proc(5)."""
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = (int(word) for word in text.split()[1:9])
    return (user + nice + system) * NS_PER_TICK, steal * NS_PER_TICK


def memory_kib(pids: Iterable[int], *fields: str) -> int:
    """The sum of these smaps_rollup fields (Private_Clean, Private_Dirty, Pss) over the processes, in KiB."""
    return sum(_fields(pid, "smaps_rollup")[field] for pid in pids for field in fields)


def resident_kib(pids: Iterable[int]) -> dict[int, int]:
    """Resident memory of each process, in KiB."""
    return {pid: _fields(pid, "status")["VmRSS"] for pid in pids}


def reset_peak(pids: Iterable[int]) -> None:
    """Begin a new VmHWM at what is resident now: `5` to clear_refs, proc(5)."""
    for pid in pids:
        (PROC / str(pid) / "clear_refs").write_text("5")


def peak_growth_kib(before: Mapping[int, int]) -> int:
    """How far each process rose above `before` at its highest since `reset_peak`, summed, in KiB."""
    return sum(max(_fields(pid, "status")["VmHWM"] - resident, 0) for pid, resident in before.items())


def began(pid: int) -> int:
    """When it was started, in ticks since boot."""
    return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])


def descriptors(pid: int) -> list[str]:
    """What each descriptor of a process leads to."""
    found = []
    for entry in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


def _fields(pid: int, name: str) -> dict[str, int]:
    return parse_kib_fields((PROC / str(pid) / name).read_text())
