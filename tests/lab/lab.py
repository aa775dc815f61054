"""The machines of `topology` brought up in namespaces, with switches and cables at hand.

    switch (a Space)         two bridges, outside and inside, and a file system for all machines' disks
    └─ a Space per machine   joined to the bridges by veth pairs; what it runs is `services`

Everything happens within the switch's network namespace, which has no card of the real machine's: `start` makes sure
that every cable ends at a machine of the lab, and fails otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGCONT, SIGTERM, Signals
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.e2e.bed.process import until
from tests.lab import services
from tests.lab.space import LabError, Space
from tests.lab.topology import MACHINES, NETWORKS, VIPS, Card, Machine

__all__ = ["Lab", "Node", "Program"]

T = TypeVar("T")

# Until all of a machine's services answer (seconds).
_BOOT_TAKES = 15.0
# Part of /run in every space: hidden there is nothing that the machines need.
_DISKS = "/run/disks"
# What a machine has for itself, and where on its disk.
_OWN = {"/etc": "etc", "/var/log": "log", "/var/lib/misc": "lib", "/dev": "dev", "/run": "run"}
_NAME_SERVERS = {"director": "127.0.0.1", "client": "192.168.1.200"}
_NAME_SERVER_INSIDE = "10.0.100.200"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# linux/sched.h; Python has setns only since 3.12.
_CLONE_NEWNET = 0x40000000


class Program:
    """One that stays, on a machine of the lab."""

    def __init__(self, name: str, entering: subprocess.Popen[bytes]) -> None:
        self.name = name
        # nsenter, which waits outside for the program within, and stops when that stops.
        self._entering = entering
        self.pid = until(self._within, f"{name} is started")
        """As whoever made the lab sees it."""

    def _within(self) -> int:
        pid = self._entering.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert self._entering.poll() is None, f"{self.name} ended at once"
        return int(children[0]) if children else 0

    @property
    def is_running(self) -> bool:
        return self._entering.poll() is None

    def send(self, number: Signals) -> None:
        """To this process alone, not to its children. Nothing happens when it has ended."""
        if not self.is_running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if number is SIGCONT:
            self._entering.send_signal(number)

    def end(self, number: Signals = SIGTERM, *, within: float = 20.0) -> None:
        """Send it a signal that ends it, until it has ended."""
        self.send(number)
        until(lambda: not self.is_running, f"{self.name} has ended", within=within)

    def reap(self) -> None:
        """When everything on its machine is dead."""
        # It may have been stopped with its program, and would not see that end.
        self._entering.kill()
        self._entering.wait()


# The real machine's files can be read, and nothing of them changed.
_READ_ONLY = """
while read -r _ place _; do
    case $place in /proc* | /sys* | /dev*) ;; *) mount -o remount,bind,ro "$(printf %b "$place")" 2>/dev/null ;; esac
done </proc/self/mounts
"""


class Node:
    """A machine of the lab."""

    def __init__(self, machine: Machine, switch: Space) -> None:
        self.machine = machine
        self.name = machine.name
        self._switch = switch
        self._space: Space | None = None
        self._programs: list[Program] = []
        self.disk = switch.path(f"{_DISKS}/{machine.name}")
        """Its own files, as the tests reach them, also while it is off: etc, log, lib and run."""
        self.balancer: tuple[str, ...] = services.balancer(self)
        """What a director runs when it boots; another program may take pybalancer's place."""

    @property
    def space(self) -> Space:
        """LabError while it is off."""
        if self._space is None:
            raise LabError(f"{self.name} is switched off")
        return self._space

    @property
    def is_on(self) -> bool:
        return self._space is not None and self._space.is_alive

    def run(self, *command: str, takes: float = 60.0) -> str:
        """Run a command on it; its output. LabError when it fails or takes longer than `takes` seconds."""
        return self.space.run(command, takes=takes)

    def outcome(self, *command: str, takes: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on it, whatever its status."""
        return self.space.outcome(command, takes=takes)

    def start(self, *command: str, log: str) -> Program:
        """Start a program that stays; what it says goes to the file `log` of its /var/log."""
        program = Program(command[0], self.space.start(command, log=f"/var/log/{log}"))
        self._programs.append(program)
        return program

    def program(self, name: str) -> Program:
        """The one of that name that runs. LabError when none does."""
        for program in self._programs:
            if program.name == name and program.is_running:
                return program
        raise LabError(f"{self.name}: no {name} runs")

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """The sockets that this thread makes meanwhile are the machine's."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/proc/{self.space.pid}/ns/net").open() as there:
            _move_into(there.fileno())
            try:
                yield
            finally:
                _move_into(home.fileno())

    def write(self, path: str, text: str) -> None:
        """Write a file as it sees it, in the place of whatever is there."""
        self.space.run(["sh", "-c", 'rm -f "$1" && cat >"$1"', "sh", path], text=text)

    def power_on(self) -> None:
        """Boot, until all its services answer. LabError when they do not, and it is off again."""
        if self.is_on:
            return
        self.power_off()
        self._space = Space(self.name, within=self._switch)
        try:
            self._plug_in(self._space)
            self._mount(self._space)
            services.boot(self)
            until(self._is_up, f"{self.name} is ready", within=_BOOT_TAKES)
        except AssertionError as error:
            words = self._last_words()
            self.power_off()
            raise LabError(f"{error}; it said:\n{words}") from None
        except BaseException:
            self.power_off()
            raise

    def _is_up(self) -> bool:
        ended = [program.name for program in self._programs if not program.is_running]
        assert not ended, f"{self.name}: {', '.join(ended)} has ended"
        return services.is_ready(self)

    def power_off(self) -> None:
        """All its processes die at once, then its links are down."""
        if self._space is None:
            return
        space, self._space = self._space, None
        space.kill()
        for program in self._programs:
            program.reap()
        self._programs.clear()
        # The kernel would do it by itself, a little later.
        for card in self.machine.cards:
            self._switch.outcome(["ip", "link", "delete", self._plug(card)])

    @property
    def vips(self) -> set[str]:
        """The virtual addresses that it holds."""
        links = json.loads(self.run("ip", "-json", "address"))
        return {entry["local"] for link in links for entry in link["addr_info"]} & set(VIPS)

    def cut(self, card: str = "eth0") -> None:
        """Pull the cable of one card: no frame passes, and the card sees it."""
        self._switch.run(["ip", "link", "set", self._plug(self._card(card)), "down"])

    def mend(self, card: str = "eth0") -> None:
        """Plug the cable in again."""
        self._switch.run(["ip", "link", "set", self._plug(self._card(card)), "up"])

    def _card(self, name: str) -> Card:
        for card in self.machine.cards:
            if card.name == name:
                return card
        raise LabError(f"{self.name} has no card {name}")

    def _plug(self, card: Card) -> str:
        """The switch's end of the cable."""
        return f"{self.name}-{card.name}"

    def _plug_in(self, space: Space) -> None:
        at_switch, here = [], ["link set lo up"]
        for card in self.machine.cards:
            plug, network = self._plug(card), card.network
            at_switch += [
                f"link add {plug} mtu {network.mtu} type veth"
                f" peer name {card.name} address {card.mac} netns {space.pid_within}",
                f"link set {plug} master {network.name} up",
            ]
            if card.dhcp:
                here.append(f"link set {card.name} up")
            else:
                size = network.prefix.partition("/")[2]
                here.append(f"link set {card.name} mtu {network.mtu} up")
                here.append(f"address add {card.address}/{size} broadcast + dev {card.name}")
        if self.machine.gateway:
            here.append(f"route add default via {self.machine.gateway}")
        self._switch.run(["ip", "-batch", "-"], text="\n".join(at_switch))
        space.run(["ip", "-batch", "-"], text="\n".join(here))

    def _mount(self, space: Space) -> None:
        """Its own /etc, /dev, /run, … over the real machine's, from its disk; what it keeps there outlives a power
        cut, but for /run and /dev."""
        disk = f"{_DISKS}/{self.name}"
        lines = [
            "set -e",
            f"[ -d {disk}/etc ] || {{ mkdir -p {disk}/log {disk}/lib && cp -a /etc {disk}/etc; }}",
            f"rm -rf {disk}/run {disk}/dev",
            f"mkdir -p {disk}/run/disks {disk}/dev/pts {disk}/dev/shm",
            *(f"touch {disk}/dev/{device} && mount --bind /dev/{device} {disk}/dev/{device}" for device in _DEVICES),
            f"mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts {disk}/dev/pts",
            f"ln -s pts/ptmx {disk}/dev/ptmx && ln -s /proc/self/fd {disk}/dev/fd && chmod 1777 {disk}/dev/shm",
            f"mount --bind {_DISKS} {disk}/run/disks",
            *(f"mount --rbind {disk}/{own} {path}" for path, own in _OWN.items()),
        ]
        space.run(["sh"], text="\n".join(lines))
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}.lab.local {self.name}\n")
        name_server = _NAME_SERVERS.get(self.machine.kind, _NAME_SERVER_INSIDE)
        self.write("/etc/resolv.conf", f"search lab.local\nnameserver {name_server}\n")

    def _last_words(self) -> str:
        logs = sorted((self.disk / "log").rglob("*"))
        return "\n".join(
            f"{log.name}: {line}"
            for log in logs
            if log.is_file()
            for line in log.read_text(errors="replace").splitlines()[-5:]
        )


class Lab:
    """The whole cluster; a context manager. LabError where it cannot be."""

    def __init__(self) -> None:
        self._switch: Space | None = None
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Node:
        try:
            return self.nodes[name]
        except KeyError:
            raise LabError(f"there is no machine {name}; there are {', '.join(self.nodes) or 'none'}") from None

    def start(self) -> None:
        """Bring it all up: first the directors, who give the others their addresses, and the nas with its pages."""
        _refuse_hidden_places()
        switch = self._switch = Space("switch")
        bridges = "\n".join(
            f"link add {network.name} mtu {network.mtu} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n"
            f"link set {network.name} up"
            for network in NETWORKS
        )
        switch.run(["sh"], text=f"{_READ_ONLY}\nset -e; mount -t tmpfs -o mode=755 lab /run; mkdir -p {_DISKS}/nas")
        switch.run(["ip", "-batch", "-"], text=bridges)
        self._make_sure_of_no_way_out()
        self.nodes = {name: Node(machine, switch) for name, machine in MACHINES.items()}
        first = [node for node in self.nodes.values() if node.machine.kind in ("director", "nas")]
        others = [node for node in self.nodes.values() if node not in first]
        for group in (first, others):
            with ThreadPoolExecutor(len(group)) as pool:
                list(pool.map(Node.power_on, group))
        self._make_sure_of_no_way_out()
        self.settle()

    def settle(self) -> None:
        """Wait until the addresses and the servers are where they are when nothing is wrong: the highest director that
        is on holds the virtual addresses, and all directors find the servers of machines that are on to be up."""
        directors = [node for node in self.nodes.values() if node.machine.kind == "director" and node.is_on]
        expected = {node.machine.alias for node in self.nodes.values() if node.is_on}
        for node in directors:
            self.until(lambda node=node: services.are_up(node, expected), f"{node.name} finds its servers up")  # type: ignore[misc]
        self.until(lambda: directors[0].vips == set(VIPS), f"{directors[0].name} holds the virtual addresses")

    def stop(self) -> None:
        """Down, with nothing left."""
        try:
            for node in self.nodes.values():
                node.power_off()
        finally:
            self.nodes.clear()
            if self._switch is not None:
                self._switch.kill()
                self._switch = None

    def until(self, condition: Callable[[], T], what: str, *, within: float = 20.0) -> T:
        """Ask again and again until the answer is true, and give it; LabError says what did not happen."""
        try:
            return until(condition, what, within=within)
        except AssertionError as error:
            raise LabError(str(error)) from None

    def _make_sure_of_no_way_out(self) -> None:
        """Every link but loopback and the two bridges is one end of a cable whose other end is in the lab too."""
        assert self._switch is not None
        if _network(self._switch.pid) == _network("self"):
            raise LabError("the lab has no network namespace of its own")
        plugs = {plug["ifname"]: plug for plug in _links(self._switch)}
        for network in NETWORKS:
            plugs.pop(network.name)
        for node in self.nodes.values():
            for link in _links(node.space):
                plug = plugs.pop(f"{node.name}-{link['ifname']}", None)
                if plug is None or (plug["link_index"], link["link_index"]) != (link["ifindex"], plug["ifindex"]):
                    raise LabError(f"{node.name}: {link['ifname']} leads out of the lab")
        if plugs:
            raise LabError(f"the switch has links that lead out of the lab: {', '.join(plugs)}")


def _refuse_hidden_places() -> None:
    """The machines must see this checkout and its Python, and each has directories of its own over the real ones."""
    for needed in (services.ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        for own in _OWN:
            if needed.resolve().is_relative_to(own):
                raise LabError(f"{needed} cannot be seen by the lab's machines, which have {own} for themselves")


def _links(space: Space) -> list[dict[str, Any]]:
    """All network interfaces but loopback."""
    return [link for link in json.loads(space.run(["ip", "-json", "link"])) if link["ifname"] != "lo"]


def _move_into(network: int) -> None:
    """This thread, into the namespace of the open file."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(network, _CLONE_NEWNET):
        raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")


def _network(pid: int | str) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino
