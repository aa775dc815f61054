from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe import lines
from balancer.observe.lines import format_haproxy, format_json
from balancer.pool.records import Details, FlowRecord, HttpRecord, Record, TcpRecord, UdpRecord

GOLDEN = Path(__file__).parent / "golden"
BEGAN = 1_795_342_271.123456  # 22 Nov 2026 10:11:11.123 UTC

HTTP = HttpRecord(
    client="10.0.1.2", client_port=33317, began=BEGAN, frontend="http-in", backend="static", server="srv1",
    tr_request=10, tw=0, tc=30, tr_response=69, ta=109, status=200, bytes_read=2750, termination="--VN",
    actconn=4, feconn=3, beconn=2, srvconn=1, retries=0, redispatched=False, srv_queue=0, backend_queue=0,
    request_line=b"GET /index.html HTTP/1.1",
)  # fmt: skip
TCP = TcpRecord(
    client="2001:db8::1", client_port=33313, began=BEGAN, frontend="fnt", backend="bck", server="srv1",
    tw=0, tc=0, tt=5007, bytes_read=212, termination="--",
    actconn=4, feconn=3, beconn=2, srvconn=1, retries=3, redispatched=False, srv_queue=0, backend_queue=0,
)  # fmt: skip
UDP = UdpRecord(
    client="10.0.1.2", client_port=5353, began=BEGAN, frontend="dns", backend="dns-servers", server="cluster5",
    tt=2, bytes_in=40, bytes_out=120, termination="--", retries=0, query="www.lab.local. A",
)  # fmt: skip
FLOW = FlowRecord(
    client="10.0.1.2", client_port=33313, began=BEGAN, frontend="fnt", backend="bck", server="srv1", protocol="tcp",
    is_end=True, tc=0, tt=5007, bytes_in=1372, bytes_out=212, packets_in=7, packets_out=3, termination="--",
    actconn=4, feconn=3, beconn=2, srvconn=1,
    service="192.0.2.200", service_port=80, server_address="10.0.100.2", server_port=8080,
)  # fmt: skip
RECORDS: tuple[Record, ...] = (
    HTTP,
    HTTP._replace(redispatched=True, retries=2, termination="--DI", server="srv2"),
    HTTP._replace(backend="", server="<NOSRV>", tr_request=-1, tw=-1, tc=-1, tr_response=-1, ta=2, status=400,
                  bytes_read=187, termination="PR--", request_line=b"", why="no colon in a header line"),
    HTTP._replace(server="", tc=-1, tr_response=-1, status=503, termination="SC--"),
    HTTP._replace(status=-1, bytes_read=0, termination="CD--", client="unix", client_port=1),
    HTTP._replace(request_line=b'GET /"a"#b\\{c|d}?e=\x00\x1b[2J\x7f\xe9\xff~ HTTP/1.0'),
    TCP,
    TCP._replace(server="<NOSRV>", tc=-1, tt=0, bytes_read=0, termination="SC", retries=0),
    TCP._replace(retries=1, redispatched=True, termination="cD"),
    UDP,
    UDP._replace(server="", termination="SC", bytes_out=0, query='a"b\x07\u00e9. TXT'),
    UDP._replace(query="", termination="sH", retries=1),
    FLOW,
    FLOW._replace(is_end=False, tt=0, bytes_in=0, bytes_out=0, packets_in=0, packets_out=0),
    FLOW._replace(client="2001:db8::1", service="2001:db8:1::c8", server="fd00::2:8080", server_address="fd00::2",
                  protocol="udp", tc=-1, tt=-1, bytes_out=0, packets_out=0, termination="sH"),
)  # fmt: skip

# The configuration manual's fields, section 8.2.3, without captures.
HTTPLOG = re.compile(
    r"(?P<client>[0-9a-f.:]+|unix):(?P<port>\d+) \[(?P<date>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d\.\d{3})\] "
    r"(?P<frontend>\S+) (?P<backend>[^/ ]+)/(?P<server>\S+) (?P<TR>-?\d+)/(?P<Tw>-?\d+)/(?P<Tc>-?\d+)/(?P<Tr>-?\d+)/"
    r"(?P<Ta>\d+) (?P<status>-?\d+) (?P<bytes>\d+) - - (?P<tsc>\S{4}) (?P<ac>\d+)/(?P<fc>\d+)/(?P<bc>\d+)/(?P<sc>\d+)/"
    r"(?P<rc>\+?\d+) (?P<sq>\d+)/(?P<bq>\d+) \"(?P<request>[^\"]*)\""
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    lines._clf_stamps._known.clear()
    yield
    monkeypatch.undo()
    time.tzset()
    lines._clf_stamps._known.clear()


def test_the_lines_are_frozen() -> None:
    assert "".join(format_haproxy(record) + "\n" for record in RECORDS) == (GOLDEN / "lines.txt").read_text()


def test_the_objects_are_frozen() -> None:
    assert "".join(format_json(record) + "\n" for record in RECORDS) == (GOLDEN / "lines.json").read_text()


def test_an_httplog_line_takes_apart_into_its_fields() -> None:
    found = HTTPLOG.fullmatch(format_haproxy(HTTP._replace(redispatched=True, retries=2)))
    assert found is not None
    assert found["date"] == "22/Nov/2026:10:11:11.123"
    assert found.group("TR", "Tw", "Tc", "Tr", "Ta") == ("10", "0", "30", "69", "109")
    assert found.group("ac", "fc", "bc", "sc", "rc") == ("4", "3", "2", "1", "+2")
    assert found["request"] == "GET /index.html HTTP/1.1"


def test_a_flow_is_a_tcplog_line_and_more() -> None:
    alike = TCP._replace(client="10.0.1.2", retries=0)
    assert format_haproxy(FLOW) == f"{format_haproxy(alike)} 192.0.2.200:80 1372/212 7/3"
    datagrams = UDP._replace(tt=5007, bytes_in=1372, bytes_out=212, query="")
    line = format_haproxy(FLOW._replace(
        protocol="udp", client_port=5353, frontend="dns", backend="dns-servers", server="cluster5",
    ))  # fmt: skip
    assert line == f"{format_haproxy(datagrams)} 192.0.2.200:80 1372/212 7/3"


def test_a_requests_name_stands_where_captured_headers_do() -> None:
    record = HTTP._replace(request_id="7f-1")
    assert format_haproxy(record) == format_haproxy(HTTP).replace(' 0/0 "', ' 0/0 {7f-1} "')
    assert json.loads(format_json(record)) == json.loads(format_json(HTTP)) | {"request_id": "7f-1"}


def test_dates_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XST-5:30")
    time.tzset()
    lines._clf_stamps._known.clear()
    assert lines.clf_date(BEGAN) == "22/Nov/2026:15:41:11.123"
    assert lines.rfc3339_date(BEGAN) == "2026-11-22T10:11:11.123Z"


@pytest.mark.parametrize(("at", "text"), [(0.0, "000"), (0.9999, "999"), (0.0009, "000"), (0.0015, "001")])
def test_milliseconds_are_cut_not_rounded(at: float, text: str) -> None:
    assert lines.clf_date(1000 + at).endswith(f".{text}")


def test_a_single_digit_day_is_padded_with_a_space() -> None:
    assert lines.rfc3164_date(1_793_527_200) == "Nov  1 10:00:00"


@given(st.binary(max_size=3000))
def test_no_request_breaks_the_line(request: bytes) -> None:
    record = HTTP._replace(request_line=request)
    line = format_haproxy(record)
    assert line.isascii() and line.isprintable()
    assert len(line) < 4096
    found = HTTPLOG.fullmatch(line)
    assert found is not None
    escaped = re.sub(r"#([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), found["request"])
    assert escaped.encode("latin-1") == (request[:1023] or b"<BADREQ>")
    in_json = json.loads(format_json(record))["request_line"]
    assert found["request"].startswith(in_json) and len(in_json) >= min(len(found["request"]), 998)


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_breaks_an_object(why: str, query: str) -> None:
    text = format_json(HTTP._replace(why=why))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
    assert json.loads(text)["why"].startswith(why[:300]) or re.search(r"[\x00-\x1f\x7f-\x9f]", why)
    line = format_haproxy(UDP._replace(query=query))
    assert line.isascii() and line.isprintable() and line.count('"') == 2
    assert json.loads(format_json(UDP._replace(query=query)))["query"] == line.split('"')[1]


@pytest.mark.parametrize("octet", [b"\\", b"\xff", b'"', b"a"])
def test_the_longest_object_fits_into_one_write(octet: bytes) -> None:
    name = "n" * 128
    record = HTTP._replace(request_line=octet * 20_000, why='"\u20ac' * 5000, frontend=name, backend=name, server=name)
    text = format_json(record)
    assert len(text.encode()) < 4096
    assert json.loads(text)["status"] == 200


def test_objects_keep_the_records_names() -> None:
    for record in (HTTP._replace(request_id="an-id"), TCP, UDP, FLOW):
        fields = json.loads(format_json(record))
        assert set(fields) == {*record._fields, "time", "type"} - {"began", "details"}


def test_a_refusal_tells_why() -> None:
    record = HTTP._replace(why="bad\r\nrequest \x1b[2J")
    assert lines.refusal(record) == ("10.0.1.2:33317 [22/Nov/2026:10:11:11.123] http-in: bad#0D#0Arequest #1B[2J")


def test_many_seconds_do_not_pile_up() -> None:
    for second in range(3000):
        lines.clf_date(float(second))
    assert len(lines._clf_stamps._known) <= 512


def test_captures_have_their_names_in_json() -> None:
    details = Details((b"www", b'a"b'), (b"",), b"S=1", b"", None, None)
    record = HTTP._replace(details=details, bytes_in=77)
    found = json.loads(format_json(record, captured=(["Host", "X-Two"], ["Location"])))
    assert found["request_headers"] == {"Host": "www", "X-Two": "a#22b"}
    assert found["response_headers"] == {"Location": ""}
    assert (found["cookie"], found["bytes_in"]) == ("S=1", 77)
    assert "set_cookie" not in found
    assert "request_headers" not in json.loads(format_json(HTTP, captured=(["Host"], [])))


def test_json_stays_whole_whatever_is_captured() -> None:
    octets = b"\xff" * 1000
    names = ["X" * 20] * 3
    details = Details((octets,) * 3, (octets,) * 3, octets, octets, None, None)
    record = HTTP._replace(
        details=details, request_line=octets, why="\u20ac" * 400, frontend="f" * 64, backend="b" * 64, server="s" * 64
    )
    text = format_json(record, captured=(names, names))
    assert len(text.encode()) <= 4095
    assert json.loads(text)["termination"] == HTTP.termination
