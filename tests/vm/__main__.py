"""Installs, runs, reloads, breaks and removes pybalancer on Debian systems under systemd: `make vm-test`.

Two directors, a web server and a name server, each made by the script that makes the virtual machines of
config/virtualbox. What is done is printed, and what came of it. Exit status: 0 all as it must be, 1 not.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.space import Space
from tests.vm.machine import Machine, VmError, base_system, until

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "build/vm"
SCRIPT = "config/virtualbox/provision.sh"
CARDS = {
    "master": (("outside", "192.168.1.101/24"), ("inside", "10.0.100.1/24")),
    "standby": (("outside", "192.168.1.102/24"), ("inside", "10.0.100.50/24")),
    "web1": (("inside", "10.0.100.2/24"),),
    "dns1": (("inside", "10.0.100.5/24"),),
}
ROLES = {"master": "director", "standby": "director", "web1": "web", "dns1": "dns"}
VIP = "192.168.1.200"
CONFIG = "/etc/pybalancer/balancer.yaml"
SOURCE = "/usr/src/pybalancer"
# Two versions of the package, to upgrade from one to the other.
PACKAGES = f"""
    apt-get install -y -qq --no-install-recommends dpkg-dev lintian >/dev/null
    make -s -C {SOURCE} deb DEB_VERSION=1.0
    make -s -C {SOURCE} deb DEB_VERSION=1.1
"""
# One connection, with a request a second on it, until it is told that it is enough; how many have been answered.
TALK = """
import http.client, pathlib, sys, time
line = http.client.HTTPConnection(sys.argv[1], timeout=10)
line.connect()
same, answered = line.sock, 0
while not pathlib.Path("/run/enough").exists():
    line.request("GET", "/")
    answer = line.getresponse()
    answer.read()
    assert answer.status == 200 and line.sock is same, "it was closed"
    answered += 1
    time.sleep(1)
print(answered)
"""
# Seconds: for dpkg, and for who waits for an upgrade.
LONG = 200.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="with the machines as the last run has left them")
    options = parser.parse_args()
    try:
        with contextlib.ExitStack() as at_the_end:
            Run(at_the_end, is_new=not options.again).all()
    except (VmError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print("all as it must be")
    return 0


class Run:
    """One run, from installation to removal."""

    def __init__(self, at_the_end: contextlib.ExitStack, *, is_new: bool) -> None:
        self._began = time.monotonic()
        self._client = at_the_end.enter_context(contextlib.closing(_Lan()))
        with self._step("a Debian 12 system"):
            base = base_system(FOLDER) if is_new else None
        self._is_new = is_new
        self.machines: dict[str, Machine] = {}
        for name in CARDS:
            machine = self.machines[name] = Machine(name, base, FOLDER, self._client.plug(name, CARDS[name]))
            at_the_end.callback(machine.switch_off)
        self._master, self._standby = self.machines["master"], self.machines["standby"]

    def all(self) -> None:
        if self._is_new:
            with self._step("install"):
                self.install()
        for step in (
            self.start, self.serves, self.is_shut_in, self.reloads, self.takes_a_changed_file, self.refuses_a_bad_file,
            self.is_upgraded, self.fails_over, self.is_watched, self.reboots, self.is_removed, self.comes_as_a_package,
        ):  # fmt: skip
            with self._step(step.__name__.replace("_", " ")):
                step()

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        print(f"[{time.monotonic() - self._began:5.0f} s] {what}", flush=True)
        yield

    def install(self) -> None:
        for name, machine in self.machines.items():
            said = machine.provision(SCRIPT, ROLES[name], CHECKOUT)
            _say(f"{name}: {said.strip().splitlines()[-1]}")
        said = self._standby.prepare("sh", "-ec", PACKAGES)
        _say(f"packages: {' '.join(Path(line).name for line in said.splitlines() if line.endswith('.deb'))}")

    def start(self) -> None:
        # The servers first: directors then find them up.
        for name in ("web1", "dns1", "master", "standby"):
            self.machines[name].start()
        for director in (self._master, self._standby):
            until(lambda it=director: it.outcome("systemctl", "is-active", "pybalancer").returncode == 0, director.name)
            _say(f"{director.name}: {director.run('pybalancer', '--version').strip()}")

    def serves(self) -> None:
        self._vip_is_on(self._master, self._standby)
        for port, what in (("80", "proxy, TCP"), ("8000", "proxy, HTTP"), ("443", "TLS passes through")):
            scheme = "https" if port == "443" else "http"
            until(lambda url=f"{scheme}://{VIP}:{port}/": self._get(url), f"port {port}")
            _say(f"{scheme}://{VIP}:{port}  {what}: {self._get(f'{scheme}://{VIP}:{port}/')}")
        seen = "client: 192.168.1.10"
        until(lambda: seen in self._client.outcome("curl", "-s", "http://192.168.1.202/"), "the kernel engine")
        _say(f"http://192.168.1.202   kernel: the server sees {seen}")
        until(lambda: "10.0.100.5" in self._dig(), "DNS")
        _say(f"dig dns1.lab.local: {self._dig()}")

    def is_shut_in(self) -> None:
        said = self._master.run("systemd-analyze", "security", "--no-pager", "pybalancer").strip().splitlines()[-1]
        _say(said)
        if not float(said.split(":")[1].split()[0]) <= 3.0:
            raise VmError(said)
        users = self._master.run("ps", "-o", "user=,args=", "-C", "pybalancer").splitlines()
        if not users or any(not line.startswith("pybalan") for line in users):
            raise VmError(f"it runs as somebody else: {users}")
        _say(f"{len(users)} processes, none of them root's")

    def reloads(self) -> None:
        so_far = len(self._reloaded())

        def three() -> None:
            for wanted in range(so_far + 1, so_far + 4):
                self._master.run("systemctl", "reload", "pybalancer")
                until(lambda least=wanted: len(self._reloaded()) >= least, "the log says that it has reloaded")

        failed = self._under_load(three)
        _say(f"three reloads under load: {failed} requests failed")
        if failed:
            raise VmError(f"{failed} requests failed over a reload")

    def takes_a_changed_file(self) -> None:
        """A frontend and a server come and go."""
        self._master.run("cp", "-p", CONFIG, "/root/good")
        added = r"/^frontends:/a\  more: {mode: http, bind: 192.168.1.200:8001, default_backend: http-servers}"
        changes = (("sed", "-i", "-e", added, "-e", "/cluster4: {address: 10.0.100.4:80, cookie/d", CONFIG),
                   ("cp", "-p", "/root/good", CONFIG))  # fmt: skip
        failed = 0
        for change, answers in zip(changes, (True, False), strict=True):
            self._master.run(*change)
            failed += self._under_load(lambda: self._master.run("systemctl", "reload", "pybalancer"))
            until(lambda it=answers: bool(self._get(f"http://{VIP}:8001/")) is it, "the port is there, or gone")
        said = [line for line in self._reloaded() if "(more)" in line]
        _say("; ".join(line.partition("reloaded: ")[2] for line in said))
        if failed or len(said) != 2:
            raise VmError(f"{failed} requests failed over a changed file; the log says {said}")

    def refuses_a_bad_file(self) -> None:
        self._master.run("sh", "-c", f"cp -p {CONFIG} /root/good && sed -i s/roundrobin/rondrobin/ {CONFIG}")
        done = self._master.outcome("systemctl", "reload", "pybalancer")
        if not done.returncode or not self._get(f"http://{VIP}:8000/"):
            raise VmError("a bad file was taken")
        self._master.run("cp", "-p", "/root/good", CONFIG)
        _say("refused, and all goes on")

    def is_upgraded(self) -> None:
        """Executed anew in the same process: systemd and the other director do not notice."""
        before = self._main_pid()
        said: list[str] = []
        failed = self._under_load(lambda: said.append(self._master.run("pybalancer", "upgrade", takes=LONG)))
        _say(f"{said[0].strip().splitlines()[-1]}: {failed} requests failed")
        if failed or self._main_pid() != before or f"inet {VIP}/" in self._standby.run("ip", "address"):
            raise VmError(f"{failed} requests failed over an upgrade; process {before}, then {self._main_pid()}")

    def fails_over(self) -> None:
        for how, back in (("stop", "start"), ("kill --signal=KILL --kill-who=main", "start")):
            if "kill" in how:
                # Or systemd starts it again at once, as it should.
                self._master.run("systemctl", "mask", "--runtime", "pybalancer")
            self._master.run("systemctl", *how.split(), "pybalancer")
            began = time.monotonic()
            self._vip_is_on(self._standby, self._master)
            until(lambda: self._get(f"http://{VIP}:8000/"), "the standby serves")
            _say(f"systemctl {how}: the standby serves after {time.monotonic() - began:.1f} s")
            self._master.run("systemctl", "unmask", "--runtime", "pybalancer")
            self._master.run("systemctl", back, "pybalancer")
            self._vip_is_on(self._master, self._standby)

    def is_watched(self) -> None:
        before = self._main_pid()
        self._master.run("kill", "-KILL", str(before))
        until(lambda: self._main_pid() not in (0, before), "systemd starts it again")
        until(lambda: not self._master.outcome("systemctl", "is-active", "pybalancer").returncode, "it is there again")
        _say("kill -9: systemd has started it again")
        before = self._main_pid()
        self._master.run("kill", "-STOP", str(before))
        began = time.monotonic()
        until(lambda: self._main_pid() not in (0, before), "the watchdog bites", within=90)
        _say(f"frozen: the watchdog had it started again after {time.monotonic() - began:.0f} s")
        self._vip_is_on(self._master, self._standby)

    def reboots(self) -> None:
        self._master.reboot()
        self._vip_is_on(self._master, self._standby)
        until(lambda: self._get(f"http://{VIP}:8000/"), "it serves after the boot")
        _say("it is there after a boot, and master")

    def is_removed(self) -> None:
        for words in (["uninstall"], ["purge"]):
            self._standby.run("make", "-C", SOURCE, *words)
        self._nothing_is_left()
        _say("uninstall, purge: nothing is left of it")

    def comes_as_a_package(self) -> None:
        """The same on the standby, as apt does it."""
        first, second = (f"{SOURCE}/build/pybalancer_{version}_amd64.deb" for version in ("1.0", "1.1"))
        it = self._standby
        # It wants to know where it is, which a command that is put there does not.
        it.run("sh", "-c", f"cd / && lintian --allow-root --fail-on error,warning {first}", takes=180)
        it.run("dpkg", "-i", first, takes=LONG)
        for question, answer in (("is-enabled", "disabled"), ("is-active", "inactive")):
            if (said := it.outcome("systemctl", question, "pybalancer").stdout.strip()) != answer:
                raise VmError(f"newly installed it is {said}, not {answer}")
        (it.root / CONFIG[1:]).write_text(self._master.run("cat", CONFIG))
        it.run("systemctl", "enable", "--now", "pybalancer")
        _say(f"dpkg -i: {it.run('/usr/bin/pybalancer', '--version').strip()}, nothing started; enabled, it is standby")
        self._master.run("systemctl", "stop", "pybalancer")
        self._vip_is_on(it, self._master)
        until(lambda: self._get(f"http://{VIP}:8000/"), "the package serves")
        self._package_is_upgraded(it, first, second)
        self._master.run("systemctl", "start", "pybalancer")
        self._vip_is_on(self._master, it)
        it.run("dpkg", "-r", "pybalancer")
        if it.outcome("systemctl", "is-active", "pybalancer").stdout.strip() == "active":
            raise VmError("removed, and still running")
        it.run("test", "-e", CONFIG)
        it.run("dpkg", "-P", "pybalancer")
        self._nothing_is_left()
        _say("dpkg -r, -P: nothing is left of it")

    def _package_is_upgraded(self, it: Machine, first: str, second: str) -> None:
        before, version = self._main_pid(it), self._runs(it)
        self._client.outcome("rm", "-f", "/run/enough")
        line = self._client.begin(sys.executable, "-c", TALK, VIP)
        try:
            failed = self._under_load(lambda: it.run("dpkg", "-i", second, takes=LONG))
        finally:
            self._client.outcome("touch", "/run/enough")
            answered = line.communicate(timeout=30)[0].strip()
        after, next_version = self._main_pid(it), self._runs(it)
        if failed or not answered or after != before or next_version == version:
            raise VmError(
                f"upgraded: process {before} {version}, then {after} {next_version}; {failed} requests failed, "
                f"on an open connection {answered or 'too'}"
            )
        _say(f"dpkg -i of another version: the same process, 0 requests failed, {answered} on a connection that stayed")

        it.run("cp", "-p", CONFIG, "/root/good")
        it.run("sed", "-i", "s/roundrobin/rondrobin/", CONFIG)
        said = it.outcome("dpkg", "-i", first, takes=LONG)
        if said.returncode or "mended" not in said.stderr or self._runs(it) != next_version:
            raise VmError(f"another version and a bad file: {said.stdout}{said.stderr}")
        it.run("cp", "-p", "/root/good", CONFIG)
        _say("with a bad file the one before goes on, and it is said")

        it.run("sed", "-i", "/runtime_socket:/d", CONFIG)
        it.run("systemctl", "reload", "pybalancer")
        told = it.run("pybalancer", "upgrade", takes=LONG).strip()
        if self._main_pid(it) != before or self._runs(it) == next_version:
            raise VmError(f"without a runtime socket: {told}")
        _say(f"mended, and without a runtime socket: {told}")

    def _runs(self, machine: Machine) -> str:
        """The Python of the version that its supervisor is, which has a folder of its own."""
        return machine.run("cat", f"/proc/{self._main_pid(machine)}/cmdline").partition("\0")[0]

    def _nothing_is_left(self) -> None:
        left = self._standby.run(
            "find", "/etc", "/run", "/usr", "/var/lib", "/var/log", "-xdev",
            "(", "-path", "/usr/src/pybalancer", "-o", "-path", "*/journal/*", ")", "-prune",
            "-o", "-name", "*pybalancer*", "-print",
        )  # fmt: skip
        users = self._standby.outcome("getent", "passwd", "pybalancer").stdout
        rules = self._standby.run("nft", "list", "ruleset")
        if left or users or rules:
            raise VmError(f"left behind: {left}{users}{rules}")

    def _reloaded(self) -> list[str]:
        said = self._master.outcome("journalctl", "-u", "pybalancer", "-o", "cat", "-q").stdout.splitlines()
        # What it says itself, and not what it tells the service manager.
        return [line for line in said if "NOTICE: reloaded: " in line]

    def _main_pid(self, machine: Machine | None = None) -> int:
        return int((machine or self._master).run("systemctl", "show", "-P", "MainPID", "pybalancer"))

    def _vip_is_on(self, one: Machine, other: Machine) -> None:
        def stands() -> bool:
            return f"inet {VIP}/" in one.run("ip", "address") and f"inet {VIP}/" not in other.run("ip", "address")

        until(stands, f"{one.name} has {VIP} and {other.name} has not")

    def _get(self, url: str) -> str:
        said = self._client.outcome("curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", url)
        return said if said == "200" else ""

    def _dig(self) -> str:
        return self._client.outcome("dig", "+short", "+tries=1", "+timeout=2", f"@{VIP}", "dns1.lab.local").strip()

    def _under_load(self, act: Callable[[], object]) -> int:
        """How many requests fail meanwhile, each on a connection of its own, or kept."""
        script = f"""
            stop=/run/stop; rm -f $stop; failed=0
            while [ ! -e $stop ]; do
                for port in 8000 80; do
                    said=$(curl -s --max-time 5 -o /dev/null -w '%{{http_code}}' http://{VIP}:$port/)
                    [ "$said" = 200 ] || failed=$((failed + 1))
                done
            done; echo $failed"""
        load = self._client.begin("sh", "-c", script)
        try:
            time.sleep(1)  # so long it is served by those of before
            act()
            time.sleep(1)
        finally:
            self._client.outcome("touch", "/run/stop")
        return int(load.communicate(timeout=30)[0])


class _Lan:
    """Two networks, the client on one of them, and machines plugged into them."""

    def __init__(self) -> None:
        self._space = Space("client")
        self._plugged: list[Space] = []
        self._run("mount", "-t", "tmpfs", "tmpfs", "/run")
        for bridge in ("outside", "inside"):
            self._run("ip", "link", "add", bridge, "type", "bridge")
            self._run("ip", "link", "set", bridge, "up")
        self._run("ip", "address", "add", "192.168.1.10/24", "dev", "outside")
        self._run("ip", "link", "set", "lo", "up")

    def plug(self, name: str, cards: tuple[tuple[str, str], ...]) -> Space:
        """The space whose network a machine of that name has."""
        space = Space(name)
        self._plugged.append(space)
        for number, (bridge, address) in enumerate(cards):
            port = f"{name}{number}"
            peer = f"/proc/{space.pid}/ns/net"
            # A name for it here is what `ip link` wants: the process's number, as this machine sees it.
            subprocess.run(
                [
                    "nsenter", f"--net=/proc/{self._space.pid}/ns/net", "ip", "link", "add", port, "type", "veth",
                    "peer", "name", f"eth{number}", "netns", str(space.pid),
                ],
                check=True,
            )  # fmt: skip
            self._run("ip", "link", "set", port, "master", bridge, "up")
            inside = ["nsenter", f"--net={peer}"]
            for words in (["address", "add", address, "dev", f"eth{number}"], ["link", "set", f"eth{number}", "up"]):
                subprocess.run([*inside, "ip", *words], check=True)
        return space

    def outcome(self, *command: str) -> str:
        """What a command says on the client, whatever its status."""
        return self._space.outcome(command).stdout

    def begin(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._space.entering, *command], stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        for space in (*self._plugged, self._space):
            space.kill()

    def _run(self, *command: str) -> None:
        self._space.run(command)


def _say(text: str) -> None:
    print(f"          {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
