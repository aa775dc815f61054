"""What rules make of a request, without a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from balancer.config.rules import Condition, HttpRequestRule, HttpResponseRule
from balancer.proxy.match import Compiler, Networks, Seen
from balancer.proxy.rules import Deny, Moved, Page, Rules, Verdict
from balancer.wire.http1 import Limits, parse_request
from balancer.wire.path import readings

LIMITS = Limits(head=65536, uri=16384, fields=200)
CONTEXT = {"directory": "/"}


def request_of(target: str, *lines: str, method: str = "GET", host: str = "t") -> Any:
    head = "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", "")).encode()
    request = parse_request(head, LIMITS)
    assert request is not None
    return request


def judge(*rules: dict[str, Any], responses: Any = (), **asked: Any) -> Verdict:
    request = request_of(asked.pop("target", "/"), *asked.pop("lines", ()), **asked)
    acls = {"office": Condition.model_validate({"src": ("10.0.0.0/8",)})}
    compiled = Rules(
        [HttpRequestRule.model_validate(rule, context=CONTEXT) for rule in rules],
        [HttpResponseRule.model_validate(rule) for rule in responses],
        Compiler(acls, Networks()),
        {"/page": b"of a file"},
    )
    return compiled.judge([Seen(request, path, 0) for path in readings(request.line.target.partition(b"?")[0])])


NO_ADMIN = {"deny": True, "if": {"path_beg": "/admin", "not": {"acl": "office"}}}


@pytest.mark.parametrize(
    "target",
    [
        "/admin", "/admin/", "/administration", "//admin", "/%61dmin", "/%61%64%6d%69%6E", "/admin;x", "/./admin",
        "/x/../admin", "/x/..;/admin", "/;a=b/admin", "/%2fadmin", "/x%2f..%2fadmin", "/\\admin", "/%5cadmin",
        "/.//admin", "/x/%2e%2e/admin", "/x/.%2E;v/admin", "/admin/../public", "/admin/..%2fpublic",
        "/admin%2f..%2fpublic", "/admin%00.css", "/public/..%2fadmin?x=/public", "http://t/x/../admin", "/%2e/admin",
        "/admin%2f",
    ],
)  # fmt: skip
def test_no_way_around_a_denial(target):
    assert judge(NO_ADMIN, target=target).answer == Deny(403)


@pytest.mark.parametrize("target", ["/", "/x/admin", "/adm", "/ADMIN", "/%2561dmin", "/public?/admin", "/a;/admin/b"])
def test_others_are_not_denied(target):
    assert judge(NO_ADMIN, target=target).answer is None


@pytest.mark.parametrize("target", ["/public/x%2f..%2f..%2fadmin", "/public/..;/admin", "/public/../admin", "/x"])
def test_no_way_around_a_denial_of_all_else(target):
    """Where a rule in front of it lets some go."""
    rules = ({"allow": True, "if": {"path_beg": "/public/"}}, {"deny": 404})
    assert judge(*rules, target=target).answer == Deny(404)
    assert judge(*rules, target="/public/x;y/%2f").answer is None
    negated = {"deny": 404, "if": {"not": {"path_beg": "/public/"}}}
    assert judge(negated, target=target).answer == Deny(404)
    assert judge(negated, target="/public/x;y/%2f").answer is None


PARTS = st.lists(
    st.sampled_from(
        ["/", "admin", "a", "..", ".", ";", ";x", "%2f", "%5c", "\\", "%61", "%2e", "%00", "?", "//", "%3b"],
    ),
    max_size=10,
)


@given(PARTS)
@example(["admin"])
def test_whoever_is_denied_in_one_reading_is_denied(parts):
    target = "/" + "".join(parts)
    wanted = any(path.startswith(b"/admin") for path in readings(target.partition("?")[0].encode()))
    assert (judge(NO_ADMIN, target=target).answer == Deny(403)) is wanted


def test_the_first_answer_counts():
    rules = ({"silent_drop": True, "if": {"method": "PUT"}}, {"return": {"body": "é"}}, {"deny": True})
    assert judge(*rules).answer == Page(200, b"text/plain; charset=utf-8", "é".encode())
    assert judge(*rules, method="PUT").answer == Deny(0)
    assert judge({"return": {"file": "/page", "status": 404, "content_type": "a/b"}}).answer == Page(
        404, b"a/b", b"of a file"
    )


@pytest.mark.parametrize(
    ("own", "asked", "where"),
    [
        ({"scheme": "https"}, {"target": "/a?b=c", "host": "T:8080"}, b"https://t/a?b=c"),
        ({"scheme": "https", "host": "%[host]:8443"}, {"target": "/a", "host": "[::1]:80"}, b"https://[::1]:8443/a"),
        ({"scheme": "https", "drop_query": True}, {"target": "/a?b=c"}, b"https://t/a"),
        ({"scheme": "https"}, {"target": "//evil.example/..%5c"}, b"https://t/evil.example/..%5C"),
        ({"host": "www.x"}, {"target": "/a"}, b"//www.x/a"),
        ({"path": "/new%[path]"}, {"target": "/a?b"}, b"/new/a?b"),
        ({"path": "%[path]"}, {"target": "//evil.example"}, b"/evil.example"),
        ({"path": "%[path]"}, {"target": "/\\evil.example"}, b"/%5Cevil.example"),
        ({"path": "/%[1]", "path_reg": "^/old(.*)$"}, {"target": "/old//evil.example"}, b"/evil.example"),
        ({"path": "/n/%[2]%[1]", "path_reg": "^/(a)(x)?"}, {"target": "/ab"}, b"/n/a"),
        ({"location": "https://x.example%[pathq]"}, {"target": "/a?b=%0d%0aX:y"}, b"https://x.example/a?b=%0d%0aX:y"),
        ({"location": "/l?n=%[path]&q=%[url_param(q)]"}, {"target": "/a?q=%0d%0aX:y"}, b"/l?n=/a&q=X:y"),
        ({"location": "%[path]"}, {"target": "//evil.example"}, b"/evil.example"),
        ({"location": "%[pathq]"}, {"target": '/"<>?"'}, b"/%22%3C%3E?%22"),
        ({"location": "/%[header(x)]"}, {"target": "/", "lines": ("X: //\\evil",)}, b"/%5Cevil"),
    ],
)  # fmt: skip
def test_where_a_redirect_leads(own, asked, where):
    verdict = judge({"redirect": own}, **asked)
    lines = asked.pop("lines", ())
    subject: Any = SimpleNamespace(asked=request_of(asked.pop("target"), *lines, **asked))
    assert verdict.answer.location(subject) == where


def test_a_redirect_without_a_host_leads_nowhere():
    verdict = judge({"redirect": {"scheme": "https"}})
    request = parse_request(b"GET / HTTP/1.0\r\n\r\n", LIMITS)
    subject: Any = SimpleNamespace(asked=request)
    assert verdict.answer.location(subject) == b""


def test_a_redirect_where_its_expression_fits():
    rules = ({"redirect": {"path": "/n%[1]", "path_reg": "^/o(.*)"}}, {"deny": True})
    assert isinstance(judge(*rules, target="/ox").answer, Moved)
    assert judge(*rules, target="/x").answer == Deny(403)


@pytest.mark.parametrize(
    ("rules", "target", "path"),
    [
        ([{"strip_prefix": "/api"}], "/api/x", b"/x"),
        ([{"strip_prefix": "/api/"}], "/api", b"/"),
        ([{"strip_prefix": "/api"}], "/apis", None),
        ([{"strip_prefix": "/api"}], "/api//x/..", b"/"),
        ([{"set_path": "/%[host]%[path]"}], "/a", b"/t/a"),
        ([{"replace_path": {"regex": "^/v[0-9]+"}}], "/v12/x", b"/x"),
        ([{"replace_path": {"regex": "(.)/(.)", "with": "%[2]?#%[1]"}}], "/a/b", b"/b%3F%23a"),
        ([{"replace_path": {"regex": "^", "with": "//evil"}}], "/a", b"/evil/a"),
        ([{"strip_prefix": "/a"}, {"replace_path": {"regex": "^", "with": "/v2"}}], "/a/b", b"/v2/b"),
        ([{"replace_path": {"regex": "b", "with": "c"}}, {"strip_prefix": "/c"}], "/b/x", b"/x"),
        ([{"strip_prefix": "/b", "if": {"path": "/a/b"}}, {"strip_prefix": "/a"}], "/a/b", b"/b"),
    ],
)
def test_another_path(rules, target, path):
    if "?#" in str(rules):
        with pytest.raises(ValueError, match="fits into no path"):
            judge(*rules, target=target)
        return
    assert judge(*rules, target=target).path == path


@pytest.mark.parametrize(
    "rule", [{"set_path": "/x"}, {"strip_prefix": "/"}, {"replace_path": {"regex": "^", "with": "/v2"}}]
)
def test_what_is_no_path_stays(rule):
    assert judge(rule, target="*", method="OPTIONS").path is None


@given(PARTS, st.sampled_from(["^/", "a", "[^/]*$", "%2F", "^/?"]), st.sampled_from(["", "/", "//", "%[1]", "/x/"]))
def test_a_new_path_is_one(parts, regex, with_):
    verdict = judge({"replace_path": {"regex": f"({regex})", "with": with_}}, target="/" + "".join(parts))
    path = verdict.path
    assert path is None or (path.startswith(b"/") and path[1:2] != b"/" and b"?" not in path and b" " not in path)


def test_changes_of_headers_add_up():
    rules = (
        {"add_header": {"X-A": "1"}},
        {"set_header": {"x-a": "2", "X-B": "3"}},
        {"add_header": {"X-A": "4"}},
        {"del_header": ("X_B",)},
        {"del_header": ("X-C",), "if": {"path": "/c"}},
    )
    verdict = judge(*rules)
    assert verdict.request.removed == {b"x-a", b"x-b"}
    assert verdict.request.added == ((b"x-a", b"2"), (b"X-A", b"4"))
    assert verdict.request.is_fixed and verdict.responses == (None,)
    assert judge(*rules, target="/c").request.removed == {b"x-a", b"x-b", b"x-c"}


def test_changes_of_responses_depend_on_the_request():
    rule = {"set_header": {"X": "%[server]"}, "if": {"path": "/a"}}
    edits = judge(responses=(rule,), target="/a").responses[0]
    assert edits.removed == {b"x"} and not edits.is_fixed
    assert not judge(responses=(rule,)).changes
