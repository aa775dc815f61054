from __future__ import annotations

import shlex

import pytest

from balancer.config.model import Config
from balancer.convert.conditions import all_of, any_of, expression, negated, parse_acl, parse_terms, quote, written
from balancer.convert.words import CannotError


def words(text):
    return shlex.split(text)


@pytest.mark.parametrize(
    ("criterion", "condition"),
    [
        ("path /a /b", {"path": ["/a", "/b"]}),
        ("path_beg /a/", {"path_beg": ["/a/"]}),
        ("path -m beg /a", {"path_beg": ["/a"]}),
        ("path_beg -i /A", {"path_reg": ["(?i)^/A"]}),
        ("path_beg a", {"path_reg": ["^a"]}),
        ("path_end .php", {"path_end": [".php"]}),
        ("path_sub ../", {"path_reg": [r"\.\./"]}),
        ("path_dir img", {"path_reg": ["(?:^|[/?])img(?:[/?]|$)"]}),
        ("path_reg ^/v[0-9]+/", {"path_reg": ["^/v[0-9]+/"]}),
        ("url_beg /api", {"path_beg": ["/api"]}),
        ("base example.org/x", {"host": ["example.org"], "path": ["/x"]}),
        ("hdr(host) -i WWW.example.org", {"host": ["www.example.org"]}),
        ("req.hdr(Host),lower www.example.org", {"host": ["www.example.org"]}),
        ("hdr(host),field(1,:) www.example.org", {"host": ["www.example.org"]}),
        ("hdr_end(host) -i .example.org", {"host": ["*.example.org"]}),
        ("hdr_end(host) example.org", {"header_reg": {"Host": [r"example\.org$"]}}),
        ("hdr_beg(host) www.", {"header_reg": {"Host": [r"^www\."]}}),
        ("hdr_dom(host) -i a.b", {"header_reg": {"Host": [r"(?i)(?:^|[/?.:])a\.b(?:[/?.:]|$)"]}}),
        ("hdr(X-A) one", {"header_reg": {"X-A": [r"(?:^|,)[ \t]*one[ \t]*(?:,|$)"]}}),
        ("req.fhdr(X-A) one two", {"header": {"X-A": ["one", "two"]}}),
        ("hdr_sub(User-Agent) -i bot", {"header_reg": {"User-Agent": ["(?i)bot"]}}),
        ("hdr_reg(X) ^a$", {"header_reg": {"X": [r"(?:^|,)[ \t]*a[ \t]*(?:,|$)"]}}),
        ("hdr(X) -m found", {"header_found": ["X"]}),
        ("hdr_cnt(X) gt 0", {"header_found": ["X"]}),
        ("hdr_cnt(X) eq 0", {"not": {"header_found": "X"}}),
        ("cook(a) 1", {"cookie": {"a": ["1"]}}),
        ("req.cook_beg(a) v2", {"cookie_reg": {"a": ["^v2"]}}),
        ("cook(a) -m found", {"cookie_found": ["a"]}),
        ("urlp(q) x", {"url_param": {"q": ["x"]}}),
        ("url_param(q) -m reg ^[0-9]+$", {"url_param_reg": {"q": ["^[0-9]+$"]}}),
        ("method GET HEAD", {"method": ["GET", "HEAD"]}),
        ("src 10.0.0.1 10.1.0.0/16 10.2.0.0/255.255.0.0", {"src": ["10.0.0.1/32", "10.1.0.0/16", "10.2.0.0/16"]}),
        ("src -f NETWORKS", {"src": ["192.0.2.0/24", "2001:db8::/32"]}),
        ("ssl_fc", {"scheme": "https"}),
        ("status 404 500:599", {"status": "404,500-599"}),
        ("status ge 500", {"status": "500-599"}),
        ("always_true", True),
        ("dst_port 80", True),
        ("dst_port 8000:9000", False),
        ("dst_port ge 80", True),
    ],
)
def test_criteria(criterion, condition, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NETWORKS").write_text("# ours\n192.0.2.1/24\n\n2001:db8::/32\n")
    found = parse_acl(words(criterion), ports=frozenset((80,)))
    assert found == condition
    if isinstance(found, dict):
        Config.model_validate({"acls": {"a": tuples(found)}}, context={"part": True, "directory": "/"})


def tuples(value):
    """As the reader gives lists."""
    if isinstance(value, dict):
        return {key: tuples(each) for key, each in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("criterion", "why"),
    [
        ("nbsrv(x) lt 1", "backup: true"), ("req.ssl_sni a.b", "TLS"), ("path_reg (?=x)", "RE2"),
        ("src nobody", "no network"),
        ("hdr_ip(X-Forwarded-For) 10.0.0.0/8", "trusted_proxies"), ("rand lt 50", "chance"), ("url /x?y", "path and"),
        ("path,map(/x) y", "converter map"), ("src -f NONE", "No such file"), ("", "nothing to look at"),
        ("hdr_cnt(X) gt 3", "cnt"), ("some.thing x", "no condition looks at some.thing"), ("dst 10.0.0.1", "dst"),
    ],
)  # fmt: skip
def test_what_cannot_be_said(criterion, why):
    with pytest.raises(CannotError) as error:
        parse_acl(words(criterion))
    assert why in error.value.why


ACLS = {"a": {"path": ["/a"]}, "b": {"method": ["PUT"]}, "t": True}


@pytest.mark.parametrize(
    ("terms", "condition"),
    [
        ("a", {"path": ["/a"]}),
        ("!a", {"not": {"path": "/a"}}),
        ("! a", {"not": {"path": "/a"}}),
        ("!!a", {"path": ["/a"]}),
        ("a b", {"path": ["/a"], "method": ["PUT"]}),
        ("a or b", {"any": [{"path": "/a"}, {"method": "PUT"}]}),
        ("a || { path /c }", {"path": ["/a", "/c"]}),
        ("a { path_beg /x } !b", {"path": ["/a"], "path_beg": ["/x"], "not": {"method": "PUT"}}),
        ("a { path /x }", {"all": [{"path": "/a"}, {"path": "/x"}]}),
        ("t", True), ("!t", False), ("t a", {"path": ["/a"]}), ("!t a", False), ("!t or a", {"path": ["/a"]}),
        ("METH_POST", {"method": ["POST"]}), ("TRUE", True), ("!FALSE a", {"path": ["/a"]}),
    ],
)  # fmt: skip
def test_terms(terms, condition):
    assert parse_terms(words(terms), ACLS.__getitem__, parse_acl) == condition


@pytest.mark.parametrize("terms", ["a or", "{ path /a", "or a"])
def test_terms_that_are_not_complete(terms):
    with pytest.raises(CannotError):
        parse_terms(words(terms), ACLS.__getitem__, parse_acl)


def test_joining():
    one, two = {"path": ["/a"]}, {"acl": ["x"]}
    assert all_of([]) is True
    assert any_of([]) is False
    assert negated({"not": {"path": "/a"}}) == {"path": "/a"}
    assert any_of([any_of([one, two]), {"host": ["h"]}]) == {"any": [{"path": "/a"}, "x", {"host": "h"}]}
    assert written(any_of([one, two])) == [{"path": "/a"}, "x"]
    assert written(two) == "x"


def test_expressions():
    own = expression('req.hdr(host,1),lower,field(1,":")')
    assert (own.name, own.argument, own.converters) == ("req.hdr", "host,1", (("lower", ""), ("field", '1,":')))
    assert quote("a.b-c d/(e)") == r"a\.b-c d/\(e\)"
