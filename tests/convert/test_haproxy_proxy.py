from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("maxconn 9", {"maxconn": 9}),
        ("timeout client 1m\n timeout http-request 5000", {"timeout": {"client": "1m", "http_request": "5s"}}),
        ("option clitcpka", {"tcp_keepalive": True}),
        ("option forwardfor", {"forwarded_for": True}),
        ("option forwardfor except 10.0.0.0/8 if-none", {"forwarded_for": {"except": "10.0.0.0/8", "if_none": True}}),
        ("option forwarded", {"forwarded": True}),
        ("option forwarded for proto", {"forwarded": {"for": "address"}}),
        (
            "option forwarded host by by_port",
            {"forwarded": {"by": "address_port", "for": None, "host": True, "proto": False}},
        ),
        ("option originalto header X-To", {"http_request": [{"add_header": {"X-To": "%[dst]"}}]}),
        ("no option dontlognull", {"dontlognull": False}),
        ("no log", {"log": False}),
        (
            "option dontlog-normal\n no option log-separate-errors",
            {"dontlog_normal": True, "log_separate_errors": False},
        ),
        (
            "capture request header Host len 64\n capture cookie A= len 9\n capture cookie B len 9",
            {"capture": [{"request_header": "Host", "len": 64}, {"cookie": "B", "len": 9}]},
        ),
        ("capture response header Location len 5000", {"capture": {"response_header": "Location", "len": 1000}}),
        (
            "capture request header A len 1\n http-request capture req.fhdr(B) len 2",
            {"capture": [{"request_header": "A", "len": 1}, {"request_header": "B", "len": 2}]},
        ),
        (
            "declare capture request len 3\n declare capture response len 4\n http-request capture req.fhdr(A) id 0\n"
            " http-response capture res.fhdr(B) id 0",
            {"capture": [{"request_header": "A", "len": 3}, {"response_header": "B", "len": 4}]},
        ),
        ('log-format "%ci %{+Q}r %[status] %(x)ST 1%%"', {"log_format": "%ci %{+Q}r %ST %ST 1%%"}),
        ("log-format %ci\n option httplog", {"log_format": None}),
        (
            "compression algo gzip deflate\n compression type text/ text/css",
            {"compression": {"algorithms": "gzip", "types": ["text/*", "text/css"]}},
        ),
        ("unique-id-format %[uuid()]\n unique-id-header X-U", {"request_id": {"format": "%[uuid]", "header": "X-U"}}),
    ],
)
def test_frontends(web, line, made):
    own = web(f" {line}\n").made["frontends"]["f"]
    assert {key: own.get(key) for key in made} == made


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("balance leastconn", {"balance": "leastconn"}),
        ("balance static-rr", {"balance": "roundrobin"}),
        ("balance source\n hash-type consistent", {"balance": "source", "hash_type": "consistent"}),
        ("retries 2", {"retries": 2}),
        ("no option redispatch", {"redispatch": False}),
        ("fullconn 500\n default-server minconn 2 maxconn 9", {"fullconn": 500}),
        ("fullconn 0\n default-server minconn 2 maxconn 9", {"fullconn": None}),
        ("fullconn 500", {"fullconn": None}),
        ("option allbackups", {"allbackups": True}),
        ("option http-server-close", {"pool_max_conn": 0}),
        ("http-reuse aggressive", {"http_reuse": "always"}),
        ("timeout connect 100ms\n timeout tunnel 1h", {"timeout": {"connect": "100ms", "tunnel": "1h"}}),
        ("stick on src", {"balance": "source", "hash_type": "consistent"}),
        (
            "cookie C insert nocache maxlife 8h domain a.b domain c.d",
            {"cookie": {"name": "C", "nocache": True, "maxlife": "8h", "domain": ["a.b", "c.d"]}},
        ),
    ],
)
def test_backends(web, line, made):
    own = web(back=f" {line}\n server s 10.0.0.1:80 cookie c\n").made["backends"]["b"]
    assert {key: own.get(key) for key in made} == made


@pytest.mark.parametrize(
    ("bind", "made"),
    [
        ("bind :81", "*:81"),
        ("bind 10.0.0.1:81,10.0.0.2:81", ["10.0.0.1:81", "10.0.0.2:81"]),
        ("bind :81-83", ["*:81", "*:82", "*:83"]),
        ("bind :::81 v4v6", {"address": "[::]:81", "v4v6": True}),
        (
            "bind 10.0.0.1:81 name x accept-proxy interface eth0 tfo",
            {"address": "10.0.0.1:81", "accept_proxy": True, "interface": "eth0"},
        ),
        ("bind /run/x.sock user x mode 666", {"address": "/run/x.sock", "mode": "0666"}),
    ],
)
def test_binds(convert, bind, made):
    found = convert(f"frontend f\n {bind}\n default_backend b\nbackend b\n server s 10.0.0.1:80\n")
    assert found.made["frontends"]["f"]["bind"] == made
    assert found.told == []


def test_binds_with_tls_are_told(convert):
    found = convert("listen f\n bind :81\n bind :443 ssl crt /x.pem alpn h2 maxconn 5\n server s 10.0.0.1:80\n")
    assert found.made["frontends"]["f"]["bind"] == "*:81"
    assert [told.partition(":")[0] for told in found.told] == ["3", "3"]


@pytest.mark.parametrize(
    "line",
    [
        "cookie C rewrite",
        "balance hdr(X)",
        "option httpclose",
        "use-server s if TRUE",
        "timeout server 0",
        "timeout wrong 1s",
        "retries 999",
        "errorloc 503 /x",
        "reqadd X",
        "stick on hdr(X)",
        "nonsense",
        "filter spoe",
        "option nonsense",
        "errorfile 418 /x",
        "errorfile 408 /dev/null",
        "hash-type wrong",
    ],
)
def test_what_there_is_not(web, line):
    told = web(back=f" {line}\n server s 10.0.0.1:80\n").told
    assert [each.partition(":")[0] for each in told] == ["9"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("capture x", "captured are"),
        ("capture cookie A", "captured are"),
        ("capture request header A len many", "no number"),
        ("declare x", "declared is"),
        ("declare capture request len 5", "no rule that was translated fills it"),
        ("http-request capture src len 5", "is a header, as it is"),
        ("http-request capture req.fhdr(A) len 5 if METH_GET", "there is no condition"),
        ("http-request capture req.fhdr(A) id 0", "no place 0"),
        ("http-request capture req.hdr(A) len 5", "behind its last comma"),
        ("http-response capture res.fhdr(A) len 5", "wants"),
        ("log-format", "says nothing"),
        ("log-format %[req.hdr(x)]", "`capture`"),
        ("log-format %sslv", "there is no variable %sslv"),
        ("log-format %{+X}ci", "flags are written"),
        ("option forwarded for-expr src proto", "for-expr"),
        ("option originalto except 10.0.0.1", "there is no `except`"),
        ('capture request header "a b" len 5', "not allowed"),
        ("option httplog clf", "not the Common Log Format"),
    ],
)
def test_what_frontends_have_not(web, line, why):
    (told,) = web(f" {line}\n").told
    assert told.startswith("5: ")
    assert why in told


def test_lines_of_connections(web):
    assert web(" log-format %ci\n", mode="tcp").made["frontends"]["f"]["log_format"] == "%ci"
    found = web(" log-format %HM\n", mode="tcp")
    assert found.told == ["5: log-format %HM: mode tcp has nothing for %HM"]
    assert web(" capture request header A len 1\n", mode="tcp").told != []


def test_what_another_mode_has_is_passed_over_in_silence_only_where_it_is_inherited(convert):
    text = (
        "defaults\n mode tcp\n option httplog\n option forwardfor\n"
        " cookie C insert\nlisten f\n bind :1\n%s server s 10.0.0.1:80\n"
    )
    assert convert(text % "").told == []
    assert "cookie" not in convert(text % " cookie D insert\n").made["backends"]["f"]


def test_an_unknown_mode_is_told(web):
    assert [told.partition(":")[0] for told in web(mode="health").told] == ["2"]
