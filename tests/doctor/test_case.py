from __future__ import annotations

import socket

from balancer.doctor.case import Case

from .conftest import here, load, tcp, vrrp

KERNEL = (
    "frontends:\n"
    "  a: {mode: tcp, engine: kernel, bind: '192.0.2.9:80', default_backend: b}\n"
    "  c: {mode: tcp, engine: auto, bind: '[2001:db8::9]:80', default_backend: d}\n"
    "  e: {mode: http, default_backend: b,\n"
    "      bind: ['*:81', {address: '[::]:82', v4v6: true, interface: lo}, /run/x.sock]}\n"
    "backends:\n  b: {servers: {one: {address: '10.0.0.1:80'}}}\n  d: {servers: {one: {address: '[2001:db8::1]:80'}}}\n"
    "stats: {bind: '127.0.0.1:7000'}\n"
    "gateway: {masquerade: [{source: 10.0.0.0/24, interface: eth7}]}\n"
)


def test_what_is_listened_at() -> None:
    case = here(KERNEL)
    assert [(each.key, str(each), each.families, each.is_reached) for each in case.listeners] == [
        ("frontends.e.bind", "tcp 0.0.0.0:81", (4,), True),
        ("frontends.e.bind", "tcp [::]:82", (6, 4), True),
        ("stats.bind", "tcp 127.0.0.1:7000", (4,), False),
    ]


def test_what_passes_through() -> None:
    case = here(KERNEL)
    assert case.uses_kernel and case.forwards == {4: "frontends.a (engine kernel)", 6: "frontends.c (engine kernel)"}
    assert here(tcp()).forwards == {} and not here(tcp()).uses_kernel


def test_interfaces_and_who_wants_them() -> None:
    assert here(KERNEL).interfaces == {"lo": ["frontends.e.bind"], "eth7": ["gateway.masquerade"]}
    case = here(vrrp(more="track_interface: [eth1]"))
    assert case.interfaces == {"eth0": ["vrrp.instances.vi"], "eth1": ["vrrp.instances.vi.track_interface"]}


def test_virtual_routers() -> None:
    (router,) = here(vrrp(vips="['2001:db8::c8/64', 'fe80::c8/64']")).routers
    assert (router.family, router.version, router.vrid, router.is_unicast) == (6, 3, 51, False)


def test_a_daemon_is_known_by_the_name_that_it_has_for_a_router() -> None:
    text = vrrp()
    assert here(text).running == set() and not here(text).has_rules
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("\0pybalancer/vrrp/eth0/51/4")
        assert here(text).running == {"vi"}


def test_names_that_have_no_address() -> None:
    case = Case(load(tcp(server="localhost:80").replace("}}}", "}, two: {address: 'no.such.name.invalid:80'}}}")))
    assert case.found.keys() == {"localhost"} and case.names == {"localhost", "no.such.name.invalid"}
    one, two = (case.resolved(each) for each in case.servers.values())
    assert one is not None and one.host in ("127.0.0.1", "::1") and two is None
