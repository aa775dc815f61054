from __future__ import annotations

from ipaddress import ip_network

from balancer.kernel import networks
from tests.kernel.conftest import as_root
from tests.vrrp.conftest import Net, Switch


@as_root
def test_the_networks_of_a_host_in_order_and_once():
    switch, host = Switch(), Net()
    try:
        with host:
            assert networks.own() == ()
        host.ip("link set lo up")
        switch.plug(host, "10.0.100.1/24", "10.0.100.9/24", "192.0.2.200/32", "2001:db8::1/64", "2001:db8::c8/128")
        switch.plug(host, "10.0.0.1/16", "169.254.1.1/16", "fe80::1/64", name="eth1")
        with host:
            assert networks.own() == tuple(map(ip_network, ("10.0.0.0/16", "10.0.100.0/24", "2001:db8::/64")))
        host.ip("address add 10.9.0.1 peer 10.9.0.0/31 dev eth1")
        host.ip("address del 10.0.0.1/16 dev eth1")
        with host:
            assert networks.own() == tuple(map(ip_network, ("10.0.100.0/24", "10.9.0.0/31", "2001:db8::/64")))
    finally:
        host.close()
        switch.close()


@as_root
def test_hundreds_of_addresses_come_in_several_messages():
    switch, host = Switch(), Net()
    try:
        switch.plug(host)
        for number in range(200):
            host.ip(f"address add 10.{number}.0.1/16 dev eth0")
        with host:
            assert len(networks.own()) == 200
    finally:
        host.close()
        switch.close()
