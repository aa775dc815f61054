from __future__ import annotations

import errno
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balancer.daemon.spawn import CANNOT_RUN, NOT_FOUND, spawn
from tests.daemon.conftest import as_root
from tests.e2e.bed.process import is_alive, until

NOBODY = pwd.getpwnam("nobody")

Script = Callable[..., str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a program; its path."""

    def write(text: str, *, mode: int = 0o755) -> str:
        path = tmp_path / "program"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a line of a shell; what it writes to $1, which anybody may write to."""
    # Nobody else comes into pytest's directory.
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    path = Path(name)
    path.chmod(0o666)

    def run(line: str, identity: tuple[int, int] | None = None) -> str:
        assert status_of(spawn(["/bin/sh", "-c", line, "sh", str(path)], identity)) == 0
        return path.read_text()

    yield run
    path.unlink()


def status_of(pid: int) -> int:
    """Its exit code; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def field(text: str, name: str) -> str:
    """Of /proc/PID/status."""
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(f"{name}:"))


def test_the_program_gets_its_arguments_as_they_are(script, tmp_path):
    program = script(f'#!/bin/sh\nprintf "%s|" "$0" "$@" > {tmp_path}/said\nexit 3\n')
    assert status_of(spawn([program, "a b", "$HOME", "", "*"], None)) == 3
    assert (tmp_path / "said").read_text() == f"{program}|a b|$HOME||*|"


def test_it_inherits_no_descriptor(told):
    left, right = socket.socketpair()
    with left, right:
        os.set_inheritable(left.fileno(), True)
        seen = told('(ls -l /proc/$$/fd > "$1"); true')
    links = [line.split(" -> ")[0].split()[-1] + line.split(" -> ")[1] for line in seen.splitlines() if " -> " in line]
    assert sorted(links) == ["0/dev/null", "1/dev/null", "2/dev/null"]


def test_standard_descriptors_are_there_where_we_have_none(tmp_path):
    """A daemon that was started with them closed."""
    program = (
        "import os\nfrom balancer.daemon.spawn import spawn\nos.closerange(0, 3)\n"
        f"words = ['/bin/sh', '-c', '(ls -l /proc/$$/fd > {tmp_path}/seen); true']\n"
        "raise SystemExit(os.waitpid(spawn(words, None), 0)[1])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
    assert (tmp_path / "seen").read_text().count("/dev/null") == 3


def test_it_inherits_no_signal_handling(told, monkeypatch):
    """Python ignores SIGPIPE, the supervisor SIGHUP; a shell could not trap either."""
    numbers = {signal.SIGUSR1, signal.SIGTERM}
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        seen = told('exec cat /proc/self/status > "$1"')
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    # 32 and 33 are the C library's own, and whoever started the tests may have left them ignored.
    known = sum(1 << number - 1 for number in signal.valid_signals())
    assert int(field(seen, "SigIgn"), 16) & known == 0
    assert int(field(seen, "SigBlk"), 16) == 0
    # Ours are as they were.
    assert blocked == before | numbers


def test_it_leads_a_session_of_its_own(told):
    pid, group, session = told('ps -o pid=,pgid=,sid= -p $$ > "$1"').split()
    assert pid == group == session
    assert int(session) != os.getsid(0)


def test_its_surroundings_are_the_same_always(told, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin:/opt/bin")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("SECRET", "of ours")
    seen = told('(tr "\\\\0" "\\\\n" < /proc/self/environ; pwd) > "$1"')
    # A shell sets PWD and the like, but for itself and its children.
    lines = [line for line in seen.splitlines() if not line.startswith(("PWD=", "OLDPWD=", "SHLVL=", "_="))]
    assert sorted(lines) == ["/", "LANG=de_DE.UTF-8", "PATH=/usr/bin:/bin:/opt/bin"]


def test_it_finds_programs_where_the_daemon_has_no_path(told, monkeypatch):
    monkeypatch.delenv("PATH")
    monkeypatch.delenv("LANG", raising=False)
    assert told('echo "$PATH $LANG" > "$1"').split() == [
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "C.UTF-8",
    ]


def test_our_limit_of_open_files_is_not_its(told):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        assert told('ulimit -n > "$1"').strip() == "1024"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_our_priority_is_not_its(script, tmp_path):
    """Even where the kernel would not take it from the child."""
    program = (
        "import os, sys\nfrom balancer.daemon.spawn import spawn\n"
        "try:\n    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))\n"
        "except PermissionError:\n    sys.exit(77)\n"
        f"words = ['/bin/sh', '-c', 'chrt -p $$ > {tmp_path}/seen']\n"
        "raise SystemExit(os.waitpid(spawn(words, None), 0)[1])"
    )
    status = subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode
    if status == 77:
        pytest.skip("no right to real-time priority")
    assert status == 0
    assert "SCHED_OTHER" in (tmp_path / "seen").read_text()


@as_root
def test_it_becomes_the_user_with_the_groups_of_the_user(told):
    seen = told('exec cat /proc/self/status > "$1"', (NOBODY.pw_uid, NOBODY.pw_gid))
    assert field(seen, "Uid").split() == [str(NOBODY.pw_uid)] * 4
    assert field(seen, "Gid").split() == [str(NOBODY.pw_gid)] * 4
    assert set(field(seen, "Groups").split()) == set(map(str, os.getgrouplist("nobody", NOBODY.pw_gid)))
    assert int(field(seen, "CapEff"), 16) == 0
    # sudo and ping in a check script.
    assert field(seen, "NoNewPrivs") == "0"


@as_root
def test_a_user_of_several_groups(told, monkeypatch):
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 4, 27] if name == "nobody" else [])
    seen = told('exec cat /proc/self/status > "$1"', (NOBODY.pw_uid, NOBODY.pw_gid))
    assert field(seen, "Groups").split() == ["4", "27", str(NOBODY.pw_gid)]


@as_root
def test_a_user_without_a_name_has_no_further_groups(told):
    seen = told('exec cat /proc/self/status > "$1"', (54321, 54322))
    assert field(seen, "Uid").split() == ["54321"] * 4
    assert field(seen, "Groups").split() == ["54322"]


@as_root
def test_nothing_runs_where_the_user_cannot_be_had(script, tmp_path):
    program = script(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    assert status_of(spawn([program], (2**33, 0))) == CANNOT_RUN
    assert not (tmp_path / "ran").exists()


def test_why_a_program_cannot_be_executed_is_its_exit_status(script, tmp_path):
    assert status_of(spawn([str(tmp_path / "none")], None)) == NOT_FOUND
    assert status_of(spawn([script("#!/no/such/shell\n")], None)) == NOT_FOUND
    assert status_of(spawn([script("#!/bin/sh\n", mode=0o644)], None)) == CANNOT_RUN
    assert status_of(spawn([script("echo no shebang\n")], None)) == CANNOT_RUN
    assert status_of(spawn([str(tmp_path)], None)) == CANNOT_RUN
    assert status_of(spawn([script("#!/bin/sh\n"), "x" * (1 << 22)], None)) == CANNOT_RUN


def test_our_own_signals_are_heard_afterwards():
    before = signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2})
    try:
        assert status_of(spawn(["/bin/true"], None)) == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_where_there_can_be_no_process(monkeypatch):
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(OSError, match="temporarily unavailable"):
        spawn(["/bin/true"], None)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_all_it_starts_can_be_killed_with_it(script, tmp_path):
    pid = spawn([script(f"#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/child\nsleep 300\n")], None)
    child = tmp_path / "child"
    until(lambda: child.exists() and child.read_text().endswith("\n"), "the child started")
    os.killpg(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    until(lambda: not is_alive(int(child.read_text())), "the child ended")
