"""The keys under `vrrp:`, in keepalived's words. Durations are seconds (float) once read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from balancer.config.kinds import (
    Command,
    Count,
    Duration,
    DurationOrOff,
    Endpoint,
    Interface,
    InterfaceAddress,
    IpAddress,
    Name,
    Password,
    Path,
    Text,
)
from balancer.config.values import Model, OneOrMany, Short, Whole

__all__ = [
    "Authentication",
    "CheckScript",
    "Heartbeat",
    "SyncGroup",
    "TrackFile",
    "TrackedBackend",
    "TrackedFile",
    "TrackedInterface",
    "TrackedScript",
    "VirtualAddress",
    "Vrrp",
    "VrrpInstance",
]

# keepalived's range of a tracker's weight: the most that can lie between two priorities.
_Weight = Annotated[int, Whole(-253, 253)]


class Authentication(Model):
    """VRRPv2 simple text authentication (RFC 2338), for peers that ask for it."""

    type: Literal["none", "pass"]
    """pass sends the password with each advertisement, readable by everyone on the network."""
    password: Password | None = None
    """The first 8 octets are used."""


class VirtualAddress(Model):
    """An address that the master holds."""

    address: InterfaceAddress
    """With or without prefix length: 192.0.2.200 is 192.0.2.200/32."""
    label: Interface | None = None
    """Name for ifconfig (IPv4): that of the interface, or that with a colon and more, such as eth0:vip."""
    scope: Literal["global", "site", "link", "host", "nowhere"] = "global"
    """Where the address is valid (IPv4; ip-address(8)). IPv6 addresses say it themselves."""


class TrackedInterface(Model):
    """An interface whose fate this virtual router shares."""

    interface: Interface
    """Its name."""
    weight: _Weight = 0
    """Added to the priority: a positive one while it is up, a negative one while it is down. 0: down means FAULT."""


class TrackedScript(Model):
    """A script of `vrrp.scripts` whose result counts here."""

    script: Name
    """Its name there."""
    weight: _Weight | None = None
    """In place of the script's own."""


class TrackedFile(Model):
    """A file of `vrrp.files` whose number counts here."""

    file: Name
    """Its name there."""
    weight: _Weight | None = None
    """In place of the file's own."""


class TrackedBackend(Model):
    """A backend of which the master should reach the most servers."""

    backend: Name
    """Name of a backend."""
    weight: Annotated[int, Whole(-253, -1)] = -100
    """Added to the priority in proportion to the share of servers that the peer has up and we have not."""


class CheckScript(Model):
    """A program that tells by its exit status whether this host may be master (keepalived's `vrrp_script`)."""

    script: Command
    """Path and arguments, no shell: "/usr/local/bin/check --fast", or a list. Status 0 is success."""
    interval: Duration = 1.0
    """Between the starts of two runs."""
    timeout: Duration | None = None
    """A run that takes longer is killed and has failed. Default: `interval`."""
    rise: Count = 1
    """Successes in a row that make it good."""
    fall: Count = 1
    """Failures in a row that make it bad."""
    weight: _Weight = 0
    """Added to the priority: a positive one while it is good, a negative one while it is bad. 0: bad means FAULT."""
    init_fail: bool = False
    """Whether it is bad until it was good `rise` times. Otherwise nothing counts before its first result."""


class TrackFile(Model):
    """A file with a number, written by somebody else (keepalived's `vrrp_track_file`)."""

    file: Path
    """Its path. No such file, or no number in it: 0."""
    weight: Annotated[int, Whole(-254, 254)] = 1
    """The number times this is added to the priority; a product of -254 or less is FAULT."""


class Heartbeat(Model):
    """Datagrams to the other directors, over another interface than VRRP's best: what each sees and where it stands.

    While they tell that a peer is master, silence on VRRP's own interface is no reason to take over.
    """

    bind: Endpoint
    """Our own address and UDP port: HOST:PORT or [IPV6]:PORT."""
    peers: Annotated[tuple[Endpoint, ...], Field(min_length=1), OneOrMany()]
    """The other directors' `bind`; one or a list."""
    interval: Duration | None = None
    """Between two of them; after three without one the peer is taken for dead. Default: the shortest `advert_int`."""
    key: Password
    """The same on all directors: who does not know it is not believed (HMAC, RFC 2104)."""


class VrrpInstance(Model):
    """One virtual router (RFC 9568)."""

    interface: Interface
    """Where advertisements are sent and addresses are put."""
    state: Literal["MASTER", "BACKUP"] = "BACKUP"
    """Read for keepalived's sake, without effect: whoever starts listens first, and priority decides."""
    version: Literal[2, 3] | None = None
    """Of VRRP, the same on all directors. Default 2 for IPv4 and 3 for IPv6."""
    virtual_router_id: Annotated[int, Whole(1, 255)]
    """The same on all directors, and no other virtual router of the network has it."""
    priority: Annotated[int, Whole(1, 255)] = 100
    """The highest becomes master; 255 for the owner of the addresses."""
    advert_int: Duration = 1.0
    """Between a master's advertisements; the same on all directors. Whole seconds in version 2, 10ms to 40.95s in 3."""
    down_timer_adverts: Annotated[int, Whole(1, 100)] = 3
    """Advertisements that may be missed before a master is taken for dead."""
    preempt: bool = True
    """Take over from a master of lower priority; false is keepalived's `nopreempt`."""
    preempt_delay: Duration | None = None
    """So long a master of lower priority is borne before it is taken over from. Default: not at all."""
    authentication: Authentication | None = None
    """Without this key there is none."""
    virtual_ipaddress: Annotated[
        tuple[
            Annotated[
                VirtualAddress,
                Short("address", str, "an address or a mapping with address, label and scope", {"type": "string"}),
            ],
            ...,
        ],
        Field(min_length=1),
        OneOrMany(),
    ]
    """Addresses held by the master, with or without prefix length, or {address, label, scope}; one or a list."""
    mcast_src_ip: IpAddress | None = None
    """Multicast advertisements come from this address. Default: the interface's first."""
    unicast_src_ip: IpAddress | None = None
    """Unicast advertisements come from this address. Default: the interface's first."""
    unicast_peer: Annotated[tuple[IpAddress, ...], OneOrMany()] = ()
    """Advertisements go to these directors alone, in place of the multicast group; one or a list."""
    v3_checksum_as_v2: bool = False
    """Version 3 over IPv4: sum up as RFC 9568 has it (Cisco, Juniper), not as keepalived does. Both are understood."""
    garp_master_repeat: Annotated[int, Whole(1, 100)] = 5
    """How often a new master announces each address (gratuitous ARP, unsolicited Neighbor Advertisement) at once."""
    garp_master_delay: DurationOrOff = 5.0
    """So long after it became master it does so again; 0s: never."""
    garp_master_refresh: DurationOrOff = 60.0
    """So often a master announces each address once more; 0s: never."""
    track_interface: Annotated[
        tuple[
            Annotated[
                TrackedInterface,
                Short("interface", str, "an interface or a mapping with interface and weight", {"type": "string"}),
            ],
            ...,
        ],
        OneOrMany(),
    ] = ()
    """Further interfaces that have to be up, or {interface, weight}; one or a list."""
    track_script: Annotated[
        tuple[
            Annotated[
                TrackedScript,
                Short("script", str, "a name of vrrp.scripts or a mapping with script and weight", {"type": "string"}),
            ],
            ...,
        ],
        OneOrMany(),
    ] = ()
    """Names of `vrrp.scripts`, or {script, weight}; one or a list."""
    track_file: Annotated[
        tuple[
            Annotated[
                TrackedFile,
                Short("file", str, "a name of vrrp.files or a mapping with file and weight", {"type": "string"}),
            ],
            ...,
        ],
        OneOrMany(),
    ] = ()
    """Names of `vrrp.files`, or {file, weight}; one or a list."""
    track_backend: Annotated[
        tuple[
            Annotated[
                TrackedBackend,
                Short("backend", str, "a backend's name or a mapping with backend and weight", {"type": "string"}),
            ],
            ...,
        ],
        OneOrMany(),
    ] = ()
    """Backends, or {backend, weight}: the director that reaches more of their servers should be master. Wants
    `vrrp.heartbeat`, for a server that is down for both directors is no reason to move."""
    track_workers: Annotated[int, Whole(-254, 0)] = -254
    """Added to the priority while no worker process serves, unless the peer has none either; 0: never."""
    notify: Command | None = None
    """Program told of each change, with the arguments INSTANCE, name, state and priority."""
    notify_master: Command | None = None
    """Program started when it becomes MASTER."""
    notify_backup: Command | None = None
    """Program started when it becomes BACKUP."""
    notify_fault: Command | None = None
    """Program started when it becomes FAULT."""
    notify_stop: Command | None = None
    """Program started when the daemon stops."""


class SyncGroup(Model):
    """Instances that change state together. Trackers of one count for all."""

    group: Annotated[tuple[Name, ...], Field(min_length=1), OneOrMany()]
    """Names of instances; one or a list."""
    notify: Command | None = None
    """Program told of each change, with the arguments GROUP, name, state and priority."""
    notify_master: Command | None = None
    """Program started when all are MASTER."""
    notify_backup: Command | None = None
    """Program started when they become BACKUP."""
    notify_fault: Command | None = None
    """Program started when they become FAULT."""
    notify_stop: Command | None = None
    """Program started when the daemon stops."""


class Vrrp(Model):
    """Who holds the addresses."""

    instances: dict[Name, VrrpInstance] = {}
    """Virtual routers, by name."""
    sync_groups: dict[
        Name,
        Annotated[
            SyncGroup,
            Short(
                "group",
                (str, tuple),
                "an instance, a list of them or a mapping with group and notify",
                {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
            ),
        ],
    ] = {}
    """Instances that change state together, or {group, notify, …}."""
    scripts: dict[Name, CheckScript] = {}
    """Check scripts, by name; `track_script` says where they count."""
    files: dict[Name, TrackFile] = {}
    """Files with numbers, by name; `track_file` says where they count."""
    heartbeat: Heartbeat | None = None
    """A second path between the directors. Without this key there is none."""
    script_user: Text | None = None
    """Check and notify scripts run as this user. Default: as the daemon was started."""
    notify_fifo: Path | None = None
    """Each change is written to this named pipe too, a line such as `INSTANCE "VI_E" MASTER 150`; made if need be."""
