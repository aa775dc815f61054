"""Namespaces that leave nothing behind, whoever ends them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bed.process import is_alive, until
from tests.lab.space import LabError, NoNamespacesError, Space, why_not

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())


@pytest.fixture
def space() -> Iterator[Space]:
    space = Space("one")
    yield space
    space.kill()


def marked(text: str) -> list[int]:
    """The processes whose command line holds `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "cmdline").read_bytes() and is_alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_it_has_everything_of_its_own(space: Space) -> None:
    for kind in ("net", "mnt", "uts", "ipc", "pid"):
        assert space.path(f"/proc/1/ns/{kind}").exists()
        assert Path(f"/proc/{space.pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
    assert space.run(["hostname"]) == "one\n"
    assert space.run(["sh", "-c", "ls -d /proc/[0-9]* | head -1"]) == "/proc/1\n"
    assert [line.split()[0] for line in space.run(["ip", "-brief", "link"]).splitlines()] == ["lo"]


def test_one_within_another(space: Space) -> None:
    inner = Space("two", within=space)
    try:
        assert space.run(["cat", f"/proc/{inner.pid_within}/cmdline"]).split("\0")[-2].endswith(":two")
        assert inner.run(["hostname"]) == "two\n"
    finally:
        inner.kill()
    assert not is_alive(inner.pid)


def test_what_a_command_says_and_how_it_fails(space: Space) -> None:
    assert space.run(["tr", "a", "b"], text="banana") == "bbnbnb"
    assert space.outcome(["false"]).returncode == 1
    with pytest.raises(LabError, match=r"one: ls /nowhere: status 2: .*No such file"):
        space.run(["ls", "/nowhere"])
    with pytest.raises(LabError, match=r"one: sleep 4714: not done in 0\.1 s"):
        space.run(["sleep", "4714"], takes=0.1)
    assert not marked("sleep\0004714")


def test_a_mount_is_not_seen_outside(space: Space) -> None:
    before = Path("/proc/self/mounts").read_text()
    space.run(["mount", "-t", "tmpfs", "lab", "/run"])
    space.path("/run/here").write_text("x")
    assert space.run(["cat", "/run/here"]) == "x"
    assert not Path("/run/here").exists()
    assert Path("/proc/self/mounts").read_text() == before


def test_killed_it_takes_all_with_it(space: Space) -> None:
    space.run(["mount", "-t", "tmpfs", "lab", "/run"])
    program = space.start(["sh", "-c", "setsid sleep 4711 & sleep 4711"], log="/run/log")
    sleepers = until(lambda: found if len(found := marked("sleep\0004711")) == 2 else [], "both run")
    space.kill()
    assert not any(map(is_alive, sleepers))
    assert program.wait() != 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_goes_with_its_maker(number: signal.Signals) -> None:
    code = (
        "from tests.lab.space import Space; import signal\n"
        "one = Space('gone'); two = Space('away', within=one)\n"
        "two.run(['mount', '-t', 'tmpfs', 'lab', '/run']); two.start(['setsid', 'sleep', '4712'], log='/run/log')\n"
        "print('made', flush=True); signal.pause()"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    with maker:
        assert maker.stdout.readline() == "made\n"
        until(lambda: marked("sleep\0004712"), "it runs")
        maker.send_signal(number)
        maker.wait()
    until(lambda: not marked("sleep\0004712") and not marked(f"lab:{maker.pid}:"), "all is gone", within=5)


def test_without_the_right_it_says_so() -> None:
    code = "from tests.lab.space import Space; Space('one')"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{NoNamespacesError.__name__}: the lab needs root and CAP_SYS_ADMIN" in done.stderr
