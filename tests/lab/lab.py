"""The machines of `topology` brought up in namespaces, with switches and cables at hand.

    switch (a Space)         two bridges, outside and inside, and a file system for all machines' disks
    └─ a Space per machine   joined to the bridges by veth pairs; what it runs is `services`

Everything happens within the switch's network namespace, which has no card of the real machine's: `start` makes sure
that every cable ends at a machine of the lab, and fails otherwise.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.e2e.bed.process import until
from tests.lab import services
from tests.lab.space import LabError, Space
from tests.lab.topology import MACHINES, NETWORKS, Card, Machine

__all__ = ["Lab", "Node"]

T = TypeVar("T")

# Until all of a machine's services answer (seconds).
_BOOT_TAKES = 15.0
# Part of /run in every space: hidden there is nothing that the machines need.
_DISKS = "/run/disks"
# What a machine has for itself, and where on its disk.
_OWN = {"/etc": "etc", "/var/log": "log", "/var/lib/misc": "lib", "/dev": "dev", "/run": "run"}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Node:
    """A machine of the lab."""

    def __init__(self, machine: Machine, switch: Space) -> None:
        self.machine = machine
        self.name = machine.name
        self._switch = switch
        self._space: Space | None = None
        self._programs: list[subprocess.Popen[bytes]] = []
        self.disk = switch.path(f"{_DISKS}/{machine.name}")
        """Its own files, as the tests reach them, also while it is off: etc, log, lib and run."""

    @property
    def space(self) -> Space:
        """LabError while it is off."""
        if self._space is None:
            raise LabError(f"{self.name} is switched off")
        return self._space

    @property
    def is_on(self) -> bool:
        return self._space is not None

    def run(self, *command: str, takes: float = 60.0) -> str:
        """Run a command on it; its output. LabError when it fails or takes longer than `takes` seconds."""
        return self.space.run(command, takes=takes)

    def outcome(self, *command: str, takes: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on it, whatever its status."""
        return self.space.outcome(command, takes=takes)

    def start(self, *command: str, log: str) -> None:
        """Start a program that stays; what it says goes to the file `log` of its /var/log."""
        self._programs.append(self.space.start(command, log=f"/var/log/{log}"))

    def power_on(self) -> None:
        """Boot, until all its services answer. LabError when they do not."""
        if self._space is not None:
            return
        self._space = Space(self.name, within=self._switch)
        try:
            self._plug_in(self._space)
            self._mount(self._space)
            services.boot(self)
            until(lambda: services.is_ready(self), f"{self.name} is ready", within=_BOOT_TAKES)
        except AssertionError as error:
            raise LabError(f"{error}; it said:\n{self._last_words()}") from None

    def power_off(self) -> None:
        """All its processes die at once, then its links are down."""
        if self._space is None:
            return
        space, self._space = self._space, None
        space.kill()
        for program in self._programs:
            program.wait()
        self._programs.clear()
        # The kernel would do it by itself, a little later.
        for card in self.machine.cards:
            self._switch.outcome(["ip", "link", "delete", self._plug(card)])

    def cut(self, card: str = "eth0") -> None:
        """Pull the cable of one card: no frame passes, and the card sees it."""
        self._switch.run(["ip", "link", "set", self._plug(self._card(card)), "down"])

    def mend(self, card: str = "eth0") -> None:
        """Plug the cable in again."""
        self._switch.run(["ip", "link", "set", self._plug(self._card(card)), "up"])

    def _card(self, name: str) -> Card:
        return next(card for card in self.machine.cards if card.name == name)

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
        return self.nodes[name]

    def start(self) -> None:
        """Bring it all up, the directors first: they give the others their addresses."""
        switch = self._switch = Space("switch")
        bridges = "\n".join(
            f"link add {network.name} mtu {network.mtu} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n"
            f"link set {network.name} up"
            for network in NETWORKS
        )
        switch.run(["sh"], text=f"set -e; mount -t tmpfs -o mode=755 lab /run; mkdir -p {_DISKS}/nas")
        switch.run(["ip", "-batch", "-"], text=bridges)
        self._make_sure_of_no_way_out()
        self.nodes = {name: Node(machine, switch) for name, machine in MACHINES.items()}
        directors = [node for node in self.nodes.values() if node.machine.kind == "director"]
        others = [node for node in self.nodes.values() if node.machine.kind != "director"]
        for group in (directors, others):
            with ThreadPoolExecutor(len(group)) as pool:
                list(pool.map(Node.power_on, group))
        self._make_sure_of_no_way_out()

    def stop(self) -> None:
        """Down, with nothing left."""
        for node in self.nodes.values():
            node.power_off()
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


def _links(space: Space) -> list[dict[str, Any]]:
    """All network interfaces but loopback."""
    return [link for link in json.loads(space.run(["ip", "-json", "link"])) if link["ifname"] != "lo"]


def _network(pid: int | str) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino
