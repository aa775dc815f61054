from __future__ import annotations

import pytest

INSTANCE = "vrrp_instance V {\n interface eth0\n virtual_router_id 5\n virtual_ipaddress {\n  192.0.2.9\n }\n%s\n}\n"
SERVICE = "virtual_server 192.0.2.1 80 {\n%s\n real_server 10.0.0.1 80 {\n%s\n }\n}\n"


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("priority 255", {"priority": 255}),
        ("nopreempt", {"preempt": False}),
        ("advert_int 3", {"advert_int": "3s"}),
        ("version 3\n advert_int 0.25", {"version": 3, "advert_int": "0.25s"}),
        ("garp_master_delay 0", {"garp_master_delay": "0s"}),
        ("mcast_src_ip 192.0.2.2", {"mcast_src_ip": "192.0.2.2"}),
        ("unicast_src_ip 192.0.2.2\n unicast_peer {\n 192.0.2.3\n }", {"unicast_peer": ["192.0.2.3"]}),
        ("authentication {\n auth_type PASS\n auth_pass x\n }", {"authentication": {"type": "pass", "password": "x"}}),
        (
            "track_interface {\n eth1\n eth2 weight -5\n }",
            {"track_interface": ["eth1", {"interface": "eth2", "weight": -5}]},
        ),
        ('notify "/bin/true a"', {"notify": "/bin/true a"}),
        ("notify_stop true", {"notify_stop": "/usr/bin/true"}),
        ("down_timer_adverts 5", {"down_timer_adverts": 5}),
    ],
)
def test_instances(convert, line, made):
    found = convert(INSTANCE % line)
    own = found.made["vrrp"]["instances"]["V"]
    assert {key: own.get(key) for key in made} == made
    assert found.told == []


@pytest.mark.parametrize(
    "line",
    [
        "use_vmac",
        "virtual_routes {\n }",
        "notify_master /no/such/program",
        "authentication {\n auth_type AH\n auth_pass x\n }",
        "track_script {\n nowhere\n }",
        "priority 999",
        "advert_int x",
        "smtp_alert",
        "nonsense 1",
        "priority",
    ],
)
def test_what_instances_have_not(convert, line):
    found = convert(INSTANCE % line)
    assert found.told
    assert list(found.made["vrrp"]["instances"]) == ["V"]


def test_scripts(convert):
    found = convert(
        'vrrp_script s {\n script "/bin/true x"\n interval 2\n weight -5\n user nobody\n}\n'
        "vrrp_script h {\n script pidof\\ haproxy\n}\n" + INSTANCE % "track_script {\n s\n h\n }"
    )
    assert found.made["vrrp"]["scripts"] == {"s": {"script": "/bin/true x", "interval": "2s", "weight": -5}}
    assert found.made["vrrp"]["instances"]["V"]["track_script"] == ["s"]
    assert found.told == ["5: user nobody: scripts run as `vrrp.script_user`"]


def test_global_settings(convert):
    found = convert(
        "global_defs {\n vrrp_version 3\n vrrp_garp_master_repeat 2\n script_user root\n router_id x\n}\n"
        + INSTANCE % ""
    )
    own = found.made["vrrp"]
    assert (own["script_user"], own["instances"]["V"]["version"], own["instances"]["V"]["garp_master_repeat"]) == (
        "root",
        3,
        2,
    )
    assert found.told == []


@pytest.mark.parametrize(
    ("check", "made"),
    [
        ("TCP_CHECK {\n connect_timeout 3\n connect_port 81\n }", {"type": "tcp", "timeout": "3s", "port": 81}),
        (
            "HTTP_GET {\n url {\n path /x\n status_code 200 204-206\n }\n nb_get_retry 3\n delay_before_retry 2\n }",
            {
                "type": "http",
                "method": "GET",
                "expect": {"status": "200,204-206"},
                "path": "/x",
                "fall": 4,
                "fast_interval": "2s",
            },
        ),
        ("SSL_GET {\n }", {"type": "http", "method": "GET", "expect": {"status": "200"}, "tls": True, "path": "/"}),
        ("DNS_CHECK {\n name example.org\n type A\n }", {"type": "dns", "query": "example.org", "qtype": "A"}),
    ],
)
def test_checks(convert, check, made):
    found = convert(SERVICE % ("", check))
    assert found.made["backends"]["ipvs-192.0.2.1-80"]["check"] == made
    assert found.told == []


def test_checks_that_there_are_not(convert):
    found = convert(SERVICE % ("", "MISC_CHECK {\n misc_path /x\n }"))
    assert found.made["backends"]["ipvs-192.0.2.1-80"]["check"] == {"type": "tcp"}
    assert len(found.told) == 2
    udp = convert(SERVICE % ("protocol UDP", "PING_CHECK {\n }"))
    assert "check" not in udp.made["backends"]["ipvs-192.0.2.1-80-udp"]


def test_a_sorry_server_is_a_backup(convert):
    found = convert(SERVICE % ("delay_loop 7\n sorry_server 10.0.0.9 81", "weight 2\n TCP_CHECK {\n }"))
    assert found.made["backends"]["ipvs-192.0.2.1-80"] == {
        "balance": "roundrobin",
        "check": {"type": "tcp", "interval": "7s"},
        "servers": {
            "10.0.0.1": {"address": "10.0.0.1:80", "weight": 2},
            "10.0.0.9": {"address": "10.0.0.9:81", "backup": True, "check": False},
        },
    }


@pytest.mark.parametrize("head", ["fwmark 1", "192.0.2.5 0", "group none", "x 80", "192.0.2.5"])
def test_services_that_cannot_be(convert, head):
    found = convert(
        SERVICE % ("", ""), f"virtual_server {head} {{\n lb_algo rr\n real_server 10.0.0.1 80 {{\n }}\n}}\n"
    )
    assert len(found.made["frontends"]) == 1
    assert len(found.told) == 3
