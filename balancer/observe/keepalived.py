"""The families of virtual routers: names and labels of keepalived-exporter (github.com/mehdy/keepalived-exporter), and
ours (`pybalancer_vrrp_…`) where it has none."""

from __future__ import annotations

from collections.abc import Iterable

from balancer.observe.families import Family, bare, escape, gauge, plain
from balancer.pool.routers import RouterFacts

__all__ = ["PEER", "ROUTER", "SCRIPT", "UP", "of_now"]

# keepalived's numbers of its states (keepalived/include/vrrp.h).
_ROUTER_STATES = {"INIT": 0, "BACKUP": 1, "MASTER": 2, "FAULT": 3, "STOPPED": 98}
# A trouble that was not seen for so long is over (seconds).
_OVER = 300.0


def _of_router(key: str, name: str, help_: str) -> Family:
    return Family(name, "counter", help_, plain(lambda row: row.counters.get(key, 0)))


def _router_states(name: str, labels: str, row: RouterFacts) -> Iterable[str]:
    """One series per address, whoever holds it."""
    state = _ROUTER_STATES.get(row.state, 0)
    addresses = [address.partition("/")[0] for address in row.addresses] or [""]
    return [f'{name}{labels},ip_address="{escape(address)}"}} {state}\n' for address in addresses]


def _terms(name: str, labels: str, row: RouterFacts) -> Iterable[str]:
    amounts: dict[str, int] = {}
    for term in row.terms:
        amounts[term.what] = amounts.get(term.what, 0) + term.amount
    return [f'{name}{labels},term="{escape(what)}"}} {amount}\n' for what, amount in amounts.items()]


UP = [Family("keepalived_up", "gauge", "Status", bare(lambda is_up: int(is_up)))]
ROUTER = [
    Family("keepalived_vrrp_state", "gauge", "State of vrrp", _router_states),
    _of_router("advert_rcvd", "keepalived_advertisements_received_total", "Advertisements received"),
    _of_router("advert_sent", "keepalived_advertisements_sent_total", "Advertisements sent"),
    _of_router("become_master", "keepalived_become_master_total", "Became master"),
    _of_router("release_master", "keepalived_release_master_total", "Released master"),
    _of_router("packet_len_err", "keepalived_packet_length_errors_total", "Packet length errors"),
    _of_router(
        "advert_interval_err", "keepalived_advertisements_interval_errors_total", "Advertisement interval errors"
    ),
    _of_router("ip_ttl_err", "keepalived_ip_ttl_errors_total", "TTL errors"),
    _of_router("invalid_type_rcvd", "keepalived_invalid_type_received_total", "Invalid type errors"),
    _of_router("addr_list_err", "keepalived_address_list_errors_total", "Address list errors"),
    _of_router("invalid_authtype", "keepalived_authentication_invalid_total", "Authentication invalid"),
    _of_router("authtype_mismatch", "keepalived_authentication_mismatch_total", "Authentication mismatch"),
    _of_router("auth_failure", "keepalived_authentication_failure_total", "Authentication failure"),
    _of_router("pri_zero_rcvd", "keepalived_priority_zero_received_total", "Priority zero received"),
    _of_router("pri_zero_sent", "keepalived_priority_zero_sent_total", "Priority zero sent"),
    _of_router("checksum_err", "pybalancer_vrrp_checksum_errors_total", "Advertisements with a wrong checksum."),
    _of_router("version_err", "pybalancer_vrrp_version_errors_total", "Advertisements of another version of VRRP."),
    _of_router("vrid_err", "pybalancer_vrrp_vrid_errors_total", "Advertisements with a virtual router id not ours."),
    _of_router(
        "source_err", "pybalancer_vrrp_source_errors_total", "Advertisements from addresses of no network here."
    ),
    _of_router(
        "lower_priority_rcvd",
        "pybalancer_vrrp_lower_priority_received_total",
        "Advertisements of another master with a lower priority, heard while master.",
    ),
    _of_router(
        "equal_priority_rcvd",
        "pybalancer_vrrp_equal_priority_received_total",
        "Advertisements of another master with the same priority, heard while master.",
    ),
    _of_router("garp_sent", "pybalancer_vrrp_announcements_sent_total", "Gratuitous ARP and unsolicited NA sent."),
    _of_router("address_lost", "pybalancer_vrrp_addresses_lost_total", "Addresses that were lost while master."),
    gauge("pybalancer_vrrp_priority", lambda row: row.priority, "Effective priority."),
    gauge("pybalancer_vrrp_base_priority", lambda row: row.base_priority, "Configured priority."),
    Family("pybalancer_vrrp_priority_term", "gauge", "What the effective priority is the sum of.", _terms),
    gauge(
        "pybalancer_vrrp_released",
        lambda row: int(row.released_until is not None),
        "1 while addresses are left to other directors by hand.",
    ),
]
SCRIPT = [
    gauge(
        "keepalived_script_status",
        lambda row: int(row.is_good),
        "Tracker Script Status",
        # keepalived's is bad or good, nothing else.
        applies=lambda row: row.is_good is not None,
    )
]
PEER = [gauge("pybalancer_vrrp_peer_alive", lambda row: int(row.is_alive), "1 while its heartbeat is heard.")]


def of_now(now: float) -> list[Family]:
    """What is counted in seconds up to now, Unix time."""
    return [
        gauge(
            "pybalancer_vrrp_last_change_seconds",
            lambda row: int(max(now - row.since, 0)),
            "How long ago the last change of state was, in seconds.",
        ),
        gauge(
            "pybalancer_vrrp_heard_seconds",
            lambda row: round(max(now - row.heard, 0), 3),
            "How long ago an advertisement of another director came, in seconds.",
            applies=lambda row: row.heard is not None,
        ),
        gauge(
            "pybalancer_vrrp_heard_priority",
            lambda row: row.heard_priority,
            "The priority that it told.",
            applies=lambda row: row.heard is not None,
        ),
        gauge(
            "pybalancer_vrrp_troubles",
            lambda row: sum(trouble.last > now - _OVER for trouble in row.troubles),
            "Kinds of trouble in the network seen in the last 5 minutes.",
        ),
    ]
