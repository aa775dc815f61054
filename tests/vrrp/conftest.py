"""Hosts and switches of the kernel's own making, and speakers on them, all driven by this one process.

    Switch ─── a bridge in a namespace; its Tap sees every frame, and sends any
      ├─ Host ─── eth0 in a namespace, a Speaker
      └─ Host
    Stage  turns the speakers when their packets come or their time has, and awaits conditions meanwhile

A socket stays in the namespace that it was made in. Nothing has a name outside: with its descriptor a namespace goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from balancer.config.vrrp import Vrrp
from balancer.daemon.spawn import spawn
from balancer.vrrp.speaker import Speaker
from balancer.vrrp.track import Service
from balancer.wire import vrrp as wire
from tests.lab.space import why_not
from tests.vrrp.frames import Advert, Advertised, Arp, Frame, decode

as_root = pytest.mark.skipif(why_not() != "", reason=why_not())

VRID = 51
VIP, VIP_2, VIP_V6 = "192.0.2.200", "192.0.2.201", "2001:db8::c8"
GROUP_MAC_V4, GROUP_MAC_V6 = bytes.fromhex("01005e000012"), bytes.fromhex("333300000012")

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_SO_RCVBUFFORCE = 33
# What is on the way comes before a timer, however late this process is.
_ON_THE_WAY = 0.002
_LOOK_AGAIN = 0.05
# Nothing here takes as long, unless it never comes.
_DEADLINE = 15.0


def _call(function: str, *arguments: int) -> None:
    if getattr(_libc, function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Net:
    """A network namespace; `with net:` this thread is in it."""

    def __init__(self) -> None:
        outside = _own_namespace()
        try:
            _call("unshare", _CLONE_NEWNET)
            self._descriptor = _own_namespace()
            # An address can be used at once: nobody else has it.
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        finally:
            _call("setns", outside, _CLONE_NEWNET)
            os.close(outside)
        self._outside: list[int] = []

    @property
    def path(self) -> str:
        """For the commands that want a namespace."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def __enter__(self) -> Net:
        self._outside.append(_own_namespace())
        _call("setns", self._descriptor, _CLONE_NEWNET)
        return self

    def __exit__(self, *_: object) -> None:
        outside = self._outside.pop()
        _call("setns", outside, _CLONE_NEWNET)
        os.close(outside)

    def ip(self, command: str) -> str:
        """What ip(8) says to `command`."""
        with self:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
        assert not done.returncode, f"ip {command}: {done.stderr}"
        return done.stdout

    def batch(self, commands: str) -> None:
        """Many commands of ip(8), a line each."""
        with self:
            subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)

    def addresses(self, name: str = "eth0") -> dict[str, dict[str, Any]]:
        """What `ip -json` tells of each address of an interface."""
        found: list[dict[str, Any]] = json.loads(self.ip(f"-json address show dev {name}"))
        return {each["local"]: each for card in found for each in card.get("addr_info", ())}

    def mac(self, name: str = "eth0") -> bytes:
        """The hardware address of an interface."""
        (card,) = json.loads(self.ip(f"-json link show dev {name}"))
        return bytes.fromhex(card["address"].replace(":", ""))

    def close(self) -> None:
        """The kernel takes it away with all that is in it, once no socket is left."""
        os.close(self._descriptor)


class Tap:
    """Every frame of an interface: `said` are those that came, as they came, our own left out."""

    def __init__(self, net: Net, name: str) -> None:
        with net:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL)
            )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        with net:
            self._socket.bind((name, _ETH_P_ALL))
        self.said: list[Advert | Arp | Advertised] = []

    def fileno(self) -> int:
        """Readable when frames have come."""
        return self._socket.fileno()

    def read(self) -> None:
        """Add what has come."""
        while True:
            try:
                data, place = self._socket.recvfrom(4096)
            except BlockingIOError:
                return
            if place[2] == _PACKET_OUTGOING:
                continue
            said = decode(Frame(data[:6], data[6:12], int.from_bytes(data[12:14], "big"), data[14:]))
            if said is not None:
                self.said.append(said)

    def adverts(self, source: str | None = None) -> list[Advert]:
        """The advertisements so far, of all or of one."""
        self.read()
        return [each for each in self.said if isinstance(each, Advert) and source in (None, each.source)]

    def arps(self) -> list[Arp]:
        """The ARP packets so far, but for the questions where a host is."""
        self.read()
        return [each for each in self.said if isinstance(each, Arp) and each.sender == each.target]

    def forget(self) -> None:
        """Nothing has come yet."""
        self.read()
        self.said.clear()

    def send(self, frame: bytes) -> None:
        """To all that are plugged in."""
        self._socket.send(frame)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def ipv4_frame(message: bytes, source: str, *, destination: str = "224.0.0.18", ttl: int = 255) -> bytes:
    """A VRRP message as anybody on the link can send it."""
    size = 20 + len(message)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH8s", 0x45, 0xC0, size, 0, 0, ttl, wire.PROTOCOL, 0, addresses)
    header = header[:10] + wire.checksum(header).to_bytes(2, "big") + header[12:]
    return GROUP_MAC_V4 + bytes.fromhex("020000000099 0800") + header + message


def advertisement(source: str, *, priority: int, destination: str = "224.0.0.18", **changes: Any) -> bytes:
    """A message of version 3 for `VRID` and `VIP`, but for `changes`."""
    fields: dict[str, Any] = {
        "version": 3,
        "vrid": VRID,
        "interval": 0.1,
        "addresses": (ip_address(VIP).packed,),
    } | changes
    said = wire.Advertisement(priority=priority, **fields)
    return wire.build(said, source=ip_address(source).packed, destination=ip_address(destination).packed)


class Switch(Net):
    """Where cables end."""

    def __init__(self) -> None:
        super().__init__()
        self.ip("link add name br0 type bridge mcast_snooping 0")
        self.ip("link set dev br0 up")
        self.tap = Tap(self, "br0")
        self._ports: dict[tuple[Net, str], str] = {}

    def plug(self, host: Net, *addresses: str, name: str = "eth0") -> None:
        """A cable from a new interface of `host`, in place of one that it replaces."""
        port = self._ports.setdefault((host, name), f"port{len(self._ports)}")
        self.ip(f"link add name {port} type veth peer name {name} netns {host.path}")
        self.ip(f"link set dev {port} master br0 up")
        for address in addresses:
            host.ip(f"address add {address} dev {name}")
        host.ip(f"link set dev {name} up")
        # The kernel opens the port when it comes to it.
        end = time.monotonic() + _DEADLINE
        while '"state":"forwarding"' not in self.ip(f"-details -json link show dev {port}"):
            assert time.monotonic() < end, f"{port} stays closed"

    def cut(self, host: Net, name: str = "eth0") -> None:
        """Nothing goes through the cable, and both ends know."""
        self.ip(f"link set dev {self._ports[host, name]} down")

    def isolate(self, host: Net, name: str = "eth0") -> None:
        """Nothing goes from it to others that are isolated, and no end knows; the tap still hears and reaches it."""
        self.ip(f"link set dev {self._ports[host, name]} type bridge_slave isolated on")

    def mend(self, host: Net, name: str = "eth0") -> None:
        """As if it had not been cut."""
        self.ip(f"link set dev {self._ports[host, name]} up")

    def close(self) -> None:
        self.tap.close()
        super().close()


class Host(Net):
    """A director; what its speaker logs is in `said`, in `warned` the warnings alone."""

    def __init__(self) -> None:
        super().__init__()
        self.speaker: Speaker | None = None
        self.is_frozen = False
        self.said: list[str] = []
        self.warned: list[str] = []
        self.service = Service(is_serving=True, servers={})
        self._programs: set[int] = set()

    def _log(self, line: str, is_warning: bool) -> None:
        self.said.append(line)
        if is_warning:
            self.warned.append(line)

    def _spawn(self, words: Sequence[str]) -> int:
        self._programs.add(pid := spawn(words, None))
        return pid

    def reap(self) -> None:
        """Tell the speaker of the programs that have ended."""
        for pid in list(self._programs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._programs.remove(pid)
                assert self.speaker is None or self.speaker.ended(pid, status)

    def make(self, vrrp: Vrrp) -> Speaker:
        """A speaker that is not started."""
        with self:
            return Speaker(vrrp, node="here", log=self._log, spawn=self._spawn, service=lambda: self.service)

    def start(self, vrrp: Vrrp) -> None:
        """A new speaker begins."""
        assert self.speaker is None
        self.is_frozen = False
        self.speaker = self.make(vrrp)
        with self:
            self.speaker.start()

    def reload(self, vrrp: Vrrp) -> None:
        """The same speaker has another configuration."""
        assert self.speaker is not None
        with self:
            self.speaker.change(self.speaker.prepare(vrrp, spawn=self._spawn))

    def turn(self) -> None:
        """What has come, and what is due."""
        assert self.speaker is not None
        with self:
            self.speaker.turn()

    def stop(self) -> None:
        """The speaker ends as it should."""
        assert self.speaker is not None
        with self:
            self.speaker.stop()
        self.crash()

    def crash(self) -> None:
        """The speaker is gone without a word."""
        assert self.speaker is not None
        self.speaker.close()
        self.speaker = None

    def roles(self, name: str = "vi") -> list[str]:
        """All that a virtual router was, oldest first."""
        mark = f"({name}) Entering "
        return [line.removeprefix(mark).partition(" ")[0] for line in self.said if line.startswith(mark)]

    def role(self, name: str = "vi") -> str:
        """What a virtual router is."""
        return (self.roles(name) or ["INIT"])[-1]

    def counted(self, cause: str, name: str = "vi") -> int:
        """How often a virtual router counted `cause`."""
        assert self.speaker is not None
        return self.speaker._routers[name].counted[cause]

    def prefixes(self, address: str = VIP) -> set[int]:
        """Lengths of the prefixes that the address is there with."""
        (card,) = json.loads(self.ip("-json address show dev eth0"))
        return {each["prefixlen"] for each in card["addr_info"] if each["local"] == address}

    def holds(self, address: str = VIP, *, name: str = "eth0") -> bool:
        """Is the address there?"""
        return address in self.addresses(name)

    def readdress(self, old: str, new: str) -> None:
        """Another address of the same network; for a moment it has both."""
        with self:
            # Else the new one, being the second, goes with the first.
            Path("/proc/sys/net/ipv4/conf/all/promote_secondaries").write_text("1")
        self.ip(f"address add {new}/24 dev eth0")
        self.ip(f"address del {old}/24 dev eth0")

    def close(self) -> None:
        if self.speaker is not None:
            self.crash()
        for pid in self._programs:
            os.waitpid(pid, 0)
        super().close()


class Stage:
    """All that is needed to play, and goes at the end."""

    def __init__(self) -> None:
        self._nets: list[Switch | Host] = []

    def switch(self) -> Switch:
        """With nothing plugged in."""
        self._nets.append(switch := Switch())
        return switch

    def host(self) -> Host:
        """With no interface."""
        self._nets.append(host := Host())
        return host

    def hosts(self, switch: Switch, count: int) -> list[Host]:
        """On one switch; 192.0.2.1, 192.0.2.2 and so on."""
        hosts = [self.host() for _ in range(count)]
        for number, host in enumerate(hosts, 1):
            switch.plug(host, f"192.0.2.{number}/24")
        return hosts

    def until(self, condition: Callable[[], object], *, within: float = _DEADLINE) -> float:
        """Drive all speakers until `condition` holds; the seconds it took."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < within, [(host.role(), host.said) for host in self._hosts()]
            self._round()
        return time.monotonic() - begin

    def _hosts(self) -> list[Host]:
        return [net for net in self._nets if isinstance(net, Host)]

    def _round(self) -> None:
        """Whatever has come is taken first; then only who is due first has its turn, for the others may hear of it."""
        running = [(host, host.speaker) for host in self._hosts() if host.speaker is not None and not host.is_frozen]
        with selectors.PollSelector() as selector:
            for net in self._nets:
                if isinstance(net, Switch):
                    selector.register(net.tap, selectors.EVENT_READ, net.tap.read)
            for host, speaker in running:
                selector.register(speaker, selectors.EVENT_READ, host.turn)
            due = min((speaker.due for _, speaker in running), default=float("inf"))
            ready = selector.select(min(max(due - time.monotonic(), _ON_THE_WAY), _LOOK_AGAIN))
            for key, _ in ready:
                key.data()
        for host in self._hosts():
            host.reap()
        if not ready and running:
            host, speaker = min(running, key=lambda each: each[1].due)
            if speaker.due <= time.monotonic():
                host.turn()

    def close(self) -> None:
        """End all, the last first."""
        for net in reversed(self._nets):
            net.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def switch(stage: Stage) -> Switch:
    return stage.switch()


def instance(**changes: Any) -> dict[str, Any]:
    """A virtual router as it is written, with an interval that is short enough for tests."""
    written = {
        "interface": "eth0",
        "version": 3,
        "virtual_router_id": VRID,
        "advert_int": "100ms",
        "virtual_ipaddress": VIP,
        "garp_master_delay": "60s",
    }
    return written | changes


def one(priority: int = 100, **changes: Any) -> Vrrp:
    """A file with the virtual router `vi` alone."""
    return many(vi=instance(priority=priority, **changes))


def descriptors() -> dict[str, str]:
    """What this process has open."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        # That of the listing itself is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    return found


def file(instances: dict[str, Any], **keys: Any) -> Vrrp:
    """A file with more than virtual routers and groups."""
    return Vrrp.model_validate({"instances": instances} | keys)


def many(groups: dict[str, tuple[str, ...]] | None = None, **instances: dict[str, Any]) -> Vrrp:
    """A file with several."""
    return file(instances, sync_groups=groups or {})
