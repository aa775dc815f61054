from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe.lines import Blank, capturing, format_haproxy
from balancer.observe.logformat import compile_format
from balancer.pool.records import Details, HttpRecord, TcpRecord, UdpRecord

NOW = 1_795_342_271.25
DETAILS = Details(
    request=(b"www.example.org", b'a"b|{c}#\xff\n'),
    response=(b"",),
    cookie=b"S=a b|",
    set_cookie=b"",
    frontend=("2001:db8::1", 80),
    server=("10.0.0.1", 8080),
)
HTTP = HttpRecord(
    client="2001:db8::7", client_port=33317, began=NOW, frontend="http-in", backend="static", server="srv1",
    tr_request=10, tw=1, tc=30, tr_response=69, ta=130, status=200, bytes_read=2750, termination="--VN",
    actconn=4, feconn=3, beconn=2, srvconn=1, retries=2, redispatched=True, srv_queue=5, backend_queue=6,
    request_line=b'GET /p/x?q="1" HTTP/1.1', request_id="id-1", details=DETAILS, bytes_in=77,
)  # fmt: skip
TCP = TcpRecord(
    client="10.0.1.2", client_port=33313, began=NOW, frontend="fnt", backend="bck", server="srv1",
    tw=1, tc=2, tt=5007, bytes_read=212, termination="--", actconn=4, feconn=3, beconn=2, srvconn=1,
    retries=3, redispatched=False, srv_queue=0, backend_queue=0, bytes_in=5,
)  # fmt: skip
BLANK = Blank(2, 1)


def line(text: str, record: HttpRecord | TcpRecord = HTTP) -> str:
    return compile_format(text, BLANK)(record)


HTTPLOG = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{+Q}r"
TCPLOG = "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq"


def test_the_usual_lines_are_formats_too() -> None:
    nameless = HTTP._replace(request_id="")
    assert line(HTTPLOG) == line(HTTPLOG, nameless) == capturing(BLANK)(nameless)
    assert line(TCPLOG, TCP) == format_haproxy(TCP)
    plain = nameless._replace(details=None)
    assert compile_format(HTTPLOG, Blank(0, 0))(plain) == format_haproxy(plain)
    assert capturing(BLANK)(HTTP._replace(request_line=b"", details=None)).endswith(' 5/6 "<BADREQ>"')
    assert capturing(BLANK)(HTTP).endswith(
        " 200 2750 S=a#20b#7C - --VN 4/3/2/1/+2 5/6 {www.example.org|a#22b#7C#7Bc#7D#23#FF#0A|id-1} {} "
        '"GET /p/x?q=#221#22 HTTP/1.1"'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("%fi %fp %si %sp %U %ID", "2001:db8::1 80 10.0.0.1 8080 77 id-1"),
        ("%HM %HU %HP %HPO %HQ %HV", "GET /p/x?q=#221#22 /p/x /p/x ?q=#221#22 HTTP/1.1"),
        ("%Td %Tt %Tq %rc %H", "20 130 10 +2 lb1"),
        ("%T %Ts %ms", "22/Nov/2026:10:11:11 +0000 1795342271 250"),
        ("%hrl", "www.example.org a#22b#7C#7Bc#7D#23#FF#0A"),
        ("%{+Q}hrl|%{+Q}hsl|%hsl", '"www.example.org" "a#22b#7C#7Bc#7D#23#FF#0A"|""|-'),
        ("%{+Q}o %ST %ts  %tsc %rc %b", '200 -- --VN +2 "static"'),
        ("%{+Q}hs %hs", '"{}" {}'),
        ("%pid", str(os.getpid())),
        ("100%%", "100%"),
    ],
)  # fmt: skip
def test_what_each_variable_stands_for(text: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lb1")
    assert line(text) == written


def test_what_is_not_there_is_a_dash_or_empty_quotes() -> None:
    unread = HTTP._replace(request_line=b"", details=None, request_id="", tr_response=-1, server="")
    text = "%ID %{+Q}ID %fi %CC %hr %hs %HM %HU %HP %HQ %{+Q}r %Td %s %hrl"
    assert line(text, unread) == '- "" - - <BADREQ> <BADREQ> <BADREQ> <BADREQ> "<BADREQ>" -1 <NOSRV>'
    assert line(text, HTTP._replace(details=None)).split(" ")[4:6] == ["{|}", "{}"]
    assert compile_format("%s %hr %hs %b", Blank(0, 0))(HTTP) == "srv1 static"
    assert line("%Td", TCP._replace(tc=-1)) == "-1"
    assert line("%HQ|%{+Q}HQ", HTTP._replace(request_line=b"GET / HTTP/1.1")) == '|""'
    assert line("%HPO", HTTP._replace(request_line=b"GET http://h/p?q HTTP/1.1")) == "/p"
    assert line("%HPO", HTTP._replace(request_line=b"GET http://h HTTP/1.1")) == "/"


def test_escaped_text_may_stand_in_rfc_5424s_structured_data() -> None:
    assert line("%{+Q,+E}HU", HTTP._replace(request_line=b"GET /[a]\\ HTTP/1.1")) == '"/[a\\]\\\\"'


def test_datagrams_have_their_own_line() -> None:
    udp = UdpRecord("10.0.0.1", 53, NOW, "dns", "names", "ns", 2, 40, 120, "--", 0, "a. A")
    assert compile_format("%ci", BLANK)(udp) == format_haproxy(udp)


@given(st.lists(st.binary(max_size=40), min_size=4, max_size=4), st.binary(max_size=60))
def test_nobody_writes_lines_of_his_own(values: list[bytes], request: bytes) -> None:
    details = DETAILS._replace(request=tuple(values[:2]), cookie=values[2], set_cookie=values[3])
    record = HTTP._replace(request_line=b"GET " + request, details=details)
    for text in (capturing(BLANK)(record), line("%{+Q}r %CC %CS %hr %{+Q}hrl %HU %HP", record)):
        assert text.isascii() and text.isprintable()
    usual = capturing(BLANK)(record)
    head, _, rest = usual.partition('"')
    assert rest.index('"') == len(rest) - 1
    assert head.count("{") == head.count("}") == 2
    assert head.count("|") == 2
