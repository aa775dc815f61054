"""Tables that others have left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from balancer.kernel import render
from balancer.kernel.adopt import adopt
from balancer.kernel.counters import read
from balancer.kernel.nft import Nft
from balancer.kernel.render import TABLE, Desired
from balancer.kernel.tables import contents
from tests.vrrp.conftest import Net

from .conftest import MANY_NETWORKS, VIP, Bed, Kernel, as_root, text, tried, who
from .test_render import GATEWAY, MIXED, SIDES, desired, listing, net, nft, side

__all__ = ["net", "nft"]
pytestmark = as_root

FULL = desired(
    MIXED.replace(
        "backends:", "  plain: {mode: udp, engine: kernel, bind: '10.0.0.9:53', default_backend: plain}\nbackends:"
    ) + "  plain: {servers: {a: {address: '10.1.0.7:53'}, b: {address: '10.1.0.8:53'}}}\n",
    networks=MANY_NETWORKS, gateway=GATEWAY,
)  # fmt: skip


def adopted(net: Net, nft: Nft, wanted: Desired) -> bool:
    with net:
        return adopt(nft, wanted)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIDES, SIDES)
def test_what_another_left_and_the_whole_come_to_the_same(net: Net, nft: Nft, one: Any, other: Any) -> None:
    nft.run(render.whole(side(*one)))
    assert adopted(net, nft, side(*other))
    found = listing(nft)
    nft.run(render.whole(side(*other)))
    assert found == listing(nft)


def test_where_there_is_none_there_is_nothing_to_adopt(net: Net, nft: Nft) -> None:
    nft.run(render.nothing())
    assert not adopted(net, nft, FULL)
    assert TABLE not in nft.run("list tables")


HARMLESS = {
    "a rule": "insert rule {t} prerouting drop",
    "no rules": "flush table {t}",
    "a policy": "add chain {t} forward {{ policy drop; }}",
    "a chain at a hook":
        "add chain {t} mine {{ type filter hook input priority 0; policy drop; }}\nadd rule {t} mine drop",
    "a set": "add set {t} mine {{ type ipv4_addr; elements = {{ 192.0.2.1 }}; }}",
    "a set that counts":
        "add set {t} mine {{ type ipv4_addr . inet_service; counter; elements = {{ 192.0.2.1 . 5 }}; }}",
    "a map": "add chain {t} mine\nadd map {t} m {{ type mark : verdict; elements = {{ 1 : goto mine }}; }}",
    "a service less": "delete element {t} services4 {{ 10.0.0.1 . tcp . 83 : goto tcp_10.0.0.1_83 }}",
    "a service more": "add element {t} services4 {{ 10.0.0.77 . tcp . 83 : drop }}",
    "a counter less": "delete element {t} tcp4_to {{ 10.1.0.1 . 9 }}",
    "a counter more": "add element {t} tcp4_to {{ 10.1.0.77 . 9 }}",
    "a server's service less": "delete element {t} sources4 {{ 10.1.0.7 . 53 : 10.0.0.9 }}",
    "a server's service more": "add element {t} sources4 {{ 10.1.0.77 . 53 : 10.0.0.9 }}",
    "networks": "add element {t} networks4 {{ 172.16.0.0/12 . 172.16.0.0/12 }}",
    "a mark": "flush map {t} among_tcp_10.0.0.1_83",
    "a chain and a set less": "flush table {t}\ndelete chain {t} strays\ndelete set {t} tcp4_ours",
    "a table that sleeps": "add table {t} {{ flags dormant; }}",
}  # fmt: skip
"""What can be made good."""
FOREIGN = {
    "a set of something else": "flush table {t}\ndelete set {t} tcp4_ours\nadd set {t} tcp4_ours {{ type mark; }}",
    "a set that counts what we do not": "add set {t} mine {{ type mark; counter; elements = {{ 1 }}; }}",
    "a server's other service":
        "delete element {t} sources4 {{ 10.1.0.7 . 53 : 10.0.0.9 }}\n"
        "add element {t} sources4 {{ 10.1.0.7 . 53 : 10.0.0.10 }}",
    "a chain at another place":
        "flush table {t}\ndelete chain {t} strays\n"
        "add chain {t} strays {{ type filter hook prerouting priority 5; policy accept; }}",
    "a chain at a hook in the place of another":
        "flush table {t}\nflush map {t} services4\ndelete chain {t} tcp_10.0.0.1_83\n"
        "add chain {t} tcp_10.0.0.1_83 {{ type nat hook prerouting priority 5; policy drop; }}",
    "an object": "add counter {t} mine",
    "a table of somebody else":
        "delete table {t}\nadd table {t}\n"
        "add chain {t} forward {{ type filter hook forward priority 0; policy drop; }}",
}  # fmt: skip
"""What must be replaced."""


@pytest.mark.parametrize("what", [*HARMLESS, *FOREIGN])
def test_a_table_that_was_changed_by_hand(net: Net, nft: Nft, what: str) -> None:
    whole = render.whole(FULL)
    nft.run(whole)
    wanted = listing(nft)
    nft.run((HARMLESS | FOREIGN)[what].format(t=TABLE))
    before = nft.run(f"list table {TABLE}")
    could = adopted(net, nft, FULL)
    assert could == (what in HARMLESS)
    if not could:
        assert nft.run(f"list table {TABLE}") == before
        nft.run(whole)
    assert listing(nft) == wanted
    assert "flags dormant" not in nft.run(f"list table {TABLE}")


def test_what_a_table_holds(net: Net, nft: Nft) -> None:
    nft.run(render.whole(FULL))
    with net:
        found = contents(nft, TABLE)
        assert contents(nft, "inet nobodys") is None
    assert found is not None and not found.has_more
    assert {"prerouting", "tcp_10.0.0.1_83"} <= found.chains
    assert {"services4", "tcp4_ours", "stays_tcp_10.0.0.1_83_90s"} <= found.sets
    assert not any(name.startswith("__") for name in found.sets)
    assert found.counted["tcp4_to"] == {f"10.1.0.{host} . {port}" for host, port in ((1, 9), (2, 9), (1, 99))}
    assert "fd01::1 . 5353" in found.counted["query6_in"]
    assert "services4" not in found.counted and "stays_tcp_10.0.0.1_83_90s" not in found.counted


def test_clients_stay_and_counters_count_on(bed: Bed) -> None:
    kept = text(backend="persistence_timeout: 60s")
    before = Kernel(bed, kept)
    assert tried(3, lambda: who(bed.client, VIP)) == {"web1": 3}
    with bed.director:
        again = Kernel(bed, kept, is_there=True)
        assert adopt(bed.nft, again.desired)
        tally = read(bed.nft, before.services)["f", "web1"]
        assert tally.flows == 3 and tally.packets_in >= 9
        assert tried(3, lambda: who(bed.client, VIP)) == {"web1": 3}
        assert read(bed.nft, before.services)["f", "web1"].flows == 6
        # It died before it could tell that a server is down.
        again.down("web1")
        bed.nft.run(render.whole(before.desired))
        assert adopt(bed.nft, again.desired)
        assert tried(3, lambda: who(bed.client, VIP)) == {"web2": 3}
