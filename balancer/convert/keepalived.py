"""keepalived.conf: virtual routers, check scripts and services of IPVS, a row a keyword."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from balancer.convert import ipvs
from balancer.convert.keepalived_lines import Block, blocks
from balancer.convert.tree import Map, Seq
from balancer.convert.words import TOO_SHORT, CannotError, Fate, Line, Report, UnreadableError

__all__ = ["convert"]

_NOTIFY = ("notify", "notify_master", "notify_backup", "notify_fault", "notify_stop")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
# What is asked whether it lives, and lives no more once pybalancer does its work.
_REPLACED = re.compile(r"haproxy|hapee|keepalived")
_NO_MAIL = "no mail is sent; logs, metrics and `notify` tell of changes"


def convert(text: str, file: str, root: Map, report: Report, names: Mapping[str, str], *, config_id: str = "") -> None:
    """Add what a keepalived.conf says to `root`. `names` are those of servers, by address."""
    found = blocks(text, file, report, config_id=config_id)
    if not found:
        raise UnreadableError(f"{file}: says nothing")
    _Converter(root, report, names).convert(found)


def seconds(text: str, *, zero: bool = False) -> str:
    """`3` or `0.5` as a duration."""
    if not _SECONDS.fullmatch(text) or (float(text) == 0 and not zero):
        raise CannotError(f"{text!r} is no time in seconds")
    return f"{text}s" if "." not in text or float(text) != int(float(text)) else f"{int(float(text))}s"


def whole(text: str, *, least: int = -(10**6), most: int = 10**6) -> int:
    """A number, that may have a sign."""
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise CannotError(f"{text!r} is no number from {least} to {most}")
    return int(text)


def command(words: tuple[str, ...]) -> str:
    """A program with its arguments as one text; one without its path is looked for."""
    try:
        parts = shlex.split(words[0] if len(words) == 1 or " " in words[0] else " ".join(words))
    except (ValueError, IndexError):
        raise CannotError("is no command") from None
    if not parts:
        raise CannotError("is no command")
    if not parts[0].startswith("/"):
        parts[0] = shutil.which(parts[0]) or parts[0]
    return shlex.join(parts)


class _Converter:
    def __init__(self, root: Map, report: Report, names: Mapping[str, str]) -> None:
        self.root = root
        self.report = report
        self.names = names
        self.defaults: dict[str, tuple[str, Line]] = {}
        self.dropped: set[str] = set()
        self.groups: dict[str, Block] = {}

    def convert(self, found: list[Block]) -> None:
        for block in [each for each in found if each.word == "global_defs"]:
            self._each(block, _GLOBAL)
        for block in found:
            self.groups |= {block.args[0]: block} if block.word == "virtual_server_group" and block.args else {}
        for block in found:
            self.report.begins(block.line, list(_lines(block)))
            try:
                if block.word in _TOP:
                    _TOP[block.word](self, block)
                else:
                    self._all_lost(block, _NO_TOP.get(block.word, "there is no such block"))
            except CannotError as error:
                self._all_lost(block, error.why)
            except IndexError:
                self._all_lost(block, TOO_SHORT)
        self._group_trackers()
        self._order()

    def vrrp(self) -> Map:
        return self.root.under("vrrp")

    def _all_lost(self, block: Block, why: str) -> None:
        self.report.lost(block.line, why)
        for each in block.inner:
            self._all_lost(each, why)

    def _each(self, block: Block, rows: Mapping[str, Callable[[_Converter, Block, Any], None] | tuple[Fate, str]],
              into: Any = None) -> None:  # fmt: skip
        """Every line in a block, by its row."""
        for each in block.inner:
            row = rows.get(each.word)
            if callable(row):
                try:
                    row(self, each, into)
                except CannotError as error:
                    self.report.lost(each.line, error.why)
                except IndexError:
                    self.report.lost(each.line, TOO_SHORT)
            else:
                fate, why = row or (Fate.LOST, "there is no such keyword")
                self.report.say(each.line, fate, why)
                for inner in each.inner:
                    self.report.say(inner.line, fate, why)

    def ignore(self, block: Block) -> None:
        """What was dealt with elsewhere."""

    def instance(self, block: Block) -> None:
        own = Map()
        for key, (value, line) in self.defaults.items():
            own.put(key, value, line)
        self._each(block, _INSTANCE, own)
        for key in ("interface", "virtual_router_id", "virtual_ipaddress"):
            if key not in own:
                raise CannotError(f"an instance wants {key}")
        ordered = Map()
        first = ("interface", "state", "version", "virtual_router_id", "priority", "advert_int", "authentication")
        for key in (*first, *(key for key in own if key not in first)):
            if key in own:
                ordered.put(key, own[key], own.origins.get(key))
        if ordered.get("version") == 3 and "authentication" in ordered:
            line = ordered.origins["authentication"]
            self.report.idle(line, "version 3 has none, and keepalived sends none")
            ordered.drop("authentication")
        self.vrrp().under("instances").put(block.args[0], ordered, block.line)

    def sync_group(self, block: Block) -> None:
        own = Map()
        self._each(block, _SYNC_GROUP, own)
        members = own.pop("group", [])
        made = Map()
        made.put("group", members, own.origins.get("group"))
        for key, value in own.items():
            made.put(key, value, own.origins.get(key))
        if not members:
            raise CannotError("names no instance")
        self.vrrp().under("sync_groups").put(block.args[0], members if len(made) == 1 else made, block.line)

    def script(self, block: Block) -> None:
        own = Map()
        self._each(block, _SCRIPT, own)
        text = own.get("script", "")
        if _REPLACED.search(text):
            self.dropped.add(block.args[0])
            self.report.idle(block.line, "asks for what pybalancer replaces: `track_workers` sees to it by itself")
            return
        if not text:
            raise CannotError("has no script")
        self.vrrp().under("scripts").put(block.args[0], own, block.line)

    def track_file(self, block: Block) -> None:
        own = Map()
        self._each(block, _FILE, own)
        self.vrrp().under("files").put(block.args[0], own, block.line)

    def _group_trackers(self) -> None:
        """Trackers of scripts that are no more."""
        for instance in self.root.get("vrrp", {}).get("instances", {}).values():
            tracked = instance.get("track_script")
            for i in reversed(range(len(tracked or ()))):
                name = tracked[i]["script"] if isinstance(tracked[i], dict) else tracked[i]
                if name in self.dropped:
                    tracked.drop(i)
            if tracked is not None and not tracked:
                instance.drop("track_script")

    def _order(self) -> None:
        """Instances first, as they read best."""
        own = self.root.get("vrrp", Map())
        for key in [key for key in own if key != "instances"]:
            line, value = own.origins.get(key), own.pop(key)
            own.put(key, value, line)

    def virtual_server(self, block: Block) -> None:
        service = ipvs.Service(block.line, "", "tcp", [])
        self._address(service, block)
        facts = Map()
        facts.put("checks", Seq())
        for each in (each for each in block.inner if each.word == "protocol"):
            service.transport = each.args[0].lower()
        if service.transport not in ("tcp", "udp"):
            raise CannotError(f"there is no {service.transport}: services are of TCP or UDP")
        self._each(block, _VIRTUAL_SERVER, (service, facts))
        if service.transport == "udp" and service.name.startswith("ipvs-"):
            service.name += "-udp"
        self._check(service, facts)
        ipvs.add(service, self.root, self.report, self.names)

    def _address(self, service: ipvs.Service, block: Block) -> None:
        args = block.args
        if args[:1] == ("fwmark",):
            raise CannotError("services have an address and port, no mark; write a frontend with all its addresses")
        if args[:1] == ("group",):
            group = self.groups.get(args[1])
            if group is None:
                raise CannotError(f"there is no virtual_server_group {args[1]}")
            service.name = args[1]
            for each in group.inner:
                if each.word == "fwmark":
                    self.report.lost(each.line, "services have an address and port, no mark")
                    continue
                try:
                    service.addresses += _addresses(each)
                except CannotError as error:
                    self.report.lost(each.line, error.why)
            return
        if len(args) < 2 or not args[1].isdigit() or not 1 <= int(args[1]) <= 65535:
            raise CannotError("wants an address and one port")
        host = _ip(args[0])
        service.addresses.append((host, int(args[1])))
        service.name = f"ipvs-{host}-{args[1]}"

    def _check(self, service: ipvs.Service, facts: Map) -> None:
        """One check for all servers: that of the first which has one."""
        found: list[tuple[Map | None, Block | None]] = list(facts["checks"])
        first = next(((check, block) for check, block in found if check is not None), None)
        if first is None:
            return
        check, block = first
        assert check is not None
        if block is not None:
            service.check_line = block.line
        if "host" in facts and check["type"] == "http" and "host" not in check:
            check.put("host", facts["host"])
        for key in ("interval", "fall", "fast_interval", "timeout"):
            if key in facts and key not in check:
                check.put(key, facts[key])
        service.check = Map()
        order = ("type", "interval", "timeout")
        for key in (*order, *(key for key in check if key not in order)):
            if key in check:
                service.check.put(key, check[key])
        for (other, its), server in zip(found, [each for each in service.servers if not each.is_backup], strict=True):
            if other is None:
                server.check = {"enabled": False}
            elif its is not None and _facts(other) != _facts(check):
                self.report.lost(its.line, "all servers of a backend are checked alike; as the first is")


def _lines(block: Block) -> Iterator[Line]:
    """All lines in a block."""
    for each in block.inner:
        yield each.line
        yield from _lines(each)


def _facts(check: Map) -> dict[str, Any]:
    """A check without what was filled in."""
    return {key: value for key, value in check.items() if key not in ("interval", "host", "fall", "fast_interval")}


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise CannotError(f"{text!r} is no IP address") from None


def _addresses(block: Block) -> list[tuple[str, int]]:
    """`10.0.0.1-5 80` of a virtual_server_group."""
    match = re.fullmatch(r"(.+?)(?:-([0-9a-fA-F]+))?", block.word)
    if match is None or not block.args or not block.args[0].isdigit() or not 1 <= int(block.args[0]) <= 65535:
        raise CannotError("wants an address and one port")
    first = ipaddress.ip_address(_ip(match[1]))
    if match[2] is None:
        return [(str(first), int(block.args[0]))]
    try:
        last = int(match[2], 10 if first.version == 4 else 16)
    except ValueError:
        raise CannotError("is no range of addresses") from None
    low = int(first) & (255 if first.version == 4 else 65535)
    if not low <= last <= low + 255:
        raise CannotError("is a range of more than 256 addresses")
    return [(str(first + i), int(block.args[0])) for i in range(last - low + 1)]


_Row = Callable[[_Converter, Block, Any], None] | tuple[Fate, str]


def _idle(why: str) -> tuple[Fate, str]:
    return Fate.IDLE, why


def _lost(why: str) -> tuple[Fate, str]:
    return Fate.LOST, why


def _put(key: str, made: Callable[[str], Any]) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, own: Map) -> None:
        own.put(key, made(block.args[0]), block.line)

    return take


def _flag(key: str, value: Any) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, own: Map) -> None:
        own.put(key, value, block.line)

    return take


def _default(key: str, made: Callable[[str], Any]) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, own: Any) -> None:
        converter.defaults[key] = (made(block.args[0]), block.line)

    return take


def _of_vrrp(key: str) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, own: Any) -> None:
        converter.vrrp().put(key, block.args[0], block.line)

    return take


def _authentication(converter: _Converter, block: Block, own: Map) -> None:
    made = Map()
    for each in block.inner:
        if each.word == "auth_type":
            if each.args[0].upper() not in ("PASS", "SIMPLE"):
                raise CannotError(f"there is no auth_type {each.args[0]}: VRRP's are none and PASS")
            made.put("type", "pass")
        elif each.word == "auth_pass":
            made.put("password", each.args[0])
        else:
            converter.report.lost(each.line, "there is auth_type and auth_pass")
    if "password" in made:
        made.setdefault("type", "pass")
        own.put("authentication", made, block.line)


def _virtual_addresses(converter: _Converter, block: Block, own: Map) -> None:
    addresses = own.setdefault("virtual_ipaddress", Seq())
    own.origins.setdefault("virtual_ipaddress", block.line)
    for each in block.inner:
        made = Map()
        made.put("address", each.word)
        words = iter(each.args)
        wrong = ""
        for word in words:
            if word == "dev":
                device = next(words, "")
                if device != own.get("interface", device):
                    wrong = f"is on {device}: an instance's addresses are on its own interface; write an instance there"
            elif word in ("label", "scope"):
                made.put(word, next(words, ""))
            elif word in ("brd", "broadcast"):
                next(words, "")
                converter.report.idle(each.line, "the kernel knows the broadcast address (brd)")
            elif word not in ("no_track", "track_group", "-", "home", "-nodad", "use_vmac"):
                next(words, "")
                converter.report.lost(each.line, f"addresses have no `{word}`")
        if wrong:
            converter.report.lost(each.line, wrong)
        else:
            addresses.add(made if len(made) > 1 else each.word, each.line)
    if not addresses:
        del own["virtual_ipaddress"]


def _peers(converter: _Converter, block: Block, own: Map) -> None:
    peers = Seq()
    for each in block.inner:
        peers.add(each.word, each.line)
        if each.args:
            converter.report.lost(each.line, "peers have no further settings")
    if peers:
        own.put("unicast_peer", peers, block.line)


def _tracked(kind: str) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, own: Map) -> None:
        key = f"track_{kind}"
        tracked = own.setdefault(key, Seq())
        own.origins.setdefault(key, block.line)
        for each in block.inner:
            made = Map()
            made.put(kind, each.word)
            if "weight" in each.args[:-1]:
                made.put("weight", whole(each.args[each.args.index("weight") + 1]))
            for word in each.args:
                if word in ("reverse", "noreverse"):
                    converter.report.lost(each.line, f"weights have no `{word}`")
            tracked.add(made if len(made) > 1 else each.word, each.line)
        if not tracked:
            own.drop(key)

    return take


def _notified(converter: _Converter, block: Block, own: Map) -> None:
    own.put(block.word, command(block.args), block.line)


def _group(converter: _Converter, block: Block, own: Map) -> None:
    own.put("group", [word for each in block.inner for word in each.line.words], block.line)


def _priority(text: str) -> int:
    return whole(text, least=1, most=255)


def _weight(converter: _Converter, block: Block, own: Map) -> None:
    own.put("weight", whole(block.args[0]), block.line)
    if "reverse" in block.args:
        converter.report.lost(block.line, "weights have no `reverse`")


def _command(converter: _Converter, block: Block, own: Map) -> None:
    own.put("script", command(block.args), block.line)


_PROCESS = _idle("pybalancer sees to its processes by itself")
_NO_VMAC = _lost("virtual routers use the interface's own MAC, and tell of moves by gratuitous ARP")

_GLOBAL: dict[str, _Row] = {
    **dict.fromkeys(("notification_email", "notification_email_from", "smtp_server", "smtp_helo_name",
                     "smtp_connect_timeout", "smtp_alert", "smtp_alert_vrrp", "smtp_alert_checker", "email_faults",
                     "no_email_faults"), _lost(_NO_MAIL)),
    **dict.fromkeys(("router_id", "lvs_id"), _idle("the host's name is in the log")),
    **dict.fromkeys(("enable_script_security", "enable_traps"), _idle("`check` warns of scripts others can write")),
    **dict.fromkeys(("vrrp_strict", "vrrp_skip_check_adv_addr", "vrrp_check_unicast_src"),
                    _idle("advertisements are checked as RFC 9568 says")),
    **dict.fromkeys(("enable_dbus", "dbus_service_name", "enable_snmp_vrrp", "enable_snmp_keepalived",
                     "enable_snmp_checker", "enable_snmp_rfc", "snmp_socket"), _lost("`stats.metrics` tells by HTTP")),
    **dict.fromkeys(("vrrp_priority", "checker_priority", "bfd_priority", "vrrp_no_swap", "checker_no_swap",
                     "vrrp_rt_priority", "checker_rt_priority", "vrrp_cpu_affinity", "checker_cpu_affinity",
                     "vrrp_rlimit_rttime", "checker_rlimit_rttime", "process_names", "max_auto_priority",
                     "instance", "use_pid_dir", "vrrp_startup_delay", "startup_script", "shutdown_script",
                     "dynamic_interfaces", "vrrp_iptables", "vrrp_ipsets", "nftables", "vrrp_nftables", "ipvs_nftables",
                     "lvs_flush", "lvs_flush_onstop", "child_wait_time", "linkbeat_use_polling", "linkbeat_interfaces",
                     "default_interface", "json_version", "umask", "data_use_instance", "vrrp_rx_bufs_policy",
                     "vrrp_rx_bufs_multiplier", "vrrp_min_garp", "reload_file", "checker_log_all_failures"), _PROCESS),
    "lvs_sync_daemon": _lost("flows are not synchronized: `balance: maglev` and `source` choose alike on both"),
    "net_namespace": _lost("`ip netns exec` starts the daemon there"),
    "vrrp_mcast_group4": _lost("the group is RFC 9568's"),
    "vrrp_mcast_group6": _lost("the group is RFC 9568's"),
    "lvs_timeouts": _lost("the kernel's own: nf_conntrack_tcp_timeout_…"),
    "notify_fifo": _of_vrrp("notify_fifo"),
    "vrrp_notify_fifo": _of_vrrp("notify_fifo"),
    "script_user": _of_vrrp("script_user"),
    "vrrp_garp_master_delay": _default("garp_master_delay", lambda text: seconds(text, zero=True)),
    "vrrp_garp_master_refresh": _default("garp_master_refresh", lambda text: seconds(text, zero=True)),
    "vrrp_garp_master_repeat": _default("garp_master_repeat", lambda text: whole(text, least=1)),
    "vrrp_version": _default("version", lambda text: whole(text, least=2, most=3)),
}  # fmt: skip

_INSTANCE: dict[str, _Row] = {
    "advert_int": _put("advert_int", seconds),
    "authentication": _authentication,
    "down_timer_adverts": _put("down_timer_adverts", lambda text: whole(text, least=1)),
    "garp_master_delay": _put("garp_master_delay", lambda text: seconds(text, zero=True)),
    "garp_master_refresh": _put("garp_master_refresh", lambda text: seconds(text, zero=True)),
    "garp_master_repeat": _put("garp_master_repeat", lambda text: whole(text, least=1)),
    "interface": _put("interface", str),
    "mcast_src_ip": _put("mcast_src_ip", str),
    "nopreempt": _flag("preempt", False),
    "preempt": _flag("preempt", True),
    "preempt_delay": _put("preempt_delay", seconds),
    "priority": _put("priority", _priority),
    "state": _put("state", str),
    "track_file": _tracked("file"),
    "track_interface": _tracked("interface"),
    "track_script": _tracked("script"),
    "unicast_peer": _peers,
    "unicast_src_ip": _put("unicast_src_ip", str),
    "v3_checksum_as_v2": _flag("v3_checksum_as_v2", True),
    "version": _put("version", lambda text: whole(text, least=2, most=3)),
    "virtual_ipaddress": _virtual_addresses,
    "virtual_router_id": _put("virtual_router_id", lambda text: whole(text, least=1, most=255)),
    **dict.fromkeys(_NOTIFY, _notified),
    **dict.fromkeys(("use_vmac", "use_vmac_addr", "vmac_xmit_base", "use_ipvlan"), _NO_VMAC),
    **dict.fromkeys(("smtp_alert", "no_smtp_alert", "smtp_alert_vrrp"), _lost(_NO_MAIL)),
    **dict.fromkeys(("garp_lower_prio_delay", "garp_lower_prio_repeat", "higher_prio_send_advert",
                     "lower_prio_no_advert", "no_lower_prio_advert"),
                    _idle("a master that hears a lower one announces its addresses, once a second at most")),
    **dict.fromkeys(("debug", "native_ipv6", "skip_check_adv_addr", "strict_mode", "linkbeat_use_polling",
                     "dont_track_primary", "promote_secondaries", "accept", "no_accept", "kernel_rx_buf_size",
                     "check_unicast_src", "fault_init_exit_delay", "notify_priority_changes", "track_src_ip",
                     "no_track_src_ip", "garp_interval", "gna_interval", "rogue_prio"), _PROCESS),
    "lvs_sync_daemon_interface": _lost("flows are not synchronized: `balance: maglev` and `source` choose alike"),
    "notify_master_rx_lower_pri": _lost("there is no such notice"),
    "track_bfd": _lost("BFD is not spoken; `vrrp.heartbeat` watches the other director"),
    "track_process": _lost("a `vrrp.scripts` of its own may ask for a process"),
    "unicast_ttl": _lost("advertisements have TTL 255 (RFC 9568)"),
    "unicast_fault_no_peer": _lost("advertisements go to the peers that are named"),
    "virtual_ipaddress_excluded": _lost("all addresses are advertised: put them under virtual_ipaddress"),
    "virtual_routes": _lost("routes are not moved; `notify_master` may"),
    "virtual_rules": _lost("routes are not moved; `notify_master` may"),
}  # fmt: skip

_SYNC_GROUP: dict[str, _Row] = {
    "group": _group,
    **dict.fromkeys(_NOTIFY, _notified),
    **dict.fromkeys(("track_script", "track_interface", "track_file", "track_bfd", "track_process"),
                    _lost("write it in one of the instances: it counts for all of the group")),
    **dict.fromkeys(("smtp_alert", "no_smtp_alert"), _lost(_NO_MAIL)),
    **dict.fromkeys(("global_tracking", "sync_group_tracking_weight", "notify_priority_changes"),
                    _idle("what one of them tracks counts for all")),
}  # fmt: skip

_SCRIPT: dict[str, _Row] = {
    "script": _command,
    "interval": _put("interval", seconds),
    "timeout": _put("timeout", seconds),
    "rise": _put("rise", lambda text: whole(text, least=1)),
    "fall": _put("fall", lambda text: whole(text, least=1)),
    "weight": _weight,
    "init_fail": _flag("init_fail", True),
    "user": _lost("scripts run as `vrrp.script_user`"),
}

_FILE: dict[str, _Row] = {
    "file": _put("file", str),
    "weight": _weight,
    "init_file": _lost("the file is made by who writes it"),
}


def _scheduler(converter: _Converter, block: Block, into: tuple[ipvs.Service, Map]) -> None:
    into[0].scheduler = block.args[0]


def _kind(converter: _Converter, block: Block, into: tuple[ipvs.Service, Map]) -> None:
    into[0].way = block.args[0].upper()


def _persistence(converter: _Converter, block: Block, into: tuple[ipvs.Service, Map]) -> None:
    into[0].persistence = whole(block.args[0], least=0) if block.args else 360


def _fact(key: str, made: Callable[[str], Any]) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, into: tuple[ipvs.Service, Map]) -> None:
        into[1].put(key, made(block.args[0]))

    return take


def _sorry(converter: _Converter, block: Block, into: tuple[ipvs.Service, Map]) -> None:
    host, port = _ip(block.args[0]), int(block.args[1]) if block.args[1:] else into[0].addresses[0][1]
    server = ipvs.RealServer(host, port, block.line, is_backup=True, check={"enabled": False})
    into[0].servers.append(server)


def _real_server(converter: _Converter, block: Block, into: tuple[ipvs.Service, Map]) -> None:
    service, facts = into
    port = block.args[1] if block.args[1:] else str(service.addresses[0][1] if service.addresses else 0)
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise CannotError("wants an address and one port")
    own = ipvs.RealServer(_ip(block.args[0]), int(port), block.line)
    state = Map()
    converter._each(block, _REAL_SERVER, (own, state, service))
    service.servers.insert(sum(not each.is_backup for each in service.servers), own)
    facts["checks"].add((state.get("check"), state.get("block")))


def _server_weight(converter: _Converter, block: Block, into: tuple[ipvs.RealServer, Map, ipvs.Service]) -> None:
    into[0].weight = whole(block.args[0], least=0, most=65535)


def _checker(kind: str) -> Callable[[_Converter, Block, Any], None]:
    def take(converter: _Converter, block: Block, into: tuple[ipvs.RealServer, Map, ipvs.Service]) -> None:
        _, state, _ = into
        own = Map()
        own.put("type", "http" if kind in ("HTTP_GET", "SSL_GET") else "dns" if kind == "DNS_CHECK" else "tcp")
        if own["type"] == "http":
            own.put("method", "GET")
            own.put("expect", {"status": "200"})
        if kind == "SSL_GET":
            own.put("tls", True)
        converter._each(block, _CHECK, own)
        if own["type"] == "http" and "path" not in own:
            own.put("path", "/")
        if "check" in state:
            raise CannotError("a server has one check; the first counts")
        state["check"], state["block"] = own, block

    return take


def _no_checker(converter: _Converter, block: Block, into: tuple[ipvs.RealServer, Map, ipvs.Service]) -> None:
    _, state, service = into
    for inner in block.inner:
        converter.report.lost(inner.line, f"there is no {block.word}")
    if service.transport == "udp":
        raise CannotError(f"there is no {block.word}: checks are of type tcp, http and dns; none in its place")
    if "check" not in state:
        own = Map()
        own.put("type", "tcp")
        state["check"], state["block"] = own, block
    raise CannotError(f"there is no {block.word}: checks are of type tcp, http and dns; tcp in its place")


def _url(converter: _Converter, block: Block, own: Map) -> None:
    if "path" in own:
        raise CannotError("a check asks for one URL; the first counts")
    converter._each(block, _URL, own)
    own.setdefault("path", "/")


def _status_code(converter: _Converter, block: Block, own: Map) -> None:
    own.put("expect", {"status": ",".join(block.args)})


def _retry(converter: _Converter, block: Block, own: Map) -> None:
    own.put("fall", whole(block.args[0], least=0) + 1)


_VIRTUAL_SERVER: dict[str, _Row] = {
    "delay_loop": _fact("interval", seconds),
    "lb_algo": _scheduler,
    "lvs_sched": _scheduler,
    "lb_kind": _kind,
    "lvs_method": _kind,
    "persistence_timeout": _persistence,
    "protocol": lambda converter, block, into: None,
    "real_server": _real_server,
    "sorry_server": _sorry,
    "virtualhost": _fact("host", str),
    "retry": _fact("fall", lambda text: whole(text, least=0) + 1),
    "delay_before_retry": _fact("fast_interval", seconds),
    "connect_timeout": _fact("timeout", seconds),
    "ops": _idle("DNS queries are balanced each on its own"),
    "alpha": _idle("a server is used after its first good check"),
    "omega": _idle("there are no notices of servers"),
    "ha_suspend": _idle("servers are checked on both directors"),
    "ip_family": _idle("the addresses say it"),
    **dict.fromkeys(("quorum", "hysteresis", "quorum_up", "quorum_down"),
                    _lost("what is up serves; `track_backend` of an instance compares the directors")),
    **dict.fromkeys(("persistence_granularity", "persistence_engine"), _lost("a client is one address")),
    **dict.fromkeys(("hashed", "flag-1", "flag-2", "flag-3", "sh-port", "sh-fallback", "mh-port", "mh-fallback"),
                    _idle("where a server is down, its clients go to others")),
    "sorry_server_inhibit": _idle("a backup is used when no other server is up"),
    "sorry_server_lvs_method": _lost("all servers are reached alike"),
    "weight": _lost("servers have weights"),
    "smtp_alert": _lost(_NO_MAIL),
    "inhibit_on_failure": _idle("flows of a server that is down are forgotten at once"),
}  # fmt: skip

_REAL_SERVER: dict[str, _Row] = {
    "weight": _server_weight,
    "inhibit_on_failure": _idle("flows of a server that is down are forgotten at once"),
    "TCP_CHECK": _checker("TCP_CHECK"),
    "HTTP_GET": _checker("HTTP_GET"),
    "SSL_GET": _checker("SSL_GET"),
    "DNS_CHECK": _checker("DNS_CHECK"),
    **dict.fromkeys(("MISC_CHECK", "SMTP_CHECK", "PING_CHECK", "UDP_CHECK", "BFD_CHECK", "FILE_CHECK"), _no_checker),
    **dict.fromkeys(("notify_up", "notify_down"), _lost("no programs are started for servers; log and metrics tell")),
    **dict.fromkeys(("uthreshold", "lthreshold"), _lost("the kernel counts no connections of servers")),
    "lvs_method": _lost("all servers of a service are reached alike"),
    "virtualhost": _lost("the host that a check asks for is the service's"),
    "smtp_alert": _lost(_NO_MAIL),
}  # fmt: skip

_CHECK: dict[str, _Row] = {
    "connect_timeout": _put("timeout", seconds),
    "connect_port": _put("port", lambda text: whole(text, least=1, most=65535)),
    "retry": _retry,
    "nb_get_retry": _retry,
    "delay_before_retry": _put("fast_interval", seconds),
    "delay_loop": _put("interval", seconds),
    "url": _url,
    "virtualhost": _put("host", str),
    "type": _put("qtype", str),
    "name": _put("query", str),
    "enable_sni": _idle("the name asked for is the host's"),
    "http_protocol": _idle("checks speak HTTP/1.1"),
    **dict.fromkeys(("connect_ip", "bindto", "bind_to", "bind_port", "bind_if", "fwmark", "warmup", "alpha",
                     "log_all_failures", "tls_compliant", "fast_recovery"), _lost("checks have no such setting")),
}  # fmt: skip

_URL: dict[str, _Row] = {
    "path": _put("path", str),
    "status_code": _status_code,
    "virtualhost": _put("host", str),
    "digest": _lost("a check looks for a text (`expect.text`), not for a digest"),
    "regex": _lost("a check looks for a text (`expect.text`)"),
    **dict.fromkeys(("regex_no_match", "regex_options", "regex_min_offset", "regex_max_offset", "regex_stack"),
                    _lost("a check looks for a text (`expect.text`)")),
    "tls_compliant": _lost("checks have no such setting"),
}  # fmt: skip

_TOP: dict[str, Callable[[_Converter, Block], None]] = {
    "global_defs": _Converter.ignore,
    "track_file": _Converter.track_file,
    "virtual_server": _Converter.virtual_server,
    "virtual_server_group": _Converter.ignore,
    "vrrp_instance": _Converter.instance,
    "vrrp_script": _Converter.script,
    "vrrp_sync_group": _Converter.sync_group,
    "vrrp_track_file": _Converter.track_file,
}
_NO_TOP = {
    "bfd_instance": "BFD is not spoken; `vrrp.heartbeat` watches the other director",
    "garp_group": "gratuitous ARPs go out at once, one after the other",
    "static_ipaddress": "the host's own addresses are for its network configuration",
    "static_routes": "the host's own routes are for its network configuration",
    "static_rules": "the host's own routes are for its network configuration",
    "vrrp_track_process": "a `vrrp.scripts` of its own may ask for a process",
    "track_process": "a `vrrp.scripts` of its own may ask for a process",
    "linkbeat_interfaces": "the kernel tells of links",
    "linkbeat_use_polling": "the kernel tells of links",
    "net_namespace": "`ip netns exec` starts the daemon there",
    "instance": "is a way to start",
    "interface_up_down_delays": "an interface counts from the moment that it is up",
    "virtual_server_group": "is used by no service",
}
