from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.config import model
from balancer.observe.lines import clf_date
from balancer.observe.log import AccessLog, Level, Quota
from balancer.pool.records import HttpRecord, UdpRecord

NOW = 1_795_342_271.5

HTTP = HttpRecord(
    client="10.0.1.2", client_port=33317, began=NOW, frontend="http-in", backend="static", server="srv1",
    tr_request=10, tw=0, tc=30, tr_response=69, ta=109, status=200, bytes_read=2750, termination="--VN",
    actconn=4, feconn=3, beconn=2, srvconn=1, retries=0, redispatched=False, srv_queue=0, backend_queue=0,
    request_line=b"GET / HTTP/1.1",
)  # fmt: skip
UDP = UdpRecord(
    client="10.0.1.2", client_port=5353, began=NOW, frontend="dns", backend="names", server="ns",
    tt=2, bytes_in=40, bytes_out=120, termination="--", retries=0, query="www.lab.local. A",
)  # fmt: skip


class Out:
    """A log whose standard output is a pipe that the test reads."""

    def __init__(self, **config: object) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.log = AccessLog(
            model.Log.model_validate({"target": "stdout", **config}), capacity=50, clock=lambda: NOW, stdout=self.writer
        )

    def lines(self) -> list[str]:
        got = b""
        try:
            while chunk := os.read(self.reader, 65536):
                got += chunk
        except BlockingIOError:
            pass
        return got.decode().splitlines()

    def fill(self) -> None:
        """Fill the pipe up to the last octet."""
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, b"." * 4095 + b"\n")
        except BlockingIOError:
            os.set_blocking(self.writer, True)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def out() -> Iterator[Out]:
    out = Out()
    yield out
    out.log.close()
    out.close()


def test_records_wait_for_the_flush(out: Out) -> None:
    out.log.write(HTTP)
    out.log.write(UDP)
    assert out.lines() == []
    assert out.log.flush() == 0
    http, udp = out.lines()
    assert http.endswith('"GET / HTTP/1.1"') and udp.endswith('"www.lab.local. A"')
    assert out.log.flush() == 0
    assert out.lines() == []


def test_a_limit_leaves_the_rest(out: Out) -> None:
    for _ in range(10):
        out.log.write(HTTP)
    assert out.log.flush(4) == 6
    assert len(out.lines()) == 4
    assert out.log.flush(100) == 0
    assert len(out.lines()) == 6


def test_what_the_list_cannot_hold_is_counted(out: Out) -> None:
    for _ in range(80):
        out.log.write(HTTP)
    assert out.log.dropped == 30
    assert out.log.flush() == 0
    assert len(out.lines()) == 50


def test_a_blocked_pipe_keeps_records_and_then_drops(out: Out) -> None:
    out.fill()
    for i in range(70):
        out.log.write(HTTP._replace(client_port=i))
    assert out.log.flush() == 50
    assert out.log.dropped == 20
    out.lines()
    assert out.log.flush() == 0
    assert [line.split()[0] for line in out.lines()] == [f"10.0.1.2:{i}" for i in range(50)]


def test_events_go_at_once_and_behind_what_came_before(out: Out) -> None:
    out.log.write(HTTP)
    out.log.event(Level.WARNING, 'Server be/s1 is DOWN, info: "a\nb".')
    http, event = out.lines()
    assert http.startswith("10.0.1.2")
    assert event == f'[{clf_date(NOW)}] WARNING: Server be/s1 is DOWN, info: "a#0Ab".'


def test_events_have_room_when_records_have_none(out: Out) -> None:
    out.fill()
    for _ in range(60):
        out.log.write(HTTP)
    for i in range(300):
        out.log.event(Level.ALERT, f"event {i}")
    assert out.log.dropped == 10 + 300 - 256
    out.lines()
    out.log.flush()
    assert len([line for line in out.lines() if "ALERT: event" in line]) == 256


def test_events_of_a_kind_are_few(out: Out) -> None:
    for i in range(1000):
        out.log.event(Level.ERR, f"no descriptor left {i}", kind="EMFILE")
    out.log.event(Level.ERR, "something else", kind="other")
    assert [line.split("ERR: ")[1] for line in out.lines()] == [
        *(f"no descriptor left {i}" for i in range(5)),
        "something else",
    ]


def test_a_request_we_refused_is_explained(out: Out) -> None:
    refused = HTTP._replace(request_line=b"", status=400, termination="PR--", why="bare CR in a header line")
    out.log.write(refused)
    out.log.write(HTTP._replace(termination="SC--", why="connection refused"))
    out.log.flush()
    first, second, third = out.lines()
    assert first.endswith('"<BADREQ>"')
    assert second == f"10.0.1.2:33317 [{clf_date(NOW)}] http-in: bare CR in a header line"
    assert "SC--" in third


def test_a_long_request_is_cut_before_it_is_kept(out: Out) -> None:
    out.log.write(HTTP._replace(request_line=b"GET /" + b"a" * 60_000))
    kept = out.log._queue[0]
    assert isinstance(kept, HttpRecord) and len(kept.request_line) == 1023


def test_json_has_an_object_a_line() -> None:
    out = Out(format="json")
    out.log.write(HTTP._replace(termination="PR--", why="bad"))
    out.log.event(Level.NOTICE, 'He said "no"')
    record, event = map(json.loads, out.lines())
    assert (record["type"], record["why"]) == ("http", "bad")
    assert event == {
        "time": "2026-11-22T10:11:11.500Z", "type": "event", "level": "notice", "message": 'He said "no"',
    }  # fmt: skip
    out.log.close()
    out.close()


def test_syslog_gives_each_message_its_level(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        log = AccessLog(model.Log(target="syslog"), devlog=path)
        log.write(HTTP._replace(termination="PR--", why="bad"))
        log.event(Level.EMERG, "backend be has no server available!")
        assert [sock.recv(9000).split(b">")[0] for _ in range(3)] == [b"<134", b"<133", b"<128"]
        log.close()


def test_close_sends_what_it_can_and_counts_the_rest() -> None:
    out = Out()
    out.log.write(HTTP)
    out.log.close()
    assert len(out.lines()) == 1
    assert out.log.dropped == 0
    blocked = Out()
    blocked.fill()
    blocked.log.write(HTTP)
    blocked.log.close()
    assert blocked.log.dropped == 1
    out.close()
    blocked.close()


def test_a_quota_tells_afterwards_how_much_it_hid() -> None:
    quota = Quota(most=2, per=10.0)
    assert [quota.admit("a", 0.0 + i) for i in range(5)] == [0, 0, None, None, None]
    assert quota.admit("b", 5.0) == 0
    assert quota.admit("a", 9.9) is None
    assert quota.admit("a", 10.0) == 4
    assert quota.admit("a", 11.0) == 0
    assert quota.admit("a", 12.0) is None


def test_a_quota_forgets_rather_than_grows() -> None:
    quota = Quota(most=1, per=10.0)
    for i in range(5000):
        assert quota.admit(f"kind {i}", 0.0) == 0
    assert len(quota._kinds) <= 1024
