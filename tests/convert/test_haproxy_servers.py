from __future__ import annotations

import pytest

from balancer.convert.haproxy_servers import address_of
from balancer.convert.words import CannotError, reference


def backend(web, lines, **options):
    found = web(back=lines, **options)
    return found.made["backends"]["b"], found.told


@pytest.mark.parametrize(
    ("word", "addresses"),
    [
        (":80", ["*:80"]),
        ("*:80", ["*:80"]),
        ("10.0.0.1:80", ["10.0.0.1:80"]),
        (":::80", ["[::]:80"]),
        ("::1:80", ["[::1]:80"]),
        ("[2001:db8::1]:80", ["[2001:db8::1]:80"]),
        ("ipv4@10.0.0.1:80", ["10.0.0.1:80"]),
        ("unix@/run/x", ["/run/x"]),
        ("/run/x", ["/run/x"]),
        ("h:80-82", ["h:80", "h:81", "h:82"]),
    ],
)
def test_addresses(word, addresses):
    assert address_of(word, {}) == addresses


@pytest.mark.parametrize(
    "word", ["", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:+80", "abns@x", "h:1-9999", "fd@3", "a b:80", ":99999", "h:9-1"]
)
def test_what_is_no_address(word):
    with pytest.raises(CannotError):
        address_of(word, {})


def test_an_address_may_be_a_variable():
    assert address_of(f"{reference('A')}:80", {"A": "10.0.0.1"}) == [f"{reference('A')}:80"]
    assert address_of(f"10.0.0.1:{reference('R')}", {"R": "80-81"}) == ["10.0.0.1:80", "10.0.0.1:81"]


@pytest.mark.parametrize(
    ("parameters", "server"),
    [
        ("weight 7 backup", {"weight": 7, "backup": True}),
        ("maxconn 10 maxqueue 5", {"maxconn": 10, "maxqueue": 5}),
        ("maxconn 0", {}),
        ("minconn 5 maxconn 10", {"minconn": 5, "maxconn": 10}),
        ("minconn 50 maxconn 10", {"maxconn": 50}),
        ("minconn 5", {"maxconn": 5}),
        ("maxconn 5 minconn 0", {"maxconn": 5}),
        ("cookie c", {"cookie": "c"}),
        ("send-proxy", {"send_proxy": "v1"}),
        ("send-proxy-v2", {"send_proxy": "v2"}),
        ("slowstart 30s", {"slowstart": "30s"}),
        ("slowstart 500", {"slowstart": "500ms"}),
        (
            "check observe layer4 error-limit 5 on-error sudden-death",
            {"observe": "layer4", "error_limit": 5, "on_error": "sudden-death"},
        ),
        ("on-marked-down shutdown-sessions", {"on_marked_down": "shutdown-sessions"}),
        ("check port 81 addr 10.0.0.9", {"check": {"port": 81, "address": "10.0.0.9"}}),
        ("check init-state down", {"init_state": "down"}),
    ],
)
def test_parameters(web, parameters, server):
    own, told = backend(web, f" server s 10.0.0.1:80 {parameters}\n")
    assert own["servers"]["s"] == {"address": "10.0.0.1:80", **server}
    assert told == []


@pytest.mark.parametrize(
    "parameters",
    ["agent-check", "resolve-opts all", "source 10.0.0.9", "wrong", "check track b/x", "weight 999"],
)
def test_what_servers_have_not(web, parameters):
    own, told = backend(web, f" server s 10.0.0.1:80 {parameters}\n")
    assert own["servers"]["s"]["address"] == "10.0.0.1:80"
    assert len(told) == 1


def test_default_server_and_those_that_take_back(web):
    own, _ = backend(
        web,
        " default-server check inter 5s rise 4 weight 9\n"
        " server a 10.0.0.1:80\n server b 10.0.0.2:80 no-check weight 1\n",
    )
    assert own["check"] == {"type": "tcp", "interval": "5s", "rise": 4}
    assert own["servers"] == {
        "a": {"address": "10.0.0.1:80", "weight": 9},
        "b": {"address": "10.0.0.2:80", "weight": 1, "check": False},
    }


def test_one_check_for_all(web):
    own, told = backend(
        web,
        " server a 10.0.0.1:80 check inter 1s\n"
        " server b 10.0.0.2:80 check inter 1s\n server c 10.0.0.3:80 check inter 9s\n",
    )
    assert own["check"] == {"type": "tcp", "interval": "1s"}
    assert told == ["11: server c … inter: all servers of a backend are checked alike (interval)"]


@pytest.mark.parametrize(
    ("lines", "check"),
    [
        ("option httpchk", {"type": "http"}),
        ("option httpchk /up", {"type": "http", "path": "/up"}),
        (
            "option httpchk HEAD /up HTTP/1.1\\r\\nHost:\\ a.b",
            {"type": "http", "method": "HEAD", "path": "/up", "host": "a.b"},
        ),
        (
            "option httpchk\n http-check send meth GET uri /x ver HTTP/1.1 hdr Host h hdr X-A 1",
            {"type": "http", "method": "GET", "path": "/x", "host": "h", "headers": {"X-A": "1"}},
        ),
        ("option httpchk\n http-check expect status 200,204", {"type": "http", "expect": {"status": "200,204"}}),
        ("option httpchk\n http-check expect rstatus ^[23]", {"type": "http", "expect": {"status": "200-399"}}),
        (
            "option httpchk\n http-check expect string ok",
            {"type": "http", "expect": {"status": "100-599", "text": "ok"}},
        ),
        ("option httpchk\n http-check connect port 81 ssl", {"type": "http", "port": 81, "tls": True}),
        ("option tcp-check\n tcp-check connect port 81 send-proxy", {"type": "tcp", "port": 81, "send_proxy": True}),
        ("timeout check 700", {"type": "tcp", "timeout": "700ms"}),
    ],
)
def test_checks(web, lines, check):
    own, told = backend(web, f" {lines}\n server s 10.0.0.1:80 check\n")
    assert own["check"] == check
    assert told == []


@pytest.mark.parametrize(
    "line",
    [
        "option mysql-check",
        "option httpchk TRACE /",
        "http-check expect ! status 500",
        "http-check expect rstring x",
        "tcp-check expect string x",
        "http-check disable-on-404",
        "http-check send body x",
    ],
)
def test_checks_that_there_are_not(web, line):
    _, told = backend(web, f" {line}\n server s 10.0.0.1:80 check\n")
    assert [each.partition(":")[0] for each in told] == ["9"]


def test_servers_with_tls_and_those_that_are_disabled_are_left_out(web):
    own, told = backend(
        web, " server a 10.0.0.1:443 ssl verify none\n server b 10.0.0.2:80 disabled\n server c 10.0.0.3:80\n"
    )
    assert list(own["servers"]) == ["c"]
    assert len(told) == 2


def test_a_server_without_port_has_that_of_its_bind(convert):
    found = convert("listen l\n bind 10.0.0.9:25\n server s 10.0.0.1\n")
    assert found.made["backends"]["l"]["servers"] == {"s": {"address": "10.0.0.1:25"}}


RESOLVERS = "resolvers r\n nameserver n 10.0.0.1:53\n"


@pytest.mark.parametrize(
    ("parameters", "server"),
    [
        ("resolvers r", {"resolvers": "r"}),
        ("resolvers r resolve-prefer ipv4", {"resolvers": "r", "resolve_prefer": "ipv4"}),
        ("resolvers r resolve-opts allow-dup-ip,ignore-weight",
         {"resolvers": "r", "resolve_opts": ["allow-dup-ip", "ignore-weight"]}),
        ("resolvers r init-addr last,10.0.0.9,none", {"resolvers": "r", "init_addr": ["last", "10.0.0.9", "none"]}),
        ("init-addr none resolve-prefer ipv6", {}),
    ],
)  # fmt: skip
def test_names_that_are_resolved_while_it_runs(web, parameters, server):
    own, told = backend(web, f" server s www.example.org:80 {parameters}\n{RESOLVERS}")
    assert own["servers"]["s"] == {"address": "www.example.org:80", **server}
    assert told == []


@pytest.mark.parametrize(("count", "made"), [("5", 5), ("1-5", 5), ("3-7", 5), ("1", 1), ("0-4", 5)])
def test_a_template_of_a_name(web, count, made):
    own, told = backend(web, f" server-template a {count} _http._tcp.example.org resolvers r weight 7\n{RESOLVERS}")
    want = {"prefix": "a", "count": made, "address": "_http._tcp.example.org", "resolvers": "r", "weight": 7}
    assert own["server_template"] == want
    assert "servers" not in own
    remarks = [line.partition("weight 7: ")[2] for line in told]
    assert remarks == (["its servers are numbered from 1 on"] if count in ("3-7", "0-4") else [])


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("x", "a template has a number of servers, or a range FIRST-LAST of numbers: not 'x'"),
        ("3-x", "a template has a number of servers, or a range FIRST-LAST of numbers: not '3-x'"),
        ("-3", "a template has a number of servers, or a range FIRST-LAST of numbers: not '-3'"),
        ("7-3", "the range 7-3 of its servers ends before it begins"),
        ("0", "has no servers"),
        ("5-20000", "a template has at most 10000 servers, not 19996"),
    ],
)
@pytest.mark.parametrize("parameters", ["", " resolvers r"])
def test_a_template_of_a_number_that_is_none(web, written, why, parameters):
    line = f"server-template a {written} h.example.org:80{parameters}"
    own, told = backend(web, f" {line}\n server s 10.0.0.1:80\n{RESOLVERS}")
    assert own["servers"] == {"s": {"address": "10.0.0.1:80"}}
    assert "server_template" not in own
    assert told == [f"9: {line}: {why}"]


def test_a_template_that_nobody_resolves_is_one_server(web):
    own, (told,) = backend(web, " server-template a 5 www.example.org:80\n")
    assert own["servers"] == {"a1": {"address": "www.example.org:80"}}
    assert "one server in place of several" in told


def test_service_records_want_somebody_to_ask(web):
    _, told = backend(web, " server s _http._tcp.example.org\n server t 10.0.0.1:80\n")
    assert any("want `resolvers`" in line for line in told)
