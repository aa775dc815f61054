from __future__ import annotations

import json
import os
import pwd
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from balancer.daemon import privileges
from balancer.errors import StartError
from tests.daemon.conftest import as_root
from tests.e2e.bed.process import is_alive, until

CAPABILITIES = int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16)
CAP_SYS_RESOURCE = 1 << 24


def in_child(program: str, *, limit: str | None = None) -> dict:
    """What `program` leaves in `answer`, run by a Python of its own; `limit` is prlimit's for open files."""
    text = f"import json, os, resource\nfrom balancer.daemon import privileges\n{program}\nprint(json.dumps(answer))"
    command = [sys.executable, "-c", text]
    if limit is not None:
        command = ["prlimit", f"--nofile={limit}", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


STATUS = """
answer = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
"""


def test_without_a_user_we_stay_who_we_are():
    assert privileges.identity(None, None) is None


@as_root
def test_a_user_brings_its_group():
    nobody = pwd.getpwnam("nobody")
    assert privileges.identity("nobody", None) == (nobody.pw_uid, nobody.pw_gid)
    assert privileges.identity("nobody", "daemon") == (nobody.pw_uid, 1)
    assert privileges.identity(None, "daemon") == (0, 1)


@as_root
@pytest.mark.parametrize(
    ("user", "group", "text"),
    [
        ("nosuchuser", None, "global.user: there is no user 'nosuchuser'; create it with: useradd --system"),
        ("nobody", "nosuchgroup", "global.group: there is no group 'nosuchgroup'; create it with: groupadd --system"),
    ],
)
def test_an_unknown_user_or_group(user, group, text):
    with pytest.raises(StartError, match=text):
        privileges.identity(user, group)


def test_who_is_not_root_drops_nothing(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privileges.identity("nosuchuser", "nosuchgroup") is None


@as_root
def test_what_is_dropped_is_gone_for_good():
    status = in_child(
        "os.setgroups([0, 4])\nprivileges.drop((65534, 65534))\ntry:\n    os.setuid(0)\nexcept PermissionError:\n"
        f"    pass\n{STATUS}"
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[kind], 16) == 0


@as_root
def test_capabilities_that_a_service_manager_gave_are_dropped_too():
    """AmbientCapabilities=CAP_NET_BIND_SERVICE with User=: it was for binding, and that is done."""
    program = f"import sys\nprivileges.drop(None)\n{STATUS}\nimport json\nprint(json.dumps(answer))"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_bind_service",
         "--ambient-caps=+net_bind_service", sys.executable, "-c",
         f"from balancer.daemon import privileges\n{program}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}


NETWORK = 1 << 12 | 1 << 13


@as_root
@pytest.mark.parametrize("ids", ["(65534, 65534)", "None"])
def test_two_rights_may_be_kept_and_no_more(ids):
    """Of a user, and of root, who has none else then."""
    answer = in_child(
        "os.setgroups([0, 4])\n"
        f"had = privileges.has_network_rights()\nprivileges.drop_to_network({ids})\n{STATUS}\n"
        "answer['had'] = had\nanswer['has'] = privileges.has_network_rights()\n"
        "try:\n    os.kill(1, 0)\n    os.setuid(1)\nexcept PermissionError:\n    answer['refused'] = True\n"
    )
    if CAPABILITIES & NETWORK != NETWORK:
        assert (answer["had"], answer["has"]) == (False, False)
        return
    assert (answer["had"], answer["has"], answer["refused"], answer["NoNewPrivs"]) == (True, True, True, "1")
    assert answer["Uid"].split() == ["65534" if "65534" in ids else "0"] * 4
    assert {int(answer[kind], 16) for kind in ("CapEff", "CapPrm")} == {NETWORK}
    assert {int(answer[kind], 16) for kind in ("CapInh", "CapAmb")} == {0}


@as_root
def test_of_rights_that_a_service_manager_gave_those_two_are_kept():
    """AmbientCapabilities= with User=."""
    program = f"privileges.drop_to_network(None)\n{STATUS}\nimport json\nprint(json.dumps(answer))"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_bind_service,+net_admin",
         "--ambient-caps=+net_bind_service,+net_admin", sys.executable, "-c",
         f"from balancer.daemon import privileges\nassert not privileges.has_network_rights()\n{program}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm")} == {1 << 12}
    assert {int(status[kind], 16) for kind in ("CapInh", "CapAmb")} == {0}


def test_a_child_dies_with_its_parent_however_that_died():
    program = """
import signal, sys, time
from balancer.daemon import privileges
parent = os.getpid()
pid = os.fork()
if not pid:
    privileges.die_with_parent(parent)
    os.write(writer, b"%d" % os.getpid())
    time.sleep(60)
time.sleep(60)
"""
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", f"import os\nwriter = {writer}\n{program}"], pass_fds=[writer]
    ) as parent:
        os.close(writer)
        child = int(os.read(reader, 20))
        parent.kill()
    # The last one who could write is gone.
    assert os.read(reader, 1) == b""
    os.close(reader)
    until(lambda: not is_alive(child), "it is gone")


def test_a_child_whose_parent_is_gone_already_dies():
    pid = os.fork()
    if not pid:
        privileges.die_with_parent(os.getppid() + 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


RAISE = "answer = [privileges.raise_open_files(500), *resource.getrlimit(resource.RLIMIT_NOFILE)]"
AS_NOBODY = "os.setresuid(65534, 65534, 65534)\n" if os.geteuid() == 0 else ""


def test_the_limit_is_raised_within_what_is_allowed():
    assert in_child(AS_NOBODY + RAISE, limit="100:1000") == [500, 500, 1000]


def test_the_limit_is_never_lowered():
    assert in_child(AS_NOBODY + RAISE, limit="800:1000") == [800, 800, 1000]


def test_whoever_may_not_go_further_gets_as_far_as_allowed():
    assert in_child(AS_NOBODY + RAISE, limit="100:200") == [200, 200, 200]


@pytest.mark.skipif(not CAPABILITIES & CAP_SYS_RESOURCE, reason="only with CAP_SYS_RESOURCE")
def test_root_goes_further():
    assert in_child(RAISE, limit="100:200") == [500, 500, 500]


@as_root
def test_nobody_goes_further_than_the_kernel_does():
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    answer = in_child(
        f"answer = [privileges.raise_open_files({most + 1}), *resource.getrlimit(resource.RLIMIT_NOFILE)]",
        limit="100:200",
    )
    assert answer == [200, 200, 200]


def test_our_own_limit_is_as_it_was():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert privileges.raise_open_files(10) >= 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


SCHEDULED = """
def scheduled():
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return [os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, int(status["VmLck"].split()[0]) > 0]
privileges.be_on_time()
reader, writer = os.pipe()
if not os.fork():
    os.write(writer, json.dumps(scheduled()).encode())
    os._exit(0)
answer = [scheduled(), json.loads(os.read(reader, 100))]
"""


@as_root
def test_who_must_be_on_time_has_priority_and_its_children_have_none():
    assert in_child(SCHEDULED) == [[os.SCHED_RR, True], [os.SCHED_OTHER, False]]


def test_who_may_not_have_priority_goes_on_without():
    assert in_child(AS_NOBODY + SCHEDULED)[1] == [os.SCHED_OTHER, False]
