"""The unit, and what puts it in place."""

from __future__ import annotations

import configparser
import contextlib
import re
import subprocess
import time
from pathlib import Path

import pytest

from balancer import __version__
from tests.e2e.bed.process import free_port, is_bound
from tests.e2e.test_reload import Echo, talking
from tests.lab.space import ENVIRONMENT, Space, why_not

CHECKOUT = Path(__file__).parents[2]
UNIT = CHECKOUT / "systemd/pybalancer.service"

# What has been written over this machine's folders and still is there. In such a layer a device stands for what is not.
LEFT = ("sh", "-c", "find /run/new-usr ! -type d ! -type c; find /run /etc -name '*pybalancer*' ! -type c")
# The disk may be busy, and what is written is not for long.
DPKG = ("dpkg", "--force-unsafe-io")

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

CONFIG = """
global: {workers: 2, runtime_socket: {path: /run/pybalancer/admin.sock}}
frontends:
  f: {mode: tcp, bind: "10.9.0.1:80", default_backend: b}
  k: {mode: tcp, engine: kernel, bind: "10.9.0.1:81", default_backend: b}
backends:
  b: {servers: {s: {address: "10.9.0.2:9"}}}
vrrp:
  instances:
    VI: {interface: own, version: 3, virtual_router_id: 5, advert_int: 100ms, virtual_ipaddress: [10.9.0.9/24]}
"""

RUNNING = """
global: {{workers: 1, runtime_socket: {{level: admin}}}}
frontends:
  f: {{mode: tcp, bind: "127.0.0.1:{port}", default_backend: b}}
backends:
  b: {{servers: {{s: {{address: "127.0.0.1:{echo}"}}}}}}
# mine"""
# As far as the package's scripts ask it, of one that stands in /run/state; and it keeps what it is told.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>/run/told
case $* in *is-active*) cat /run/state ;; *is-enabled*) echo enabled ;; esac
"""


class Unit(configparser.ConfigParser):
    """The last of each key, which is enough for what is asked here."""

    def __init__(self) -> None:
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read(UNIT)


@pytest.fixture
def space():
    made = Space("service")
    made.run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    yield made
    made.kill()


@contextlib.contextmanager
def apart(*, over: tuple[str, ...] = (), instead: tuple[str, ...] = ()):
    """machine(command…) -> what it says: with our own /run, and the folders named in `instead`, out of sight, and our
    processes, of which some may have the number of a user that is made here. What is written there, to /etc and to the
    folders `over`, is not seen out here."""
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    holder = subprocess.Popen([*alone, "sh", "-c", "echo; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    first = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().strip()
    inside = ["nsenter", "--target", first, "--mount", "--pid", "--wd=/"]

    def run(*command: str) -> str:
        done = subprocess.run(
            [*inside, "timeout", "180", *command], capture_output=True, text=True, check=False, env=ENVIRONMENT
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    for place in ("/run", *instead):
        run("mount", "-t", "tmpfs", "tmpfs", place)
    run("cp", "-a", "/etc", "/run/etc")
    run("mount", "--bind", "/run/etc", "/etc")
    for place in over:
        name = place.replace("/", "-")
        run("mkdir", f"/run/new{name}", f"/run/work{name}")
        layers = f"lowerdir={place},upperdir=/run/new{name},workdir=/run/work{name}"
        run("mount", "-t", "overlay", "-o", layers, "overlay", place)
    run("sh", "-c", "! getent passwd pybalancer || userdel pybalancer")
    try:
        yield run
    finally:
        holder.communicate()


@pytest.fixture(scope="module")
def make():
    """`make` with a wheel that is there; what it is made from is not looked for again."""
    command = ["make", "-s", "-C", str(CHECKOUT), "NO_PYTHON_H=not looked for"]
    subprocess.run([*command, "wheel"], check=True, capture_output=True)
    return *command, "--old-file=wheel"


@pytest.fixture(scope="module")
def package(make):
    """It as made, in version 1.0."""
    words = [*make, "deb", "DEB_VERSION=1.0", "DEB_COMPRESSION=none"]
    return CHECKOUT / subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


@pytest.fixture
def machine():
    with apart(instead=("/usr/local", "/var/lib")) as run:
        yield run


@pytest.fixture
def debian():
    with apart(over=("/usr", "/var")) as run:
        yield run


def until(said, what: str, patience: float = 20.0) -> None:
    end = time.monotonic() + patience
    while not said():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_it_is_shut_in():
    """systemd-analyze(1): 0.0 is wholly shut in, 10.0 not at all."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_its_four_capabilities_are_enough_and_are_the_supervisors_alone(space):
    """As systemd starts it: not root, and no way to become root."""
    unit = Unit()["Service"]
    named = unit["AmbientCapabilities"].split()
    assert named == unit["CapabilityBoundingSet"].split()
    given = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in named)])
    space.path("/run/balancer.yaml").write_text(CONFIG)
    space.path("/run/pybalancer").mkdir()
    for command in (
        "chown nobody /run/pybalancer", "ip link add own type veth peer name other", "ip addr add 10.9.0.1/24 dev own",
        "ip link set own up", "ip link set other up", "ip link set lo up",
    ):  # fmt: skip
        space.run(command.split())
    us = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"]
    us += [f"--{set_}={given}" for set_ in ("inh-caps", "ambient-caps", "bounding-set")]
    daemon = space.start([*us, "pybalancer", "-c", "/run/balancer.yaml"], log="/run/log")
    log = space.path("/run/log")

    def says(text: str) -> bool:
        assert daemon.poll() is None, log.read_text()
        return text in log.read_text()

    until(lambda: says("(VI) Entering MASTER STATE"), "it is master")
    until(lambda: says("the kernel's rules are in place"), "its rules are there")
    until(lambda: "10.9.0.9/24" in space.run(["ip", "addr", "show", "own"]), "its address is there")
    assert "10.9.0.1" in space.run(["nft", "list", "ruleset"])
    held = {}
    for found in space.run(["sh", "-c", "grep -H ^Cap /proc/[0-9]*/status; ps -Ao pid,ppid,args"]).splitlines():
        if match := re.match(r"/proc/(\d+)/status:(\w+):\s+([0-9a-f]+)", found):
            held.setdefault(int(match[1]), {})[match[2]] = int(match[3], 16)
    table = [line.split(None, 2) for line in space.run(["ps", "-Ao", "pid,ppid,args"]).splitlines()[1:]]
    ours = {int(pid): int(parent) for pid, parent, args in table if "pybalancer -c" in args and "setpriv" not in args}
    (supervisor,) = [pid for pid, parent in ours.items() if parent not in ours]
    rights = sorted(held[pid]["CapEff"] for pid in ours if pid != supervisor)
    network = 1 << 12 | 1 << 13
    assert rights == [0, 0, 0, network], "control and the workers have none, `kernel` has those of the network"
    assert all(held[pid]["CapInh"] == held[pid]["CapAmb"] == 0 for pid in ours if pid != supervisor)
    space.run(["kill", str(supervisor)])
    assert daemon.wait(20) == 0, log.read_text()
    assert "10.9.0.9/24" not in space.run(["ip", "addr", "show", "own"])
    assert space.run(["nft", "list", "ruleset"]) == ""


def test_it_is_installed_installed_again_and_removed(machine, make):
    config, command = "/etc/pybalancer/balancer.yaml", "/usr/local/bin/pybalancer"
    assert "systemctl enable --now pybalancer" in machine(*make, "install")
    assert machine(command, "--version") == f"pybalancer {__version__} (interpreted)\n"
    assert machine(command, "check", "-c", config) == "OK\n"
    rights = machine("stat", "-c", "%U:%G %a", "/etc/pybalancer", config, "/var/lib/pybalancer")
    assert rights.splitlines() == ["root:pybalancer 750", "root:pybalancer 640", "pybalancer:pybalancer 700"]
    unit = machine("cat", "/usr/local/lib/systemd/system/pybalancer.service")
    assert f"ExecStart={command} -c {config}\n" in unit
    machine("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/pybalancer.conf")
    assert machine("stat", "-c", "%U %a", "/run/pybalancer") == "pybalancer 755\n"

    # Over it: whoever runs the one before finds all of it, and what nobody runs is gone.
    before = machine("readlink", "-f", command).strip()
    machine("sh", "-c", f"echo '# mine' >>{config}; mkdir /usr/local/lib/pybalancer/20000101T000000")
    runs = "import pydantic_core, time; open('/run/runs', 'w'); time.sleep(120)"
    python = f"{before.removesuffix('pybalancer')}python"
    machine("sh", "-c", f'{python} -c "{runs}" >/dev/null 2>&1 & echo $! >/run/pid')
    until(lambda: "runs" in machine("ls", "/run"), "it runs")
    machine(*make, "install")
    machine("sh", "-c", "kill $(cat /run/pid)")
    assert machine("readlink", "-f", command).strip() != before
    assert machine(before, "--version") == machine(command, "--version")
    machine("test", "!", "-e", "/usr/local/lib/pybalancer/20000101T000000")

    assert "left: /etc/pybalancer" in machine(*make, "uninstall")
    assert machine("find", "/usr/local", "!", "-type", "d") == ""
    assert machine("tail", "-1", config) == "# mine\n"
    machine(*make, "purge")
    machine("sh", "-c", "! getent passwd pybalancer && [ ! -e /etc/pybalancer ] && [ ! -e /var/lib/pybalancer ]")
    machine("test", "!", "-e", "/var/log/pybalancer")


def test_the_debian_package_is_installed_removed_and_purged(debian, package):
    config, command = "/etc/pybalancer/balancer.yaml", "/usr/bin/pybalancer"
    assert "systemctl enable --now pybalancer" in debian(*DPKG, "-i", str(package))
    assert debian(command, "--version") == f"pybalancer {__version__} (interpreted)\n"
    assert debian(command, "check", "-c", config) == "OK\n"
    rights = debian("stat", "-c", "%U:%G %a", "/etc/pybalancer", config, "/var/lib/pybalancer", "/var/log/pybalancer")
    assert rights.splitlines() == [
        "root:pybalancer 750", "root:pybalancer 640", "pybalancer:pybalancer 700", "pybalancer:pybalancer 750",
    ]  # fmt: skip
    assert debian("dpkg", "--verify", "pybalancer") == ""
    depends = debian("dpkg-query", "-W", "-f", "${Depends}", "pybalancer")
    assert re.search(r"python3 \(>= 3\.(\d+)~\), python3 \(<< 3\.\d+~\), python3\.\1,", depends), depends
    assert "libc6 (>= " in depends
    # Nothing in it says where it was made.
    assert not debian("sh", "-c", f"grep -rl -F {CHECKOUT}/build /usr/lib/pybalancer || :")

    # A removal that fails is taken back.
    prerm, postinst = (f"/var/lib/dpkg/info/pybalancer.{name}" for name in ("prerm", "postinst"))
    debian(prerm, "remove")
    debian("test", "!", "-e", command)
    debian(postinst, "abort-remove")
    assert debian(command, "check", "-c", config) == "OK\n"

    # What was configured is kept.
    debian("sh", "-c", f"echo '# mine' >>{config}; echo x >/var/lib/pybalancer/changes")
    debian(*DPKG, "-r", "pybalancer")
    debian("sh", "-c", f"[ ! -e {command} ] && [ ! -e /usr/lib/pybalancer ]")
    assert debian("tail", "-1", config) == "# mine\n"
    assert debian("cat", "/var/lib/pybalancer/changes") == "x\n"
    debian(*DPKG, "-P", "pybalancer")
    debian("sh", "-c", "! getent passwd pybalancer")
    assert debian(*LEFT) == ""


def other(package: Path, folder: Path, version: str) -> Path:
    """The package of another version."""
    tree = folder / version
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    (module,) = tree.glob("usr/lib/pybalancer/packaged/lib/python3*/site-packages/balancer/__init__.py")
    for path, before in ((module, f'"{__version__}"'), (tree / "DEBIAN/control", "Version: 1.0")):
        path.write_text(path.read_text().replace(before, before.replace(before.strip('"').split()[-1], version)))
    # It is not compared with its source.
    for compiled in (module.parent / "__pycache__").glob("__init__.*"):
        compiled.unlink()
    made = folder / f"{version}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True, capture_output=True)
    return made


def test_a_daemon_that_runs_becomes_the_other_version_of_the_package(debian, package, tmp_path):
    """In its process, with its connections; systemd's part is played here, and its own in tests/vm."""
    newer = other(package, tmp_path, "9.9")
    debian(*DPKG, "-i", str(package))
    debian("sh", "-c", f"mkdir -p /run/systemd/system; cat >/usr/local/sbin/systemctl <<'END'\n{SYSTEMCTL}\nEND")
    debian("chmod", "+x", "/usr/local/sbin/systemctl")
    # This machine's own may say no.
    debian("rm", "-f", "/usr/sbin/policy-rc.d")
    debian("install", "-d", "-o", "pybalancer", "/run/pybalancer")
    config, home = "/etc/pybalancer/balancer.yaml", "/usr/lib/pybalancer"
    postinst = "/var/lib/dpkg/info/pybalancer.postinst"
    echo, port = Echo(), free_port()
    text = RUNNING.format(port=port, echo=echo.port)

    def write(text: str) -> None:
        debian("sh", "-c", f"cat >{config} <<'END'\n{text}\nEND")

    def stands(state: str) -> None:
        debian("sh", "-c", f"echo {state} >/run/state; : >/run/told")

    def is_restarted() -> bool:
        return "restart pybalancer.service" in debian("cat", "/run/told")

    def runs() -> str:
        """The folder of the version whose supervisor that process is now."""
        python = debian("sh", "-c", "tr '\\0' '\\n' </proc/$(cat /run/pid)/cmdline").splitlines()[0]
        return python.removesuffix("/bin/python")

    def current() -> str:
        return debian("readlink", f"{home}/current").strip()

    write(text)
    # Rights that somebody has given it stay, and what is in it.
    debian("chmod", "0644", config)
    us = "setpriv --reuid=pybalancer --regid=pybalancer --init-groups"
    debian("sh", "-c", f"{us} /usr/bin/pybalancer >/run/log 2>&1 </dev/null & echo $! >/run/pid")
    until(lambda: is_bound(port), "it listens")
    first = current()
    with talking(port) as say:
        stands("active")
        said = debian("sh", "-c", f"{' '.join(DPKG)} -i {newer} 2>&1")
        assert f"upgraded from {__version__} to 9.9 in " in said
        assert say(b"still") == b"still"
        second = current()
        assert runs() == second != first
        assert not is_restarted() and "daemon-reload" in debian("cat", "/run/told")
        assert debian("tail", "-1", config) == "# mine\n"
        assert debian("stat", "-c", "%U:%G %a", config) == "root:pybalancer 644\n"

        # One whose workers do not come up: that of before is there, to go back to.
        debian("sh", "-c", f"cd {home}/packaged/lib/python3*/site-packages/balancer/daemon; "
               "rm __pycache__/worker.*; sed -i '$aWorker.run = None' worker.py")  # fmt: skip
        said = debian("sh", "-c", f"{postinst} configure 9.9 2>&1")
        assert "not upgraded: " in said and "; 9.9 goes on" in said and "the one before still runs" in said
        assert (runs(), current() != second, is_restarted()) == (second, True, False)
        assert say(b"still") == b"still"

        # One that would refuse the file.
        write(text.replace("mode: tcp", "mode: tpc"))
        said = debian("sh", "-c", f"{postinst} configure 9.9 2>&1")
        assert "frontends.f.mode" in said and "the one before still runs" in said
        assert not is_restarted()
        debian("sh", "-c", "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d")
        assert "policy-rc.d forbids" in debian("sh", "-c", f"{postinst} configure 9.9 2>&1")
        debian("rm", "/usr/sbin/policy-rc.d")
        assert say(b"still") == b"still"

    # One that does not answer is restarted, if that can succeed; one that does not run stays as it is.
    debian("sh", "-c", "kill $(cat /run/pid)")
    until(lambda: not is_bound(port), "it has ended")
    stands("active")
    assert "the one before still runs" in debian("sh", "-c", f"{postinst} configure 9.9 2>&1")
    assert not is_restarted()
    write(text)
    debian(postinst, "configure", "9.9")
    assert is_restarted()
    stands("inactive")
    debian(postinst, "configure", "9.9")
    assert not is_restarted()
    # Of all those versions nobody runs any but the last.
    assert debian("sh", "-c", f"ls -d {home}/2*").splitlines() == [current()]
    echo.close()
