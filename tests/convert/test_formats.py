from __future__ import annotations

import pytest

from balancer.config import format as ours
from balancer.convert.formats import replacement, template
from balancer.convert.words import CannotError
from balancer.regex import compile_regex


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("plain", "plain"), ("%[src]:%cp", "%[src]:%[src_port]"),
        ("%[req.hdr(X-A)] %[hdr(host)]", "%[header(X-A)] %[header(host)]"),
        ("%[req.hdr(host),lower]", "%[host]"), ("100%%", "100%"), ("%b/%s %[method]", "%[backend]/%[server] %[method]"),
        ("%[ssl_fc,iif(https,http)]", "%[scheme]"), ("%[str(x)]", "x"), ("%[uuid()]", "%[uuid]"),
        ("%[urlp(a)]", "%[url_param(a)]"),
        ("%[req.ver] %[res.ver] %[status]%ST", "%[req_ver] %[res_ver] %[status]%[status]"),
    ],
)  # fmt: skip
def test_templates(text, made):
    assert template(text) == made
    ours.parse(made)


def test_in_a_location_the_host_is_no_header():
    assert template("https://%[hdr(host)]%[capture.req.uri]", is_location=True) == "https://%[host]%[pathq]"


@pytest.mark.parametrize("text", ["%[var(txn.a)]", "%{+X}o", "%rt", "%[src,map(x)]", "%", "%[]"])
def test_what_there_is_no_variable_for(text):
    with pytest.raises(CannotError):
        template(text)


def replaced(pattern, text, path):
    regex, made = replacement(pattern, text)
    match = compile_regex(regex).search(path.encode())
    if match is None:
        return path
    filled = made
    for i in range(1, 10):
        filled = filled.replace(f"%[{i}]", ((match.group(i) if i < len(match.groups()) + 1 else b"") or b"").decode())
    return path[: match.start()] + filled + path[match.end() :]


@pytest.mark.parametrize(
    ("pattern", "text", "path", "new"),
    [
        ("(.*)", r"/foo\1", "/bar", "/foo/bar"),
        ("^/api/(.*)", r"/\1", "/api/x/y", "/x/y"),
        ("/api", "/v2", "/x/api/y", "/v2"),
        ("/(a|b)/", r"/\1", "/x/b/y", "/b"),
        ("x|y", r"/got\0", "/ay", "/goty"),
        ("^/none", "/", "/other", "/other"),
    ],
)
def test_the_whole_path_is_replaced(pattern, text, path, new):
    assert replaced(pattern, text, path) == new


def test_an_expression_that_is_not_one():
    with pytest.raises(CannotError, match="RE2"):
        replacement("(?=a)", "/x")
