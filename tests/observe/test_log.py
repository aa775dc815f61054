from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balancer.config import model
from balancer.config.effective import Records
from balancer.config.logs import Log
from balancer.observe.lines import clf_date, format_haproxy
from balancer.observe.log import AccessLog, Level, Quota
from balancer.observe.sinks import Message
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

    def __init__(self, habits: dict[str, Records] | None = None, **config: object) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.log = AccessLog(
            [model.Log.model_validate({"target": "stdout", **config})],
            habits,
            capacity=50,
            clock=lambda: NOW,
            stdout=self.writer,
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
    *records, last = out.lines()
    assert len(records) == 50
    assert last.endswith("WARNING: log target stdout did not take 30 lines")
    out.log.write(HTTP)
    assert out.log.flush() == 0
    assert len(out.lines()) == 1


def test_a_blocked_pipe_keeps_records_and_then_drops(out: Out) -> None:
    out.fill()
    for i in range(70):
        out.log.write(HTTP._replace(client_port=i))
    assert out.log.flush() == 50
    assert out.log.dropped == 20
    out.lines()
    assert out.log.flush() == 0
    *records, last = out.lines()
    assert [line.split()[0] for line in records] == [f"10.0.1.2:{i}" for i in range(50)]
    assert last == f"[{clf_date(NOW)}] WARNING: log target stdout did not take 20 lines"


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
    (outlet,) = out.log._outlets.values()
    kept = outlet._queue[0]
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
        log = AccessLog([model.Log(target="syslog")], devlog=path)
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


# Which records, and to whom


class Files:
    """A log of several targets, each a file."""

    def __init__(self, folder: Path, habits: dict[str, Any] | None = None, **targets: dict[str, Any]) -> None:
        self._folder = folder
        logs = {name: self.target(name, **config) for name, config in targets.items()}
        if habits is not None:
            own = {name: Records(**{"targets": tuple(logs.values()), **habit}) for name, habit in habits.items()}
        self.log = AccessLog(logs.values(), own if habits is not None else None, clock=lambda: NOW)

    def target(self, name: str, **config: Any) -> Log:
        return Log.model_validate({"target": str(self._folder / name), **config})

    def lines(self, name: str) -> list[str]:
        self.log.flush()
        path = self._folder / name
        return path.read_text().splitlines() if path.exists() else []


BAD = HTTP._replace(termination="SH--", status=502)
REFUSED = HTTP._replace(termination="PR--", status=403, why="denied by a rule")


def test_several_targets_get_what_each_wants(tmp_path: Path) -> None:
    files = Files(
        tmp_path,
        all={},
        traffic={"content": "traffic"},
        events={"content": "events"},
        grave={"level": "err"},
        json={"format": "json", "content": "traffic"},
    )
    for record in (HTTP, BAD, REFUSED, UDP):
        files.log.write(record)
    files.log.event(Level.WARNING, "Server b/s is DOWN")
    files.log.event(Level.ALERT, "backend b has no server available!")
    refusal = f"10.0.1.2:33317 [{clf_date(NOW)}] http-in: denied by a rule"
    down = f"[{clf_date(NOW)}] WARNING: Server b/s is DOWN"
    empty = f"[{clf_date(NOW)}] ALERT: backend b has no server available!"
    traffic = [format_haproxy(record) for record in (HTTP, BAD, REFUSED, UDP)]
    assert files.lines("traffic") == traffic
    assert files.lines("events") == [refusal, down, empty]
    assert files.lines("all") == [*traffic[:3], refusal, traffic[3], down, empty]
    assert files.lines("grave") == [empty]
    assert [json.loads(line)["termination"] for line in files.lines("json")] == ["--VN", "SH--", "PR--", "--"]
    assert [event.text for event in files.log.recent] == [
        "Server b/s is DOWN", "backend b has no server available!",
    ]  # fmt: skip
    files.log.close()


def test_a_frontend_has_targets_of_its_own(tmp_path: Path) -> None:
    files = Files(tmp_path)
    own, both = files.target("own"), files.target("both")
    files.log = AccessLog([both], {"http-in": Records((own, both)), "quiet": Records()}, clock=lambda: NOW)
    assert files.log.writer("quiet") is None
    files.log.write(HTTP)
    files.log.write(HTTP._replace(frontend="quiet"))
    files.log.write(HTTP._replace(frontend="other"))
    files.log.event(Level.NOTICE, "said")
    assert [line.split()[2] for line in files.lines("own")] == ["http-in"]
    assert [line.split()[2] for line in files.lines("both")] == ["http-in", "other", "said"]
    files.log.close()


def test_one_of_so_many_is_kept(tmp_path: Path) -> None:
    files = Files(tmp_path, some={"sample": "2-3,8:11"}, tenth={"sample": "1:10"})
    for i in range(22):
        files.log.write(HTTP._replace(client_port=i))
    files.log.write(REFUSED)
    ports = [line.split(" ")[0].rpartition(":")[2] for line in files.lines("some")]
    assert ports == ["1", "2", "7", "12", "13", "18", "33317"]
    assert "denied by a rule" in files.lines("some")[-1]
    assert [line.split(" ")[0] for line in files.lines("tenth")][:3] == ["10.0.1.2:0", "10.0.1.2:10", "10.0.1.2:20"]
    files.log.close()


# HAProxy's log.c: strm_log.
ERRORS = [
    (HTTP, False),
    (HTTP._replace(status=404), False),
    (HTTP._replace(termination="LR--", status=302), False),
    (HTTP._replace(status=500), True),
    (HTTP._replace(retries=1), True),
    (HTTP._replace(redispatched=True), True),
    (BAD, True),
    (REFUSED, True),
    (HTTP._replace(termination="cR--", status=408), True),
    (UDP, False),
    (UDP._replace(retries=1), True),
    (UDP._replace(termination="sH"), True),
]


@pytest.mark.parametrize(("record", "is_bad"), ERRORS)
def test_normal_is_what_haproxy_calls_so(tmp_path: Path, record: HttpRecord | UdpRecord, is_bad: bool) -> None:
    files = Files(tmp_path, {record.frontend: {"dontlog_normal": True}}, file={"content": "traffic"})
    files.log.write(record)
    assert len(files.lines("file")) == int(is_bad)
    files.log.close()
    # As they are told apart by their level.
    separate = {record.frontend: {"separate_errors": True}}
    files = Files(tmp_path, separate, grave={"level": "err"}, rest={"content": "traffic"})
    files.log.write(record)
    assert len(files.lines("grave")) == int(is_bad)
    assert len(files.lines("rest")) == 1
    files.log.close()


def test_errors_have_a_level_of_their_own(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        target = Log(target=f"unix:{path}")
        log = AccessLog([target], {"http-in": Records((target,), separate_errors=True)})
        for record in (HTTP, BAD, UDP._replace(termination="sH")):
            log.write(record)
        log.flush()
        assert [sock.recv(9000).split(b">")[0] for _ in range(3)] == [b"<134", b"<131", b"<134"]
        log.close()


def test_a_target_that_is_back_is_told_what_it_missed(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = AccessLog([Log(target=f"unix:{path}"), Log(target=str(tmp_path / "file"))])
    for _ in range(3):
        log.write(HTTP)
    log.flush()
    assert log.dropped == 3
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        log.write(HTTP)
        log.flush()
        assert b"http-in" in sock.recv(9000)
        assert sock.recv(9000).endswith(b": log target unix:%b did not take 3 lines" % path.encode())
        log.write(HTTP)
        log.flush()
        assert b"http-in" in sock.recv(9000)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(9000)
    assert log.dropped == 3
    assert len((tmp_path / "file").read_text().splitlines()) == 5
    log.close()


def test_a_loss_is_told_until_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[tuple[int, int]] = []
    got: list[str] = []

    class Fickle:
        lost = 3

        def send(self, messages: list[Message]) -> int:
            done, lost = answers.pop(0)
            self.lost += lost
            if done and not lost:
                got.extend(message.text for message in messages)
            return done

        def close(self) -> None:
            pass

    monkeypatch.setattr("balancer.observe.log.open_sink", lambda *_, **__: Fickle())
    log = AccessLog([Log(target="stdout")], clock=lambda: NOW)
    told = "log target stdout did not take"
    # The line goes, the word of the loss is not taken, then lost, then taken, and there is nothing to say any more.
    for second in ((0, 0), (1, 1), (1, 0), None):
        answers[:] = [(1, 0), *([second] if second else [])]
        log.write(HTTP)
        log.flush()
        assert not answers
    assert [text for text in got if "http-in" not in text] == [f"[{clf_date(NOW)}] WARNING: {told} 4 lines"]
    log.close()
