from __future__ import annotations

import pytest


def rules(made, which="http_request"):
    return made.made["frontends"]["f"].get(which, [])


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("http-request allow if { src 10.0.0.0/8 }", {"allow": True, "if": {"src": "10.0.0.0/8"}}),
        ("http-request deny", {"deny": True}),
        (
            "http-request deny deny_status 429 unless METH_GET",
            {"deny": 429, "if": {"not": {"method": ["GET", "HEAD"]}}},
        ),
        ("http-request deny status 405", {"return": {"status": 405}}),
        ("http-request reject", {"silent_drop": True}),
        ("http-request silent-drop", {"silent_drop": True}),
        ("http-request redirect location /x code 307", {"redirect": {"location": "/x", "code": 307}}),
        ("http-request redirect prefix /a drop-query", {"redirect": {"path": "/a%[path]", "drop_query": True}}),
        (
            "http-request redirect prefix https://%[hdr(host)]/x",
            {"redirect": {"scheme": "https", "path": "/x%[path]"}},
        ),
        ("http-request redirect scheme HTTPS", {"redirect": {"scheme": "https"}}),
        ("redirect scheme https code 301", {"redirect": {"scheme": "https", "code": 301}}),
        ("http-request add-header X-A %[src]", {"add_header": {"X-A": "%[src]"}}),
        ("http-request set-header X-A ''", {"del_header": "X-A"}),
        ("http-request del-header X-A -m str", {"del_header": "X-A"}),
        ("http-request set-path /x%[path]", {"set_path": "/x%[path]"}),
        ("http-request replace-path ^/a$ /b", {"replace_path": {"regex": "^/a$", "with": "/b"}}),
        (
            "http-request return status 200 content-type text/plain lf-string 100%%",
            {"return": {"status": 200, "content_type": "text/plain", "body": "100%"}},
        ),
        ("http-request return status 204", {"return": {"status": 204}}),
        ("monitor-uri /up", {"return": {"status": 200}, "if": {"path": "/up"}}),
        ("tcp-request connection reject if { src 10.0.0.1 }", {"silent_drop": True, "if": {"src": "10.0.0.1/32"}}),
    ],
)
def test_requests(web, line, rule):
    found = web(line)
    assert rules(found) == [rule]
    assert found.told == []


@pytest.mark.parametrize(
    "line",
    [
        "http-request set-var(txn.a) src", "http-request replace-header A b c", "http-request nonsense",
        "http-request deny if nowhere", "http-request redirect location https://%[hdr(host),regsub(a,b)]",
        "http-request redirect scheme https code 305", "http-request set-header A %[var(x)]",
        "http-request track-sc0 path",
        "http-request set-header Content-Length 1", "http-request redirect location //evil.example",
        "http-request set-src hdr(x-forwarded-for)", "http-request use-service lua.x", "http-request deny if { path /x",
        "http-request return status 200 lf-string %[src]", "http-request del-header X- -m beg",
    ],
)  # fmt: skip
def test_what_is_not_translated_is_told_and_left_out(web, line):
    found = web(line)
    assert rules(found) == []
    assert [told.partition(":")[0] for told in found.told] == ["5"]


def test_responses(web):
    found = web(
        "http-response set-header A b\nhttp-response del-header Server if { src 10.0.0.1 }\nhttp-response set-status 5"
    )
    assert rules(found, "http_response") == [
        {"set_header": {"A": "b"}},
        {"del_header": "Server", "if": {"src": "10.0.0.1/32"}},
    ]
    assert [told.partition(":")[0] for told in found.told] == ["7"]


def test_the_status_is_for_rules_of_responses(web):
    found = web("http-response set-header A b if { status 404 }\nhttp-request deny if { status 404 }\n")
    assert rules(found, "http_response") == [{"set_header": {"A": "b"}, "if": {"status": "404"}}]
    assert rules(found) == []
    assert [told.partition(":")[0] for told in found.told] == ["6"]


def test_acls_of_two_sections_with_one_name(convert):
    found = convert(
        "defaults\n mode http\nlisten a\n bind :1\n acl x path /a\n acl x method PUT\n http-request deny if x\n"
        " server s 10.0.0.1:80\nlisten b\n bind :2\n acl x path /b\n http-request deny if x\n server s 10.0.0.1:80\n"
    )
    assert found.made["acls"] == {"x": [{"path": "/a"}, {"method": "PUT"}], "b.x": {"path": "/b"}}
    assert found.made["frontends"]["b"]["http_request"] == [{"deny": True, "if": "b.x"}]


def test_a_password_is_asked_for_where_the_condition_says_so(web):
    users = "userlist l\n user u password $5$abcdefgh$x\n user v insecure-password p groups g\n"
    line = "acl in http_auth(l)\nhttp-request auth realm R if { path_beg /admin } !in"
    found = web(line, back="server s 10.0.0.1:80\n" + users)
    assert rules(found) == [{"auth": {"file": "l.htpasswd", "realm": "R"}, "if": {"path_beg": "/admin"}}]
    assert found.files["l.htpasswd"].splitlines()[-1].startswith("v:$2b$10$")
    assert "secret" not in "".join(found.told)


def test_limits(web):
    found = web(
        "stick-table type ip size 1m expire 1m store conn_cur,conn_rate(3s),http_req_rate(10s)\n"
        "http-request track-sc0 src\n"
        "tcp-request connection reject if { src_conn_cur ge 10 }\n"
        "acl many sc_http_req_rate(0) gt 100\n"
        "http-request deny deny_status 429 if many\n"
        "tcp-request connection reject if { src_conn_rate gt 0 }\n"
    )
    assert found.made["frontends"]["f"]["limits"] == {
        "connections": 9,
        "request_rate": {"limit": "100/10s", "status": 429},
    }
    assert [told.partition(":")[0] for told in found.told] == ["10"]


def test_a_table_of_another_section(web):
    front = "http-request track-sc0 src table t\nhttp-request deny if { sc0_http_req_rate gt 5 }\n"
    table = "backend t\n stick-table type ip size 1k store http_req_rate(1m)\n"
    found = web(front, back="server s 10.0.0.1:80\n" + table)
    assert found.made["frontends"]["f"]["limits"] == {"request_rate": {"limit": "5/60s", "status": 403}} or found.made[
        "frontends"
    ]["f"]["limits"] == {"request_rate": {"limit": "5/1m", "status": 403}}


def test_trusted_proxies(web):
    found = web("http-request set-src hdr(x-forwarded-for) if { src 192.0.2.1 }")
    assert found.made["frontends"]["f"]["trusted_proxies"] == ["192.0.2.1/32"]


def test_what_an_earlier_rule_changed_is_told(web):
    found = web("http-request set-path /b\nhttp-request deny if { path /a }\nhttp-request deny if METH_POST\n")
    assert len(rules(found)) == 3
    assert [told.partition(":")[0] for told in found.told] == ["6"]
