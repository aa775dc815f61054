from __future__ import annotations

import pytest

from balancer.convert.importer import NothingError
from balancer.convert.words import UnreadableError
from tests.certificates import make

HEAD = "defaults\n mode http\n log stdout local0\n"


def test_rules_of_backends_go_to_the_frontends_that_lead_there(convert):
    found = convert(
        f"{HEAD}frontend f\n bind :1\n use_backend a if {{ path /a }}\n"
        f" use_backend b if {{ path /b }}\n default_backend c\n"
        "backend a\n http-request deny if METH_PUT\n server s 10.0.0.1:80\n"
        "backend b\n http-request set-header X b\n server s 10.0.0.1:80\n"
        "backend c\n http-response del-header Y\n server s 10.0.0.1:80\n"
    )
    front = found.made["frontends"]["f"]
    assert front["http_request"] == [
        {"deny": True, "if": {"path": "/a", "method": "PUT"}},
        {"set_header": {"X": "b"}, "if": {"path": "/b", "not": {"path": "/a"}}},
    ]
    assert front["http_response"] == [{"del_header": "Y", "if": {"not": {"path": ["/a", "/b"]}}}]
    assert front["use_backend"] == [{"backend": "a", "if": {"path": "/a"}}, {"backend": "b", "if": {"path": "/b"}}]
    assert found.told == []


def test_what_no_rule_is_for_is_answered_503(convert):
    found = convert(f"{HEAD}frontend f\n bind :1\n use_backend a if {{ path /a }}\nbackend a\n server s 10.0.0.1:80\n")
    front = found.made["frontends"]["f"]
    assert front["http_request"] == [{"deny": 503, "if": {"not": {"path": "/a"}}}]
    assert front["default_backend"] == "a"


def test_a_backend_of_rules_alone_answers(convert):
    found = convert(
        f"{HEAD}frontend f\n bind :1\n"
        f" use_backend a if {{ path /a }}\n default_backend b\n"
        "backend a\n http-request redirect location /b if { src 10.0.0.1 }\n"
        "backend b\n http-request return status 200\n"
    )
    assert found.made["frontends"]["f"]["http_request"] == [
        {"redirect": {"location": "/b"}, "if": {"path": "/a", "src": "10.0.0.1/32"}},
        {"deny": 503, "if": {"path": "/a"}},
        {"return": {"status": 200}, "if": {"not": {"path": "/a"}}},
        {"deny": 503},
    ]
    assert "backends" not in found.made


def test_forwardfor_of_some_backends(convert):
    text = (
        f"{HEAD}frontend f\n bind :1\n use_backend a if {{ path /a }}\n default_backend b\n"
        "backend a\n option forwardfor header X-C\n server s 10.0.0.1:80\nbackend b\n %s\n server s 10.0.0.1:80\n"
    )
    some = convert(text % "").made["frontends"]["f"]
    assert some["http_request"] == [{"add_header": {"X-C": "%[src]"}, "if": {"path": "/a"}}]
    assert "forwarded_for" not in some
    assert convert(text % "option forwardfor header X-C").made["frontends"]["f"]["forwarded_for"] == {"header": "X-C"}


def test_one_defaults_section_becomes_ours_and_several_are_spread(convert):
    one = "defaults\n timeout client 9s\n retries 7\n%slisten a\n bind :1\n server s 10.0.0.1:80\n"
    assert convert(one % "").made["defaults"] == {"timeout": {"client": "9s"}, "retries": 7}
    two = convert(one % "listen z\n bind :2\n server s 10.0.0.1:80\ndefaults\n retries 1\n").made
    assert "defaults" not in two
    assert (two["backends"]["z"]["retries"], two["backends"]["a"]["retries"]) == (7, 1)
    assert two["frontends"]["z"]["timeout"] == {"client": "9s"}


def test_named_defaults(convert):
    found = convert(
        "defaults p\n retries 4\ndefaults c from p\n mode http\nlisten a from c\n bind :1\n server s 10.0.0.1:80\n"
        "listen b from none\n bind :2\n server s 10.0.0.1:80\n"
    )
    assert found.made["frontends"]["a"]["mode"] == "http"
    assert found.made["defaults"] == {"retries": 4}
    assert found.told == ["8: listen b from none: there is no defaults section none"]


LOGS = (
    "global\n%sdefaults\n mode http\n%sfrontend f\n bind :1\n%s default_backend b\nbackend b\n%s server s 10.0.0.1:80\n"
)
A, B = {"target": "udp://10.0.0.1:514", "facility": "local0"}, {"target": "udp://10.0.0.2:514", "facility": "local1"}
LOG_A, LOG_B = " log 10.0.0.1 local0\n", " log 10.0.0.2 local1\n"


@pytest.mark.parametrize(
    ("texts", "everywhere", "own"),
    [
        ((LOG_A, " log global\n", "", ""), A, None),
        ((LOG_A, "", "", ""), A, False),
        ((LOG_A, " log global\n", " no log\n", ""), A, False),
        ((LOG_A, " log global\n", LOG_B, ""), A, [A, B]),
        (("", LOG_A, LOG_B, ""), [A, B], None),
        ((LOG_A, LOG_B, "", ""), [A, {**B, "content": "events"}], B),
        ((LOG_A, "", LOG_A, LOG_B), [A, {**B, "content": "events"}], None),
        ((LOG_A + LOG_B, " log global\n", "", ""), [A, B], None),
    ],
)
def test_where_logs_go(convert, texts, everywhere, own):
    made = convert(LOGS % texts).made
    assert made["global"]["log"] == everywhere
    assert made["frontends"]["f"].get("log") == own


def test_the_statistics_page(convert):
    found = convert(
        f"{HEAD}listen s\n bind :1 \n stats enable\n stats uri /x\n"
        " stats auth a:b:c\n stats admin if TRUE\n stats refresh 3\n"
        " stats show-desc my site\n"
    )
    assert found.made["stats"] == {
        "bind": "*:1", "uri": "/x", "users": {"a": "b:c"}, "admin": True, "refresh": "3s", "description": "my site",
    }  # fmt: skip


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate with its key in one file, as HAProxy wants them."""
    folder = tmp_path_factory.mktemp("page")
    crt, key = make(folder)
    both = folder / "both.pem"
    both.write_bytes(crt.read_bytes() + key.read_bytes())
    return both


PAGE = f"{HEAD}listen s\n%s stats enable\n stats auth a:b\nlisten w\n bind :9\n server s 10.0.0.1:80\n"


@pytest.mark.parametrize(
    ("binds", "bind", "tls"),
    [
        (" bind :1 ssl crt {crt}\n", "*:1", {}),
        (" bind :1 ssl crt {crt} alpn h2 ssl-min-ver TLSv1.3 no-sslv3\n", "*:1", {"ssl_min_ver": "TLSv1.3"}),
        (" bind :1 ssl crt {crt}\n bind /run/x.sock\n", ["*:1", "/run/x.sock"], {}),
        (" bind :1,:2 ssl crt {crt} force-tlsv13\n", ["*:1", "*:2"], {"ssl_min_ver": "TLSv1.3"}),
        (" bind :1 ssl ssl-min-ver TLSv1.2 crt {crt}\n", "*:1", {}),
    ],
)
def test_the_page_over_tls(convert, certificate, binds, bind, tls):
    found = convert(PAGE % binds.format(crt=certificate))
    assert found.made["stats"]["bind"] == bind
    assert found.made["stats"]["tls"] == {"crt": str(certificate), **tls}
    assert found.told == []


def test_a_certificate_may_stand_where_all_do_and_have_its_key_beside_it(convert, tmp_path):
    crt, key = make(tmp_path, "x")
    key.rename(f"{crt}.key")
    found = convert(f"global\n crt-base {tmp_path}\n{PAGE % ' bind :1 ssl crt x.pem'}")
    assert found.made["stats"]["tls"] == {"crt": str(tmp_path / "x.pem"), "key": str(tmp_path / "x.pem.key")}


@pytest.mark.parametrize(
    ("bind", "why"),
    [
        ("ssl crt /none.pem", "/none.pem"),
        ("ssl", "wants a certificate"),
        ("ssl crt {crt} verify required ca-file {crt}", "clients show no certificates"),
        ("ssl crt /tmp", "is a directory"),
        ("ssl crt-list /x", "name its file"),
    ],
)
def test_a_page_that_was_to_be_https_is_none_without_it(convert, certificate, bind, why):
    found = convert(PAGE % f" bind :1 {bind.format(crt=certificate)}\n")
    assert "stats" not in found.made
    assert "s" not in found.made["frontends"]
    assert any(why in told for told in found.told)
    assert {told.partition(":")[0] for told in found.told} >= {"5", "6", "7"}


def test_what_of_the_tls_of_a_page_is_told(convert, certificate):
    found = convert(
        PAGE % f" bind :1 ssl crt {certificate} ciphers X ssl-min-ver TLSv1.0\n bind :2\n"
        f" bind :3 ssl crt {certificate} ssl-min-ver TLSv1.3 crt {certificate}\n"
    )
    assert found.made["stats"]["bind"] == ["*:1", "*:3"]
    assert [told.partition(":")[0] for told in found.told] == ["6", "7", "7", "5", "5"]


def test_a_second_page_and_admin_without_users_are_told(convert):
    text = f"{HEAD}listen s\n bind :1\n stats enable\n stats admin if TRUE\nlisten t\n bind :2\n stats enable\n"
    found = convert(text)
    assert found.made["stats"] == {"bind": "*:1"}
    assert [told.partition(":")[0] for told in found.told] == ["7", "8", "9", "10"]


def test_frontends_that_lead_nowhere_are_told_with_all_their_lines(convert):
    found = convert(
        f"{HEAD}frontend f\n bind :1 ssl crt x.pem\n maxconn 5\n"
        " default_backend b\nlisten b\n bind :2\n server s 10.0.0.1:80\n"
    )
    assert list(found.made["frontends"]) == ["b"]
    assert [told.partition(":")[0] for told in found.told] == ["4", "5", "6", "7"]


def test_connections_are_not_routed_by_rules(web):
    found = web("use_backend b if { src 10.0.0.0/8 }\n", mode="tcp")
    assert "use_backend" not in found.made["frontends"]["f"]
    assert found.told == [
        "5: use_backend b if { src 10.0.0.0/8 }: there are no rules for connections (mode tcp): only `default_backend`"
    ]


def test_a_cache(web):
    cache = "cache c\n total-max-size 8\n max-age 60\n wrong 1\n"
    found = web("http-request cache-use c\nhttp-response cache-store c\n", back="server s 10.0.0.1:80\n" + cache)
    assert found.made["backends"]["b"]["cache"] == {"total_max_size": "8m", "max_age": "60s"}
    assert [told.partition(":")[0] for told in found.told] == ["15"]


@pytest.mark.parametrize(
    "text", ["global\n daemon\n", "frontend f\n bind :1\n default_backend b\nbackend b\n", "listen\n bind :1\n"]
)
def test_nothing_to_balance(convert, text):
    with pytest.raises(NothingError):
        convert(text)


def test_not_a_section(convert):
    with pytest.raises(UnreadableError):
        convert("listener x\n")
