"""What becomes of messages that are wrong, odd, or read in more than one way: one row each, with RFC 9110 or 9112.

Nothing here is run by a balancer. It is the promise that `http1`, `framing`, `rewrite` and the proxy keep, in a form
that the tests send through a balancer as it stands: whole, octet by octet, and with another message behind it.

A message is refused where its bounds, or what it asks for, could be read in two ways and no sender needs it so;
it is passed on in the one plain form where senders do that and RFC 9110 or 9112 says what is meant; else it is passed
on octet for octet. Rows named as a CVE or as a trap of Python's (`int("1_0")`, `str.isdigit`, `str.strip`) are there
because somebody has fallen for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["REQUESTS", "RESPONSES", "Fate", "Row"]


class Fate(Enum):
    """What happens to a message."""

    PASSED = "passed on"
    REFUSED = "refused"
    """Answered in place of the other side, and the connection that it came on is closed. Of a message whose body is
    wrong, the beginning may have gone on; whoever got it sees that it is not complete."""
    CUT = "cut"
    """It ends, or goes wrong, when there is no answer to be given any more: both connections end, and whoever got
    the beginning sees that it is not complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A message and its fate."""

    name: str
    clause: str
    """RFC and section: "9112 2.2"; the CVE or the trap after a semicolon."""
    octets: bytes
    """The message."""
    fate: Fate
    status: int = 0
    """Of the refusal; 502 where a server's message is refused."""
    passed: bytes = b""
    """What the other side gets; of a message refused or cut, at most this."""
    closes: bool = True
    """Whether nothing more is taken from the connection it came on."""
    method: bytes = b"GET"
    """Of the request that a response answers."""
    ends: bool = False
    """The sender ends its connection behind it."""


_HOST = b"Host: t\r\n"
_LINE = b"GET /m HTTP/1.1\r\n"
_GET = _LINE + _HOST
_POST = b"POST /m HTTP/1.1\r\n" + _HOST
_LENGTH = b"Content-Length: 5\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_FIVE = b"5\r\nhello\r\n0\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\n"
_END = b"\r\n"
# More than the defaults of max_uri_size, max_header_size, max_headers.
_LONG_TARGET, _LONG_HEAD, _MANY = 16385, 65537, 201


def _refused(
    name: str, clause: str, octets: bytes, status: int = 400, passed: bytes = b"", *, ends: bool = False
) -> Row:
    return Row(name=name, clause=clause, octets=octets, fate=Fate.REFUSED, status=status, passed=passed, ends=ends)


def _passed(name: str, clause: str, octets: bytes, passed: bytes | None = None, *, closes: bool = False) -> Row:
    passed = octets if passed is None else passed
    return Row(name=name, clause=clause, octets=octets, fate=Fate.PASSED, passed=passed, closes=closes)


def _get(name: str, clause: str, fields: bytes, passed: bytes | None = None, *, closes: bool = False) -> Row:
    """A GET with these fields goes on with those in their place."""
    fields_passed = fields if passed is None else passed
    return _passed(name, clause, _GET + fields + _END, _GET + fields_passed + _END, closes=closes)


def _target(name: str, clause: str, target: bytes, status: int = 400) -> Row:
    return _refused(name, clause, b"GET " + target + b" HTTP/1.1\r\n" + _HOST + _END, status)


def _host(name: str, value: bytes) -> Row:
    return _refused(name, "9112 3.2", _LINE + b"Host:" + value + b"\r\n\r\n")


def _field(name: str, clause: str, line: bytes) -> Row:
    """Two lines with what is wrong between them: neither may vanish."""
    return _refused(name, clause, _GET + b"A: 1\r\n" + line + b"Content-Length: 5\r\n\r\nhello")


def _length(name: str, value: bytes, clause: str = "9112 6.3") -> Row:
    return _refused(name, clause, _POST + b"Content-Length:" + value + b"\r\n\r\nhello")


def _coding(name: str, clause: str, fields: bytes, status: int = 400) -> Row:
    return _refused(name, clause, _POST + fields + _END + _FIVE, status)


def _chunks(name: str, clause: str, body: bytes, passed: bytes = b"") -> Row:
    """A body that is refused after `passed` of it."""
    head = _POST + _CHUNKED + _END
    return _refused(name, clause, head + body, passed=head + passed)


def _chunks_passed(name: str, clause: str, body: bytes, passed: bytes | None = None) -> Row:
    head = _POST + _CHUNKED + _END
    return _passed(name, clause, head + body, head + (body if passed is None else passed))


_LINES = (
    # RFC 9112 section 2.2: CRLF ends a line. LF alone MAY; who reads on where others stop is fed a second request.
    _refused("lf_request_line", "9112 2.2", b"GET /m HTTP/1.1\n" + _HOST + _END),
    _refused("lf_field", "9112 2.2", _LINE + b"Host: t\nA: 1\r\n\r\n"),
    _refused("lf_empty_line", "9112 2.2", _GET + b"\n"),
    _refused("lf_everywhere", "9112 2.2", b"GET /m HTTP/1.1\nHost: t\n\n"),
    _refused("lf_first", "9112 2.2", b"\n" + _GET + _END),
    _refused("lf_cr", "9112 2.2", b"GET /m HTTP/1.1\n\rHost: t\n\r\n\r"),
    _refused("cr_request_line", "9112 2.2", b"GET /m HTTP/1.1\rHost: t\r\n\r\n"),
    _refused("cr_field", "9112 2.2", _LINE + b"Host: t\rA: 1\r\n\r\n"),
    _refused("cr_in_value", "9112 2.2", _GET + b"A: 1\r2\r\n\r\n"),
    _refused("cr_hides_coding", "9112 2.2", _POST + b"A: 1\rTransfer-Encoding: chunked\r\n" + _LENGTH + b"\r\nhello"),
    _refused("cr_cr_lf", "9112 2.2", _LINE + b"Host: t\r\r\n\r\n"),
    _refused("cr_in_target", "9112 2.2", b"GET /m\r HTTP/1.1\r\n" + _HOST + _END),
    _refused("cr_first", "9112 2.2", b"\r" + _GET + _END),
    _refused("cr_empty_line", "9112 2.2", _GET + b"\r\r\n"),
    _passed("empty_line_first", "9112 2.2", b"\r\n" + _GET + _END, _GET + _END),
    _passed("empty_lines_eight", "9112 2.2", b"\r\n" * 8 + _GET + _END, _GET + _END),
    _refused("empty_lines_nine", "9112 2.2", b"\r\n" * 9 + _GET + _END),
    _refused("space_first", "9112 2.2", b" " + _GET + _END),
    _refused("space_line_first", "9112 2.2", b" \r\n" + _GET + _END),
    _refused("space_before_first_field", "9112 2.2", _LINE + b" A: 1\r\n" + _HOST + _END),
    _refused("tab_before_first_field", "9112 2.2", _LINE + b"\t" + _HOST + _END),
    _refused("space_line_before_first_field", "9112 2.2", _LINE + b" \r\n" + _HOST + _END),
    _refused("no_field_no_end", "9112 2.2", _LINE, ends=True),
    _refused("half_a_line", "9112 2.2", b"GET /m HT", ends=True),
    _refused("tls_client_hello", "9112 2.2", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(16)),
    _refused("text", "9112 2.2", b"hello\r\n\r\n"),
    _refused("utf_8_mark", "9112 2.2", b"\xef\xbb\xbf" + _GET + _END),
    _refused("rl_proxy_v1", "9112 2.2", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + _GET + _END),
    _refused("rl_proxy_v2", "9112 2.2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + _GET + _END),
)

_REQUEST_LINES = (
    _passed("rl_method_unknown", "9110 9.1", b"BREW /m HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_method_lower", "9110 9.1", b"get /m HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_method_any_token", "9110 9.1", b"M-!#$%&'*+.^_`|~9 /m HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_method_64", "9112 3", b"M" * 64 + b" /m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_method_65", "9112 3", b"M" * 65 + b" /m HTTP/1.1\r\n" + _HOST + _END, 501),
    _refused("rl_method_endless", "9112 3", b"M" * 4000, 501),
    _refused("rl_method_not_a_token", "9112 3", b"GE(T /m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_method_colon", "9112 3", b"GET: /m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_method_8bit", "9112 3", b"G\xc9T /m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_method_nul", "9112 3", b"GET\0 /m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_method_missing", "9112 3", b"/m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_two_spaces", "9112 3", b"GET  /m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_two_spaces_version", "9112 3", b"GET /m  HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_space_last", "9112 3", b"GET /m HTTP/1.1 \r\n" + _HOST + _END),
    _refused("rl_tab", "9112 3", b"GET\t/m\tHTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_vtab", "9112 3", b"GET\x0b/m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_ff", "9112 3", b"GET /m\x0cHTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_nbsp", "9112 3; str.split", b"GET\xa0/m HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_four_words", "9112 3", b"GET /m x HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_two_versions", "9112 3", b"GET /m HTTP/1.1 HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_no_target", "9112 3", b"GET HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_empty_target", "9112 3", b"GET  HTTP/1.1\r\n" + _HOST + _END),
    _refused("rl_two_lines_in_one", "9112 3", b"GET /m HTTP/1.1GET /n HTTP/1.1\r\n" + _HOST + _END),
    # Versions: RFC 9112 section 2.3, RFC 9110 section 2.5.
    _passed("rl_ver_10", "9112 2.3", b"GET /m HTTP/1.0\r\n" + _HOST + _END, _GET + _END, closes=True),
    _passed("rl_ver_10_no_host", "9112 2.3", b"GET /m HTTP/1.0\r\n\r\n", closes=True),
    _passed("rl_ver_12", "9110 2.5", b"GET /m HTTP/1.2\r\n" + _HOST + _END, _GET + _END),
    _passed("rl_ver_19", "9110 2.5", b"GET /m HTTP/1.9\r\n" + _HOST + _END, _GET + _END),
    _refused("rl_ver_09", "9112 2.3", b"GET /m\r\n\r\n"),
    _refused("rl_ver_09_named", "9110 2.5", b"GET /m HTTP/0.9\r\n\r\n", 505),
    _refused("rl_ver_20", "9110 2.5", b"GET /m HTTP/2.0\r\n" + _HOST + _END, 505),
    _refused("rl_ver_20_preface", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    _refused("rl_ver_30", "9110 2.5", b"GET /m HTTP/3.0\r\n" + _HOST + _END, 505),
    _refused("rl_ver_lower", "9112 2.3", b"GET /m http/1.1\r\n" + _HOST + _END),
    _refused("rl_ver_two_digits", "9112 2.3", b"GET /m HTTP/1.10\r\n" + _HOST + _END),
    _refused("rl_ver_leading_zero", "9112 2.3", b"GET /m HTTP/01.1\r\n" + _HOST + _END),
    _refused("rl_ver_no_minor", "9112 2.3", b"GET /m HTTP/1\r\n" + _HOST + _END),
    _refused("rl_ver_empty_minor", "9112 2.3", b"GET /m HTTP/1.\r\n" + _HOST + _END),
    _refused("rl_ver_comma", "9112 2.3", b"GET /m HTTP/1,1\r\n" + _HOST + _END),
    _refused("rl_ver_sign", "9112 2.3; int", b"GET /m HTTP/1.+1\r\n" + _HOST + _END),
    _refused("rl_ver_super", "9112 2.3; str.isdigit", b"GET /m HTTP/1.\xb9\r\n" + _HOST + _END),
    _refused("rl_ver_other", "9112 2.3", b"GET /m HTTQ/1.1\r\n" + _HOST + _END),
    _refused("rl_ver_icy", "9112 2.3", b"GET /m ICY/1.1\r\n" + _HOST + _END),
    _refused("rl_ver_space", "9112 2.3", b"GET /m HTTP /1.1\r\n" + _HOST + _END),
    # Targets: RFC 9112 section 3.2. Beyond RFC 3986, `"<>\^`{|}` pass: browsers send them, no server cuts there.
    _passed("rl_target_query", "9112 3.2.1", b"GET /m?a=/b?c&%00 HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_target_browser", "9112 3.2.1", b'GET /m?a=|^`{}"<>\\ HTTP/1.1\r\n' + _HOST + _END),
    _passed("rl_target_two_slashes", "9112 3.2.1", b"GET //x/m HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_target_dots", "9112 3.2.1", b"GET /a/../m/./%2e%2e/ HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_target_8000", "9112 3", b"GET /" + b"m" * 7986 + b" HTTP/1.1\r\n" + _HOST + _END),
    _target("rl_target_long", "9112 3", b"/" + b"m" * (_LONG_TARGET - 1), 414),
    _refused("rl_target_endless", "9112 3", b"GET /" + b"m" * 2 * _LONG_TARGET, 414, ends=True),
    _target("rl_target_frag", "9112 3.2; CVE-2023-45539", b"/m#f"),
    _target("rl_target_frag_query", "9112 3.2; CVE-2023-45539", b"/m?a#.png"),
    _target("rl_target_8bit", "9112 3.2", b"/\xe9"),
    _target("rl_target_utf_8", "9112 3.2", b"/\xc3\xa9"),
    _target("rl_target_nul", "9112 3.2", b"/\0"),
    _target("rl_target_del", "9112 3.2", b"/\x7f"),
    _target("rl_target_esc", "9112 3.2", b"/\x1b"),
    _target("rl_target_no_slash", "9112 3.2.1", b"m"),
    _target("rl_target_dot", "9112 3.2.1", b"../m"),
    _target("rl_target_query_alone", "9112 3.2.1", b"?m"),
    _target("rl_target_backslash", "9112 3.2.1", b"\\m"),
    _target("rl_target_authority", "9112 3.2.3", b"t:80"),
    _target("rl_target_host", "9112 3.2.3", b"t"),
    _target("rl_target_asterisk_get", "9112 3.2.4", b"*"),
    _target("rl_target_asterisk_more", "9112 3.2.4", b"*/m"),
    _passed("rl_asterisk", "9112 3.2.4", b"OPTIONS * HTTP/1.1\r\n" + _HOST + _END),
    _passed("rl_asterisk_by_uri", "9112 3.2.4", b"OPTIONS http://t HTTP/1.1\r\n" + _HOST + _END,
            b"OPTIONS * HTTP/1.1\r\n" + _HOST + _END),
    _refused("connect", "9110 9.3.6", b"CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n", 501),
    _refused("connect_no_port", "9110 9.3.6", b"CONNECT t HTTP/1.1\r\n" + _HOST + _END, 501),
    _refused("connect_path", "9110 9.3.6", b"CONNECT /m HTTP/1.1\r\n" + _HOST + _END, 501),
    _refused("connect_body", "9110 9.3.6", b"CONNECT t:443 HTTP/1.1\r\n" + _HOST + _LENGTH + b"\r\nhello", 501),
)  # fmt: skip

_HOSTS = (
    _passed("host_empty", "9112 3.2", _LINE + b"Host:\r\n\r\n"),
    _passed("host_port", "9112 3.2", _LINE + b"Host: T.Example:8080\r\n\r\n"),
    _passed("host_ipv6", "9112 3.2", _LINE + b"Host: [2001:DB8::1]:80\r\n\r\n"),
    _refused("host_missing", "9112 3.2", _LINE + b"A: 1\r\n\r\n"),
    _refused("host_no_field", "9112 3.2", _LINE + _END),
    _refused("host_twice", "9112 3.2", _GET + b"Host: u\r\n\r\n"),
    _refused("host_twice_equal", "9112 3.2", _GET + b"host: t\r\n\r\n"),
    _refused("host_twice_empty", "9112 3.2", _LINE + b"Host:\r\n" + _HOST + _END),
    _refused("host_twice_10", "9112 3.2", b"GET /m HTTP/1.0\r\n" + _HOST + _HOST + _END),
    _host("host_two_words", b" t u"),
    _host("host_list", b" t, u"),
    _host("host_path", b" t/m"),
    _host("host_query", b" t?m"),
    _host("host_fragment", b" t#m"),
    _host("host_uri", b" http://t/"),
    _host("host_user", b" u@t"),
    _host("host_port_alone", b" :80"),
    _host("host_port_word", b" t:http"),
    _host("host_port_negative", b" t:-1"),
    _host("host_port_long", b" t:000080"),
    _host("host_two_ports", b" t:80:80"),
    _host("host_ipv6_bare", b" 2001:db8::1"),
    _host("host_ipv6_open", b" [2001:db8::1"),
    _host("host_ipv6_more", b" [::1]t"),
    _host("host_8bit", b" \xe9"),
    _host("host_quoted", b' "t"'),
    _host("host_percent", b" t%zz"),
    _host("host_vtab", b" t\x0b"),
    _host("host_nul", b" t\0u"),
    # RFC 9112 section 3.2.2: the target counts, and Host goes on as it says.
    _passed("absolute", "9112 3.2.2", b"GET http://t/m HTTP/1.1\r\n" + _HOST + _END, _GET + _END),
    _passed("absolute_differs", "9112 3.2.2", b"GET http://t/m HTTP/1.1\r\nA: 1\r\nHost: u\r\n\r\n",
            _GET + b"A: 1\r\n\r\n"),
    _passed("absolute_port", "9112 3.2.2", b"GET http://t:81/m HTTP/1.1\r\n" + _HOST + _END,
            _LINE + b"Host: t:81\r\n\r\n"),
    _passed("absolute_host_empty", "9112 3.2.2", b"GET http://t/m HTTP/1.1\r\nHost:\r\n\r\n", _GET + _END),
    _passed("absolute_no_path", "9112 3.2.2", b"GET HTTP://t HTTP/1.1\r\n" + _HOST + _END,
            b"GET / HTTP/1.1\r\n" + _HOST + _END),
    _passed("absolute_query", "9112 3.2.2", b"GET http://t?m HTTP/1.1\r\n" + _HOST + _END,
            b"GET /?m HTTP/1.1\r\n" + _HOST + _END),
    _passed("absolute_10", "9112 3.2.2", b"GET http://t/m HTTP/1.0\r\n\r\n", _GET + _END, closes=True),
    _passed("absolute_https", "9112 3.2.2", b"GET https://t/m HTTP/1.1\r\n" + _HOST + _END, _GET + _END),
    _refused("absolute_no_host_field", "9112 3.2", b"GET http://t/m HTTP/1.1\r\n\r\n"),
    _refused("absolute_two_host_fields", "9112 3.2", b"GET http://t/m HTTP/1.1\r\n" + _HOST + _HOST + _END),
    _target("absolute_no_authority", "9110 4.2.1", b"http:///m"),
    _target("absolute_user", "9110 4.2.4", b"http://u@t/m"),
    _target("absolute_two_ports", "9110 4.2.1", b"http://t:80:80/m"),
    _target("absolute_one_slash", "9112 3.2.2", b"http:/m"),
    _target("absolute_ftp", "9112 3.2.2", b"ftp://t/m"),
    _target("absolute_file", "9112 3.2.2", b"file:///m"),
    _target("absolute_backslash", "9112 3.2.2", b"http:\\\\t\\m"),
    _target("absolute_frag", "9112 3.2.2", b"http://t/m#f"),
)  # fmt: skip

_FIELDS = (
    _get("hdr_order", "9110 5.3", b"b:1\r\nA:  2 \r\nb:\t3\r\nc:\r\n"),
    _get("hdr_obstext", "9110 5.5", b"A: \xe9\xff\x80\xa0\x85\r\n"),
    _get("hdr_bad_utf8", "9110 5.5; bytes.decode", b"A: \xc3\x28\xed\xa0\x80\r\n"),
    _get("hdr_any_token", "9110 5.1", b"!#$%&'*+-.^_`|~09aZ: 1\r\n"),
    _get("hdr_name_300", "9110 5.1; CVE-2021-40346", b"n" * 300 + b": Content-Length: 9\r\n"),
    _get("hdr_name_40k", "9110 5.4; CVE-2021-40346", b"n" * 40000 + b": 1\r\n"),
    _get("hdr_line_40k", "9110 5.4; LimitOverrunError", b"A: " + b"v" * 40000 + b"\r\n"),
    _get("hdr_like_ours", "9110 5.1",
         b"XContent-Length: 5\r\nX-Host: u\r\nContent-Length-X: 5\r\nA: Content-Length: 5\r\n"),
    _get("hdr_underscore", "9110 5.1", b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\n"),
    _get("cookie_malformed", "6265 5.4; CVE-2019-14241", b"Cookie: ;=;;a;=b;,;\r\n"),
    _get("cookie_2000", "6265 5.4", b"Cookie: " + b"; ".join([b"c%d=v" % i for i in range(2000)]) + b"\r\n"),
    _get("xff_100", "9110 5.3; CVE-2013-2175", b"X-Forwarded-For: 192.0.2.1\r\n" * 100),
    _refused("hdr_line_70k", "9110 5.4; LimitOverrunError", _GET + b"A: " + b"v" * _LONG_HEAD + b"\r\n\r\n", 431),
    _refused("hdr_endless", "9110 5.4", _GET + b"A: " + b"v" * _LONG_HEAD, 431),
    _refused("hdr_many", "9110 5.4", _GET + b"A: 1\r\n" * _MANY + _END, 431),
    _refused("hdr_many_endless", "9110 5.4", _GET + b"A: 1\r\n" * (_LONG_HEAD // 6 + 1), 431),
    _field("hdr_space_colon", "9112 5.1", b"B : 2\r\n"),
    _field("hdr_tab_colon", "9112 5.1", b"B\t: 2\r\n"),
    _field("hdr_empty_name", "9112 5; CVE-2023-25725", b": 2\r\n"),
    _field("hdr_only_colon", "9112 5; CVE-2023-25725", b":\r\n"),
    _field("hdr_no_colon", "9112 5", b"B\r\n"),
    _field("hdr_space_name", "9110 5.1", b"B C: 2\r\n"),
    _field("hdr_8bit_name", "9110 5.1", b"B\xe9: 2\r\n"),
    _field("hdr_nul_name", "9110 5.1", b"B\0: 2\r\n"),
    _field("hdr_paren_name", "9110 5.1", b"B(: 2\r\n"),
    _field("hdr_quoted_name", "9110 5.1", b'"B": 2\r\n'),
    _field("hdr_slash_name", "9110 5.1", b"B/C: 2\r\n"),
    _field("hdr_nul", "9110 5.5; CVE-2019-19330", b"B: 2\x003\r\n"),
    _field("hdr_nul_last", "9110 5.5", b"B: 2\0\r\n"),
    _field("hdr_del", "9110 5.5", b"B: \x7f\r\n"),
    _field("hdr_ctl", "9110 5.5", b"B: \x01\r\n"),
    _field("hdr_bell", "9110 5.5", b"B: \x07\r\n"),
    _field("hdr_vtab", "9110 5.5; str.splitlines", b"B: \x0bTransfer-Encoding: chunked\r\n"),
    _field("hdr_ff", "9110 5.5; str.splitlines", b"B: \x0cTransfer-Encoding: chunked\r\n"),
    _field("hdr_fs", "9110 5.5; str.splitlines", b"B: \x1cTransfer-Encoding: chunked\r\n"),
    _field("hdr_gs", "9110 5.5; str.splitlines", b"B: \x1dTransfer-Encoding: chunked\r\n"),
    _field("hdr_rs", "9110 5.5; str.splitlines", b"B: \x1eTransfer-Encoding: chunked\r\n"),
    _field("hdr_esc", "9110 5.5", b"B: \x1b[2J\r\n"),
    _field("fold_space", "9112 5.2", b"B: 2\r\n 3\r\n"),
    _field("fold_tab", "9112 5.2", b"B: 2\r\n\t3\r\n"),
    _field("fold_nothing", "9112 5.2", b"B: 2\r\n \r\n"),
    _field("fold_empty_value", "9112 5.2", b"B:\r\n 2\r\n"),
    _field("fold_looks_like_field", "9112 5.2", b"B: 2\r\n Transfer-Encoding: chunked\r\n"),
    _refused("fold_host", "9112 5.2", _LINE + b"Host:\r\n t\r\n\r\n"),
    _refused("fold_coding", "9112 5.2", _POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + _FIVE),
    _refused("fold_coding_value", "9112 5.2", _POST + b"Transfer-Encoding: chunked\r\n , identity\r\n\r\n" + _FIVE),
    _refused("fold_length", "9112 5.2", _POST + b"Content-Length: 5\r\n 0\r\n\r\nhello"),
)  # fmt: skip

_LENGTHS = (
    _passed("cl", "9110 8.6", _POST + _LENGTH + b"\r\nhello"),
    _passed("cl_zero", "9110 8.6", _POST + b"Content-Length: 0\r\n\r\n"),
    _passed("cl_get", "9110 9.3.1", _GET + _LENGTH + b"\r\nhello"),
    _passed("cl_no_space", "9110 5.5", _POST + b"content-length:5\r\n\r\nhello"),
    _passed("cl_spaces", "9110 5.5", _POST + b"Content-Length:\t 5 \t\r\n\r\nhello", _POST + _LENGTH + b"\r\nhello"),
    _passed("cl_leading_zeros", "9110 8.6", _POST + b"Content-Length: 005\r\n\r\nhello",
            _POST + _LENGTH + b"\r\nhello"),
    _passed("cl_many_zeros", "9110 8.6", _POST + b"Content-Length: " + b"0" * 99 + b"5\r\n\r\nhello",
            _POST + _LENGTH + b"\r\nhello"),
    _passed("cl_twice_equal", "9110 8.6", _POST + _LENGTH + b"A: 1\r\n" + _LENGTH + b"\r\nhello",
            _POST + b"A: 1\r\n" + _LENGTH + b"\r\nhello"),
    _passed("cl_list_equal", "9110 8.6", _POST + b"Content-Length: 5, 5\r\n\r\nhello", _POST + _LENGTH + b"\r\nhello"),
    _passed("cl_hop_by_hop", "9110 7.6.1", _POST + b"Connection: content-length\r\n" + _LENGTH + b"\r\nhello",
            _POST + _LENGTH + b"\r\nhello"),
    _length("cl_empty", b""),
    _length("cl_spaces_alone", b"  \t "),
    _length("cl_negative", b" -5"),
    _length("cl_plus", b" +5", "9112 6.3; int"),
    _length("cl_hex", b" 0x5", "9112 6.3; int"),
    _length("cl_hex_letters", b" a", "9112 6.3"),
    _length("cl_underscore", b" 0_5", "9112 6.3; int"),
    _length("cl_fraction", b" 5.0"),
    _length("cl_exponent", b" 5e0"),
    _length("cl_two_words", b" 5 5"),
    _length("cl_semicolon", b" 5;"),
    _length("cl_quoted", b' "5"'),
    _length("cl_word", b" five"),
    _length("cl_vtab", b" \x0b5", "9112 6.3; str.strip"),
    _length("cl_ff", b" 5\x0c", "9112 6.3; str.strip"),
    _length("cl_nul", b" 5\0"),
    _length("cl_nbsp", b" \xa05", "9112 6.3; str.strip"),
    _length("cl_nel", b" 5\x85", "9112 6.3; str.strip"),
    _length("cl_superscript", b" \xb2", "9112 6.3; str.isdigit"),
    _length("cl_arabic", b" \xd9\xa5", "9112 6.3; int"),
    _length("cl_full_width", b" \xef\xbc\x95", "9112 6.3; int"),
    _length("cl_19_digits", b" 1000000000000000000", "9110 8.6"),
    _length("cl_2_63", b" 9223372036854775813", "9110 8.6"),
    _length("cl_2_64", b" 18446744073709551621", "9110 8.6"),
    _length("cl_huge_digits", b" " + b"9" * 5000, "9110 8.6; int"),
    _length("cl_list_differs", b" 5, 6"),
    _length("cl_list_hole", b" 5,,5"),
    _length("cl_list_comma_last", b" 5,"),
    _length("cl_list_comma_first", b" ,5"),
    _length("cl_list_bad", b" 5, x"),
    _refused("cl_twice_differs", "9112 6.3", _POST + _LENGTH + b"Content-Length: 6\r\n\r\nhello!"),
    _refused("cl_zero_and_length", "9112 6.3", _POST + b"Content-Length: 0\r\n" + _LENGTH + b"\r\nhello"),
    _refused("cl_empty_then_value", "9112 6.3; CVE-2023-40225",
             _POST + b"Content-Length:\r\n" + _LENGTH + b"\r\nhello"),
    _refused("cl_value_then_empty", "9112 6.3; CVE-2023-40225", _POST + _LENGTH + b"Content-Length:\r\n\r\nhello"),
    _refused("cl_space_colon", "9112 5.1", _POST + b"Content-Length : 5\r\n\r\nhello"),
    _refused("cl_with_chunked", "9112 6.3", _POST + _LENGTH + _CHUNKED + _END + _FIVE),
    _refused("cl_after_chunked", "9112 6.3", _POST + _CHUNKED + b"Content-Length: 0\r\n\r\n" + _FIVE),
    _refused("cl_with_unknown_coding", "9112 6.3", _POST + _LENGTH + b"Transfer-Encoding: x\r\n\r\nhello"),
    Row(name="cl_short", clause="9112 8", octets=_POST + b"Content-Length: 6\r\n\r\nhello", fate=Fate.CUT,
        passed=_POST + b"Content-Length: 6\r\n\r\nhello", ends=True),
)  # fmt: skip

_CODINGS = (
    _chunks_passed("te", "9112 6.1", _FIVE),
    _passed("te_get", "9110 9.3.1", _GET + _CHUNKED + _END + _FIVE),
    _passed("te_upper", "9112 7", _POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + _FIVE,
            _POST + _CHUNKED + _END + _FIVE),
    _passed("te_odd_case", "9112 7", _POST + b"Transfer-Encoding: cHuNkEd\r\nA: 1\r\n\r\n" + _FIVE,
            _POST + b"A: 1\r\n" + _CHUNKED + _END + _FIVE),
    _passed("te_spaces", "9110 5.5", _POST + b"Transfer-Encoding:\t chunked \r\n\r\n" + _FIVE,
            _POST + _CHUNKED + _END + _FIVE),
    _passed("te_hop_by_hop", "9110 7.6.1", _POST + b"Connection: transfer-encoding\r\n" + _CHUNKED + _END + _FIVE,
            _POST + _CHUNKED + _END + _FIVE),
    _coding("te_gzip_chunked", "9112 6.1", b"Transfer-Encoding: gzip, chunked\r\n", 501),
    _coding("te_unknown_chunked", "9112 6.1", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", 501),
    _coding("te_unknown", "9112 6.3", b"Transfer-Encoding: x\r\n"),
    _coding("te_gzip", "9112 6.3", b"Transfer-Encoding: gzip\r\n"),
    _coding("te_identity", "9112 6.3", b"Transfer-Encoding: identity\r\n"),
    _coding("te_xchunked", "9112 6.3", b"Transfer-Encoding: xchunked\r\n"),
    _coding("te_chunked_first", "9112 6.3", b"Transfer-Encoding: chunked, gzip\r\n"),
    _coding("te_chunked_identity", "9112 6.3", b"Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n"),
    _coding("te_identity_chunked", "9112 6.1", b"Transfer-Encoding: identity\r\nTransfer-encoding: chunked\r\n", 501),
    _coding("te_chunked_x", "9112 6.3", b"Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n"),
    _coding("te_chunked_twice", "9112 7.1", b"Transfer-Encoding: chunked, chunked\r\n"),
    _coding("te_chunked_two_lines", "9112 7.1", _CHUNKED + _CHUNKED),
    _coding("te_chunked_around", "9112 7.1", b"Transfer-Encoding: chunked, gzip, chunked\r\n"),
    _coding("te_quoted", "9112 7", b'Transfer-Encoding: "chunked"\r\n'),
    _coding("te_single_quoted", "9112 6.3", b"Transfer-Encoding: 'chunked'\r\n"),
    _coding("te_parameter", "9112 7", b"Transfer-Encoding: chunked;q=1\r\n"),
    _coding("te_semicolon", "9112 7", b"Transfer-Encoding: chunked;\r\n"),
    _coding("te_two_words", "9112 7", b"Transfer-Encoding: chunked identity\r\n"),
    _coding("te_empty", "9112 7", b"Transfer-Encoding:\r\n"),
    _coding("te_comma", "9112 7", b"Transfer-Encoding: ,\r\n"),
    _coding("te_comma_first", "9112 7", b"Transfer-Encoding: ,chunked\r\n"),
    _coding("te_comma_last", "9112 7", b"Transfer-Encoding: chunked,\r\n"),
    _coding("te_empty_line_too", "9112 7", b"Transfer-Encoding:\r\n" + _CHUNKED),
    _coding("te_vtab", "9112 7; CVE-2019-18277", b"Transfer-Encoding: \x0bchunked\r\n" + _LENGTH),
    _coding("te_ff", "9112 7; str.strip", b"Transfer-Encoding: chunked\x0c\r\n"),
    _coding("te_nul", "9112 7", b"Transfer-Encoding: chunked\0\r\n"),
    _coding("te_nbsp", "9112 7; str.strip", b"Transfer-Encoding: \xa0chunked\r\n"),
    _coding("te_nel", "9112 7; str.strip", b"Transfer-Encoding: chunked\x85\r\n"),
    _coding("te_8bit", "9112 7", b"Transfer-Encoding: chun\xe9ked\r\n"),
    _coding("te_space_colon", "9112 5.1", b"Transfer-Encoding : chunked\r\n"),
    _coding("te_space_colon_length", "9112 5.1", _LENGTH + b"Transfer-Encoding\t: chunked\r\n"),
    _coding("te_space_first", "9112 5.2", b"A: 1\r\n Transfer-Encoding: chunked\r\n"),
    _refused("te_10", "9112 6.1", b"POST /m HTTP/1.0\r\n" + _HOST + _CHUNKED + _END + _FIVE),
    _refused("te_10_keep_alive", "9112 6.1",
             b"POST /m HTTP/1.0\r\n" + _HOST + b"Connection: keep-alive\r\n" + _CHUNKED + _END + _FIVE),
    _refused("te_10_length", "9112 6.1", b"POST /m HTTP/1.0\r\n" + _HOST + _LENGTH + _CHUNKED + _END + _FIVE),
    # RFC 9112 section 7.4: TE is for this hop alone.
    _get("te_field", "9110 10.1.4", b"Connection: TE\r\nTE: trailers, gzip;q=0.5\r\n", b""),
    _get("te_field_chunked", "9110 10.1.4", b"TE: chunked\r\n", b""),
)  # fmt: skip

_BODIES = (
    # RFC 9112 section 7.1.1: extensions are for this hop alone.
    _chunks_passed("chunk_ext", "9112 7.1.1", b"5;a\r\nhello\r\n0\r\n\r\n", _FIVE),
    _chunks_passed("chunk_ext_value", "9112 7.1.1", b"5;a=b;c=d\r\nhello\r\n0;e\r\n\r\n", _FIVE),
    _chunks_passed("chunk_ext_quoted", "9112 7.1.1", b'5;a="b;\\"c"\r\nhello\r\n0\r\n\r\n', _FIVE),
    _chunks_passed("chunk_ext_spaces", "9112 7.1.1", b"5 ; a = b \r\nhello\r\n0\r\n\r\n", _FIVE),
    _chunks_passed("chunk_ext_1000", "9112 7.1.1", b"5;" + b"a" * 1000 + b"\r\nhello\r\n0\r\n\r\n", _FIVE),
    _chunks("chunk_ext_long", "9112 7.1.1", b"5;" + b"a" * 1100 + b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_endless", "9112 7.1.1", b"5;" + b"a" * 20000),
    _chunks("chunk_ext_flood", "9112 7.1.1", (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 20, b"1\r\nx\r\n" * 16),
    _chunks("chunk_ext_lf", "9112 7.1.1", b"5;a\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_lf_inside", "9112 7.1.1", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_cr", "9112 7.1.1", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_nul", "9112 7.1.1", b"5;a\0\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_quoted_crlf", "9112 7.1.1", b'5;a="\r\nhello\r\n0\r\n\r\n"'),
    _chunks("chunk_ext_quote_open", "9112 7.1.1", b'5;a="b\r\nhello\r\n0\r\n\r\n'),
    _chunks("chunk_ext_no_name", "9112 7.1.1", b"5;\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_no_value", "9112 7.1.1", b"5;a=\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_no_semicolon", "9112 7.1.1", b"5 a\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ext_comma", "9112 7.1.1", b"5,5\r\nhello\r\n0\r\n\r\n"),
    _chunks_passed("chunk_several", "9112 7.1", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    _chunks_passed("chunk_hex_case", "9112 7.1", b"A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n"),
    _chunks_passed("chunk_zeros", "9112 7.1", b"0" * 99 + b"5\r\nhello\r\n" + b"0" * 20 + b"\r\n\r\n", _FIVE),
    _chunks_passed("chunk_spaces_last", "9112 7.1", b"5  \r\nhello\r\n0\t\r\n\r\n", _FIVE),
    _chunks_passed("chunk_like_chunks", "9112 7.1", b"e\r\n0\r\n\r\nGET / HTT\r\n0\r\n\r\n"),
    _chunks("chunk_space_first", "9112 7.1; int", b" 5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_tab_first", "9112 7.1; int", b"\t5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_plus", "9112 7.1; int", b"+5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_minus", "9112 7.1; int", b"-5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_0x", "9112 7.1; int", b"0x5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_0x_upper", "9112 7.1; int", b"0X5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_underscore", "9112 7.1; int", b"0_5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_two_sizes", "9112 7.1", b"5 5\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_letter", "9112 7.1", b"5g\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_empty", "9112 7.1", b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_semicolon_alone", "9112 7.1", b";\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_quoted", "9112 7.1", b'"5"\r\nhello\r\n0\r\n\r\n'),
    _chunks("chunk_vtab", "9112 7.1; int", b"5\x0b\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_ff", "9112 7.1; int", b"5\x0c\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_nul", "9112 7.1", b"5\0\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_nbsp", "9112 7.1; int", b"5\xa0\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_full_width", "9112 7.1; int", b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_16_digits", "9112 7.1", b"1000000000000005\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_2_63", "9112 7.1", b"8000000000000005\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_2_64", "9112 7.1", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_huge_digits", "9112 7.1; int", b"f" * 5000 + b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_lf_size", "9112 2.2", b"5\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_cr_size", "9112 2.2", b"5\rhello\r\n0\r\n\r\n"),
    _chunks("chunk_cr_cr_lf", "9112 2.2", b"5\r\r\nhello\r\n0\r\n\r\n"),
    _chunks("chunk_lf_data", "9112 7.1", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello"),
    _chunks("chunk_cr_data", "9112 7.1", b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello"),
    _chunks("chunk_no_crlf", "9112 7.1", b"5\r\nhello0\r\n\r\n", b"5\r\nhello"),
    _chunks("chunk_two_octets", "9112 7.1", b"5\r\nhelloXX0\r\n\r\n", b"5\r\nhello"),
    _chunks("chunk_too_long", "9112 7.1", b"4\r\nhello\r\n0\r\n\r\n", b"4\r\nhell"),
    _chunks("chunk_too_short", "9112 7.1", b"6\r\nhello\r\n0\r\n\r\n", b"6\r\nhello\r"),
    _chunks("chunk_lf_end", "9112 7.1", b"5\r\nhello\r\n0\n\n", b"5\r\nhello\r\n"),
    _chunks("chunk_lf_last", "9112 7.1.2", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\n"),
    _chunks("chunk_after_end", "9112 7.1.2", b"5\r\nhello\r\n0\r\nGET /n HTTP/1.1\r\nA: 1\r\n\r\n",
            b"5\r\nhello\r\n0\r\n"),
    Row(name="chunk_unfinished", clause="9112 8", octets=_POST + _CHUNKED + b"\r\n5\r\nhello\r\n", fate=Fate.CUT,
        passed=_POST + _CHUNKED + b"\r\n5\r\nhello\r\n", ends=True),
    # Trailers: RFC 9112 section 7.1.2, RFC 9110 section 6.5.
    _chunks_passed("trl", "9112 7.1.2", b"5\r\nhello\r\n0\r\nA: 1\r\nb:\r\n\r\n"),
    _chunks_passed("trl_framing", "9110 6.5.1",
                   b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nA: 1\r\nTRANSFER-ENCODING: x\r\n\r\n",
                   b"5\r\nhello\r\n0\r\nA: 1\r\n\r\n"),
    _chunks_passed("trl_routing", "9110 6.5.1",
                   b"0\r\nHost: u\r\nCookie: a=b\r\nExpect: x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
                   b"0\r\n\r\n"),
    _chunks_passed("trl_connection", "9110 6.5.1",
                   b"0\r\nConnection: close\r\nUpgrade: h2c\r\nTE: x\r\nKeep-Alive: 1\r\n\r\n",
                   b"0\r\n\r\n"),
    _chunks_passed("trl_authorization", "9110 6.5.1", b"0\r\nAuthorization: Basic YTpi\r\nX-Sum: 1\r\n\r\n",
                   b"0\r\nX-Sum: 1\r\n\r\n"),
    _chunks("trl_no_colon", "9112 7.1.2", b"0\r\nA\r\n\r\n", b"0\r\n"),
    _chunks("trl_space_colon", "9112 5.1", b"0\r\nA : 1\r\n\r\n", b"0\r\n"),
    _chunks("trl_empty_name", "9112 5", b"0\r\n: 1\r\n\r\n", b"0\r\n"),
    _chunks("trl_fold", "9112 5.2", b"0\r\nA: 1\r\n 2\r\n\r\n", b"0\r\n"),
    _chunks("trl_space_first", "9112 5.2", b"0\r\n A: 1\r\n\r\n", b"0\r\n"),
    _chunks("trl_nul", "9110 5.5", b"0\r\nA: \0\r\n\r\n", b"0\r\n"),
    _chunks("trl_lf", "9112 2.2", b"0\r\nA: 1\nB: 2\r\n\r\n", b"0\r\n"),
    _chunks("trl_lf_end", "9112 2.2", b"0\r\nA: 1\n\r\n\r\n", b"0\r\n"),
    _chunks("trl_cr", "9112 2.2", b"0\r\nA: 1\rB: 2\r\n\r\n", b"0\r\n"),
    _chunks("trl_8bit_name", "9110 5.1", b"0\r\nA\xe9: 1\r\n\r\n", b"0\r\n"),
    _chunks("trl_long", "9110 5.4", b"0\r\nA: " + b"v" * 9000 + b"\r\n\r\n", b"0\r\n"),
    _chunks("trl_endless", "9110 5.4", b"0\r\n" + b"A: 1\r\n" * 2000, b"0\r\n"),
)  # fmt: skip

_HOPS = (
    _get("conn_close", "9112 9.6", b"Connection: close\r\n", b"", closes=True),
    _get("conn_close_list", "9112 9.6", b"Connection: , x,CLOSE \r\n", b"", closes=True),
    _get("conn_close_two_lines", "9112 9.6", b"Connection: x\r\nA: 1\r\nConnection:close\r\n", b"A: 1\r\n",
         closes=True),
    _get("conn_keep_alive", "9112 9.3", b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n", b""),
    _get("conn_named", "9110 7.6.1", b"A: 1\r\nX-Hop: 1\r\nConnection: x-hop, X-None\r\nx-hop:2\r\n", b"A: 1\r\n"),
    _get("conn_host", "9110 7.6.1", b"Connection: host, expect\r\n", b""),
    _get("conn_quoted", "9110 7.6.1", b'Connection: "close", \xe9\r\n', b""),
    _get("conn_proxy", "9112 9.3; C.2.2", b"Proxy-Connection: close\r\n", b""),
    _passed("conn_keep_alive_10", "9112 9.3", b"GET /m HTTP/1.0\r\n" + _HOST + b"Connection: keep-alive\r\n\r\n",
            _GET + _END, closes=True),
    _get("upgrade_not_asked", "9110 7.8", b"Upgrade: websocket\r\n", b""),
    _get("upgrade_h2c", "9113 3.1",
         b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", b""),
    _get("upgrade_h2c_list", "9113 3.1", b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", b""),
    _get("upgrade", "9110 7.8", b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Upgrade: x\r\nconnection: upgrade\r\n"),
    _passed("upgrade_10", "9110 7.8", b"GET /m HTTP/1.0\r\n" + _HOST + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n",
            _GET + _END, closes=True),
    _passed("upgrade_body", "9110 7.8", _POST + b"Connection: upgrade\r\nUpgrade: x\r\n" + _LENGTH + b"\r\nhello",
            _POST + _LENGTH + b"\r\nhello"),
    _passed("upgrade_body_chunked", "9110 7.8",
            _POST + b"Connection: upgrade\r\nUpgrade: x\r\n" + _CHUNKED + _END + _FIVE,
            _POST + _CHUNKED + _END + _FIVE),
    _passed("expect", "9110 10.1.1", _POST + b"Expect: 100-continue\r\n" + _LENGTH + b"\r\nhello"),
    _passed("expect_case", "9110 10.1.1", _POST + b"expect: 100-Continue\r\n" + _CHUNKED + _END + _FIVE),
    _passed("expect_no_body", "9110 10.1.1", _GET + b"Expect: 100-continue\r\n\r\n"),
    _passed("expect_unknown", "9110 10.1.1", _POST + b"Expect: x\r\n" + _LENGTH + b"\r\nhello"),
    _passed("expect_10", "9110 10.1.1",
            b"POST /m HTTP/1.0\r\n" + _HOST + b"Expect: 100-continue\r\n" + _LENGTH + b"\r\nhello",
            _POST + _LENGTH + b"\r\nhello", closes=True),
    _passed("max_forwards", "9110 7.6.2", b"OPTIONS /m HTTP/1.1\r\n" + _HOST + b"Max-Forwards: 10\r\nA: 1\r\n\r\n",
            b"OPTIONS /m HTTP/1.1\r\n" + _HOST + b"A: 1\r\nMax-Forwards: 9\r\n\r\n"),
    _passed("max_forwards_trace", "9110 7.6.2", b"TRACE /m HTTP/1.1\r\n" + _HOST + b"max-forwards:1\r\n\r\n",
            b"TRACE /m HTTP/1.1\r\n" + _HOST + b"Max-Forwards: 0\r\n\r\n"),
    _refused("max_forwards_0", "9110 7.6.2", b"OPTIONS /m HTTP/1.1\r\n" + _HOST + b"Max-Forwards: 0\r\n\r\n", 501),
    _refused("max_forwards_0_trace", "9110 7.6.2", b"TRACE /m HTTP/1.1\r\n" + _HOST + b"Max-Forwards: 00\r\n\r\n", 501),
    _refused("max_forwards_bad", "9110 7.6.2", b"OPTIONS /m HTTP/1.1\r\n" + _HOST + b"Max-Forwards: -1\r\n\r\n"),
    _refused("max_forwards_twice", "9110 7.6.2",
             b"TRACE /m HTTP/1.1\r\n" + _HOST + b"Max-Forwards: 5\r\nMax-Forwards: 6\r\n\r\n"),
    _get("max_forwards_get", "9110 7.6.2", b"Max-Forwards: 0\r\n"),
)  # fmt: skip

REQUESTS: tuple[Row, ...] = (
    *_LINES,
    *_REQUEST_LINES,
    *_HOSTS,
    *_FIELDS,
    *_LENGTHS,
    *_CODINGS,
    *_BODIES,
    *_HOPS,
)
"""As clients send them."""


def _bad(name: str, clause: str, octets: bytes, passed: bytes = b"", *, ends: bool = False) -> Row:
    return Row(name=name, clause=clause, octets=octets, fate=Fate.REFUSED, status=502, passed=passed, ends=ends)


def _good(
    name: str, clause: str, octets: bytes, passed: bytes | None = None, *,
    closes: bool = False, method: bytes = b"GET", ends: bool = False,
) -> Row:  # fmt: skip
    passed = octets if passed is None else passed
    return Row(
        name=name,
        clause=clause,
        octets=octets,
        fate=Fate.PASSED,
        passed=passed,
        closes=closes,
        method=method,
        ends=ends,
    )


def _broken(name: str, clause: str, octets: bytes, passed: bytes, *, ends: bool = False) -> Row:
    return Row(name=name, clause=clause, octets=octets, fate=Fate.CUT, passed=passed, ends=ends)


def _bad_line(name: str, clause: str, line: bytes) -> Row:
    return _bad(name, clause, line + b"Content-Length: 2\r\n\r\nok")


def _bad_field(name: str, clause: str, line: bytes) -> Row:
    return _bad(name, clause, _OK + b"A: 1\r\n" + line + b"Content-Length: 2\r\n\r\nok")


def _bad_length(name: str, value: bytes, clause: str = "9112 6.3") -> Row:
    return _bad(name, clause, _OK + b"Content-Length:" + value + b"\r\n\r\nok")


def _bad_chunks(name: str, clause: str, body: bytes, passed: bytes = b"") -> Row:
    return _broken(name, clause, _OK + _CHUNKED + _END + body, _OK + _CHUNKED + _END + passed)


_TWO = b"Content-Length: 2\r\n"
_CHUNKS = b"2\r\nok\r\n0\r\n\r\n"

RESPONSES: tuple[Row, ...] = (
    # Status lines: RFC 9112 sections 2.2, 2.3 and 4.
    _good("r_ok", "9112 4", _OK + _TWO + b"\r\nok"),
    _good("r_no_reason", "9112 4", b"HTTP/1.1 200 \r\n" + _TWO + b"\r\nok"),
    _good("r_no_space", "9112 4", b"HTTP/1.1 200\r\n" + _TWO + b"\r\nok", b"HTTP/1.1 200 \r\n" + _TWO + b"\r\nok"),
    _good("r_reason_8bit", "9112 4", b"HTTP/1.1 200 \xe9\t!\r\n" + _TWO + b"\r\nok"),
    _good("r_status_299", "9110 15", b"HTTP/1.1 299 x\r\n" + _TWO + b"\r\nok"),
    _good("r_status_700", "9110 15", b"HTTP/1.1 700 x\r\n" + _TWO + b"\r\nok"),
    _good("r_ver_10", "9112 2.3", b"HTTP/1.0 200 OK\r\n" + _TWO + b"\r\nok", _OK + _TWO + b"\r\nok", closes=True),
    _good("r_ver_15", "9110 2.5", b"HTTP/1.5 200 OK\r\n" + _TWO + b"\r\nok", _OK + _TWO + b"\r\nok"),
    _bad_line("r_ver_20", "9110 2.5", b"HTTP/2.0 200 OK\r\n"),
    _bad_line("r_ver_2", "9112 2.3", b"HTTP/2 200\r\n"),
    _bad_line("r_ver_lower", "9112 2.3", b"http/1.1 200 OK\r\n"),
    _bad_line("r_ver_two_digits", "9112 2.3", b"HTTP/1.10 200 OK\r\n"),
    _bad_line("r_ver_icy", "9112 2.3", b"ICY 200 OK\r\n"),
    _bad("r_ver_09", "9112 2.3", b"<html>hello</html>", ends=True),
    _bad_line("r_status_2_digits", "9112 4", b"HTTP/1.1 20 OK\r\n"),
    _bad_line("r_status_4_digits", "9112 4", b"HTTP/1.1 2000 OK\r\n"),
    _bad_line("r_status_099", "9112 4", b"HTTP/1.1 099 OK\r\n"),
    _bad_line("r_status_negative", "9112 4", b"HTTP/1.1 -20 OK\r\n"),
    _bad_line("r_status_plus", "9112 4; int", b"HTTP/1.1 +20 OK\r\n"),
    _bad_line("r_status_super", "9112 4; str.isdigit", b"HTTP/1.1 20\xb2 OK\r\n"),
    _bad_line("r_status_word", "9112 4", b"HTTP/1.1 OK\r\n"),
    _bad_line("r_status_no_space_after", "9112 4", b"HTTP/1.1 200OK\r\n"),
    _bad_line("r_status_two_spaces", "9112 4", b"HTTP/1.1  200 OK\r\n"),
    _bad_line("r_status_tab", "9112 4", b"HTTP/1.1\t200 OK\r\n"),
    _bad_line("r_space_first", "9112 2.2", b" HTTP/1.1 200 OK\r\n"),
    _bad_line("r_empty_line_first", "9112 2.2", b"\r\nHTTP/1.1 200 OK\r\n"),
    _bad_line("r_reason_nul", "9112 4", b"HTTP/1.1 200 O\0K\r\n"),
    _bad_line("r_reason_cr", "9112 4", b"HTTP/1.1 200 O\rK\r\n"),
    _bad_line("r_lf_line", "9112 2.2", b"HTTP/1.1 200 OK\n"),
    _bad("r_lf_everywhere", "9112 2.2", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    _bad("r_text", "9112 2.2", b"SSH-2.0-OpenSSH_9.2\r\n"),
    _bad("r_tls_alert", "9112 2.2", b"\x15\x03\x01\x00\x02\x02\x28"),
    _bad("r_nothing_but_head", "9112 8", _OK + _TWO, ends=True),
    # Fields: RFC 9112 section 5.
    _good("r_hdr_obstext", "9110 5.5", _OK + b"A: \xe9\xff\x85\r\n" + _TWO + b"\r\nok"),
    _good("r_hdr_name_300", "9110 5.1; CVE-2021-40346", _OK + b"n" * 300 + b": 1\r\n" + _TWO + b"\r\nok"),
    _good("r_setcookie_bad", "6265 5.2; CVE-2022-0711",
          _OK + b"Set-Cookie2: =;;,\r\nSet-Cookie: ;=\r\nSet-Cookie:\r\n" + _TWO + b"\r\nok"),
    _good("r_hdr_space_colon", "9112 5.1", _OK + b"A : 1\r\nb\t :2\r\n" + _TWO + b"\r\nok",
          _OK + b"A: 1\r\nb:2\r\n" + _TWO + b"\r\nok"),
    _good("r_cl_space_colon", "9112 5.1", _OK + b"Content-Length : 2\r\n\r\nok", _OK + _TWO + b"\r\nok"),
    _good("r_te_space_colon", "9112 5.1", _OK + b"Transfer-Encoding : chunked\r\n\r\n" + _CHUNKS,
          _OK + _CHUNKED + _END + _CHUNKS),
    _bad_field("r_hdr_empty_name", "9112 5; CVE-2023-25725", b": 2\r\n"),
    _bad_field("r_hdr_space_empty_name", "9112 5", b" : 2\r\n"),
    _bad_field("r_hdr_no_colon", "9112 5", b"B\r\n"),
    _bad_field("r_hdr_space_name", "9110 5.1", b"B C: 2\r\n"),
    _bad_field("r_hdr_8bit_name", "9110 5.1", b"B\xe9: 2\r\n"),
    _bad_field("r_hdr_nul", "9110 5.5", b"B: 2\0\r\n"),
    _bad_field("r_hdr_ctl", "9110 5.5", b"B: \x01\r\n"),
    _bad_field("r_hdr_fs", "9110 5.5; str.splitlines", b"B: \x1cSet-Cookie: a=b\r\n"),
    _bad_field("r_hdr_cr", "9112 2.2", b"B: 2\rSet-Cookie: a=b\r\n"),
    _bad_field("r_hdr_lf", "9112 2.2", b"B: 2\n"),
    _bad_field("r_fold", "9112 5.2", b"B: 2\r\n 3\r\n"),
    _bad_field("r_fold_tab", "9112 5.2", b"B: 2\r\n\tSet-Cookie: a=b\r\n"),
    _bad("r_fold_first", "9112 2.2", _OK + b" A: 1\r\n" + _TWO + b"\r\nok"),
    _bad("r_hdr_many", "9110 5.4", _OK + b"A: 1\r\n" * _MANY + _TWO + b"\r\nok"),
    _bad("r_hdr_70k", "9110 5.4", _OK + b"A: " + b"v" * _LONG_HEAD + b"\r\n" + _TWO + b"\r\nok"),
    _bad("r_hdr_endless", "9110 5.4", _OK + b"A: 1\r\n" * (_LONG_HEAD // 6 + 1)),
    _good("r_conn_named", "9110 7.6.1",
          _OK + b"X-Hop: 1\r\nConnection: x-hop, content-length\r\nKeep-Alive: 1\r\n" + _TWO + b"\r\nok",
          _OK + _TWO + b"\r\nok"),
    _good("r_conn_close", "9112 9.6", _OK + b"Connection: close\r\n" + _TWO + b"\r\nok",
          _OK + _TWO + b"\r\nok", closes=True),
    _good("r_conn_keep_alive_10", "9112 9.3", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + _TWO + b"\r\nok",
          _OK + _TWO + b"\r\nok"),
    _good("r_upgrade_offered", "9110 7.8", _OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\n" + _TWO + b"\r\nok",
          _OK + _TWO + b"\r\nok"),
    # Length: RFC 9112 section 6.3, RFC 9110 section 8.6.
    _good("r_cl_zero", "9110 8.6", _OK + b"Content-Length: 0\r\n\r\n"),
    _good("r_cl_twice_equal", "9110 8.6", _OK + _TWO + _TWO + b"\r\nok", _OK + _TWO + b"\r\nok"),
    _good("r_cl_list_equal", "9110 8.6", _OK + b"Content-Length: 2, 2\r\n\r\nok", _OK + _TWO + b"\r\nok"),
    _good("r_cl_zeros", "9110 8.6", _OK + b"Content-Length:\t" + b"0" * 30 + b"2 \r\n\r\nok", _OK + _TWO + b"\r\nok"),
    _good("r_none", "9112 6.3", _OK + b"\r\nok", _OK + b"connection: close\r\n\r\nok", closes=True, ends=True),
    _bad_length("r_cl_empty", b""),
    _bad_length("r_cl_negative", b" -2"),
    _bad_length("r_cl_plus", b" +2", "9112 6.3; int"),
    _bad_length("r_cl_hex", b" 0x2", "9112 6.3; int"),
    _bad_length("r_cl_underscore", b" 0_2", "9112 6.3; int"),
    _bad_length("r_cl_word", b" two"),
    _bad_length("r_cl_two_words", b" 2 2"),
    _bad_length("r_cl_superscript", b" \xb2", "9112 6.3; str.isdigit"),
    _bad_length("r_cl_nbsp", b" \xa02", "9112 6.3; str.strip"),
    _bad_length("r_cl_2_64", b" 18446744073709551618", "9110 8.6"),
    _bad_length("r_cl_huge_digits", b" " + b"9" * 5000, "9110 8.6; int"),
    _bad_length("r_cl_list_differs", b" 2, 3"),
    _bad_length("r_cl_list_hole", b" 2,,2"),
    _bad("r_cl_twice_differs", "9112 6.3", _OK + _TWO + b"Content-Length: 3\r\n\r\nok!"),
    _bad("r_cl_empty_then_value", "9112 6.3", _OK + b"Content-Length:\r\n" + _TWO + b"\r\nok"),
    _broken("r_cl_short", "9112 8", _OK + b"Content-Length: 3\r\n\r\nok", _OK + b"Content-Length: 3\r\n\r\nok",
            ends=True),
    # Coding: RFC 9112 sections 6.1, 6.3 and 7.
    _good("r_te", "9112 6.1", _OK + _CHUNKED + _END + _CHUNKS),
    _good("r_te_upper", "9112 7", _OK + b"transfer-encoding: CHUNKED\r\n\r\n" + _CHUNKS),
    _good("r_te_spaces", "9110 5.5", _OK + b"Transfer-Encoding:\tchunked \r\n\r\n" + _CHUNKS,
          _OK + _CHUNKED + _END + _CHUNKS),
    _good("r_te_with_length", "9112 6.3", _OK + b"Content-Length: 99\r\n" + _CHUNKED + _END + _CHUNKS,
          _OK + _CHUNKED + _END + _CHUNKS, closes=True),
    _bad("r_te_unknown", "9112 6.1", _OK + b"Transfer-Encoding: x\r\n\r\nok", ends=True),
    _bad("r_te_gzip_chunked", "9112 6.1", _OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNKS),
    _bad("r_te_identity", "9112 7", _OK + b"Transfer-Encoding: identity\r\n" + _TWO + b"\r\nok"),
    _bad("r_te_twice", "9112 7.1", _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + _CHUNKS),
    _bad("r_te_first", "9112 6.1", _OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + _CHUNKS),
    _bad("r_te_quoted", "9112 7", _OK + b'Transfer-Encoding: "chunked"\r\n\r\n' + _CHUNKS),
    _bad("r_te_parameter", "9112 7", _OK + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + _CHUNKS),
    _bad("r_te_empty", "9112 7", _OK + b"Transfer-Encoding:\r\n" + _TWO + b"\r\nok"),
    _bad("r_te_vtab", "9112 7; CVE-2019-18277", _OK + b"Transfer-Encoding: \x0bchunked\r\n" + _TWO + b"\r\nok"),
    _bad("r_te_nbsp", "9112 7; str.strip", _OK + b"Transfer-Encoding: \xa0chunked\r\n" + _TWO + b"\r\nok"),
    _bad("r_te_10", "9112 6.1", b"HTTP/1.0 200 OK\r\n" + _CHUNKED + _END + _CHUNKS, ends=True),
    # Chunks: RFC 9112 section 7.1.
    _good("r_chunk_ext", "9112 7.1.1", _OK + _CHUNKED + b'\r\n2 ;a="b;c"\r\nok\r\n0;z\r\n\r\n',
          _OK + _CHUNKED + _END + _CHUNKS),
    _good("r_chunk_spaces", "9112 7.1", _OK + _CHUNKED + b"\r\n2   \r\nok\r\n0  \r\n\r\n",
          _OK + _CHUNKED + _END + _CHUNKS),
    _good("r_chunk_zeros", "9112 7.1", _OK + _CHUNKED + b"\r\n" + b"0" * 30 + b"2\r\nok\r\n0\r\n\r\n",
          _OK + _CHUNKED + _END + _CHUNKS),
    _good("r_trl", "9110 6.5.1",
          _OK + _CHUNKED + b"\r\n2\r\nok\r\n0\r\nA: 1\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\n\r\n",
          _OK + _CHUNKED + b"\r\n2\r\nok\r\n0\r\nA: 1\r\n\r\n"),
    _bad_chunks("r_chunk_0x", "9112 7.1; int", b"0x2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_plus", "9112 7.1; int", b"+2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_minus", "9112 7.1; int", b"-2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_underscore", "9112 7.1; int", b"0_2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_2_64", "9112 7.1", b"10000000000000002\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_lf", "9112 2.2", b"2\nok\n0\n\n"),
    _bad_chunks("r_chunk_ext_lf", "9112 7.1.1", b"2;a\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_ext_long", "9112 7.1.1", b"2;" + b"a" * 1100 + b"\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("r_chunk_no_crlf", "9112 7.1", b"2\r\nok0\r\n\r\n", b"2\r\nok"),
    _bad_chunks("r_chunk_too_long", "9112 7.1", b"1\r\nok\r\n0\r\n\r\n", b"1\r\no"),
    _bad_chunks("r_trl_bad", "9112 7.1.2", b"2\r\nok\r\n0\r\nA\r\n\r\n", b"2\r\nok\r\n0\r\n"),
    _bad_chunks("r_trl_fold", "9112 5.2", b"2\r\nok\r\n0\r\nA: 1\r\n 2\r\n\r\n", b"2\r\nok\r\n0\r\n"),
    _broken("r_chunk_unfinished", "9112 8", _OK + _CHUNKED + b"\r\n2\r\nok\r\n",
            _OK + _CHUNKED + b"\r\n2\r\nok\r\n", ends=True),
    # No body: RFC 9112 section 6.3, rule 1. What comes in its place is nobody's.
    _good("r_head", "9112 6.3", _OK + b"Content-Length: 9\r\n\r\n", method=b"HEAD"),
    _good("r_head_chunked", "9112 6.3", _OK + _CHUNKED + _END, method=b"HEAD"),
    _good("r_head_body", "9112 6.3", _OK + _TWO + b"\r\nok", _OK + _TWO + _END, method=b"HEAD", closes=True),
    _good("r_204", "9110 15.3.5", b"HTTP/1.1 204 No Content\r\nA: 1\r\n\r\n"),
    _good("r_204_length_0", "9110 8.6", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
          b"HTTP/1.1 204 No Content\r\n\r\n"),
    _good("r_204_length", "9110 8.6", b"HTTP/1.1 204 No Content\r\n" + _TWO + b"\r\nok",
          b"HTTP/1.1 204 No Content\r\n\r\n", closes=True),
    _good("r_204_chunked", "9112 6.1", b"HTTP/1.1 204 No Content\r\n" + _CHUNKED + _END + _CHUNKS,
          b"HTTP/1.1 204 No Content\r\n\r\n", closes=True),
    _good("r_204_body", "9112 6.3", b"HTTP/1.1 204 No Content\r\n\r\nok", b"HTTP/1.1 204 No Content\r\n\r\n",
          closes=True),
    _good("r_304", "9110 15.4.5", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    _good("r_304_body", "9112 6.3", b"HTTP/1.1 304 Not Modified\r\n" + _TWO + b"\r\nok",
          b"HTTP/1.1 304 Not Modified\r\n" + _TWO + _END, closes=True),
    _good("r_304_chunked", "9112 6.3", b"HTTP/1.1 304 Not Modified\r\n" + _CHUNKED + _END),
    # More than one: RFC 9112 section 9.2.
    _good("r_twice", "9112 9.2", (_OK + _TWO + b"\r\nok") * 2, _OK + _TWO + b"\r\nok", closes=True),
    _good("r_cl_long", "9112 6.3", _OK + _TWO + b"\r\nokmore", _OK + _TWO + b"\r\nok", closes=True),
    _good("r_cl_0_body", "9112 6.3", _OK + b"Content-Length: 0\r\n\r\nok", _OK + b"Content-Length: 0\r\n\r\n",
          closes=True),
    _good("r_chunked_more", "9112 9.2", _OK + _CHUNKED + _END + _CHUNKS + b"\r\n",
          _OK + _CHUNKED + _END + _CHUNKS, closes=True),
    # Interim responses: RFC 9110 section 15.2.
    _good("r_100", "9110 15.2.1", b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + _TWO + b"\r\nok"),
    _good("r_103", "9110 15.2", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK + _TWO + b"\r\nok"),
    _good("r_1xx_many", "9110 15.2", b"HTTP/1.1 102 x\r\n\r\n" * 16 + _OK + _TWO + b"\r\nok"),
    _good("r_1xx_length", "9110 8.6", b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + _OK + _TWO + b"\r\nok",
          b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + _TWO + b"\r\nok"),
    _bad("r_1xx_flood", "9110 15.2", b"HTTP/1.1 100 Continue\r\n\r\n" * 500, b"HTTP/1.1 100 Continue\r\n\r\n" * 16),
    _bad("r_1xx_body", "9110 15.2", b"HTTP/1.1 100 Continue\r\n" + _TWO + b"\r\nok" + _OK + _TWO + b"\r\nok",
         b"HTTP/1.1 100 Continue\r\n\r\n"),
    _bad("r_1xx_alone", "9110 15.2", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", ends=True),
    _bad("r_101_unasked", "9110 15.2.2",
         b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx"),
    _bad("r_101_no_upgrade", "9110 15.2.2", b"HTTP/1.1 101 Switching Protocols\r\n\r\nx"),
)  # fmt: skip
"""As servers send them, each to a request of `method` without a body that has come whole."""
