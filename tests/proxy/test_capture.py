from __future__ import annotations

from balancer.config import model
from balancer.proxy.capture import Capture
from balancer.wire.http1 import Limits, parse_request, parse_response

LIMITS = Limits(head=65536, uri=8192, fields=100)


def capture(*wanted: dict[str, object]) -> Capture:
    config = {"mode": "http", "bind": "127.0.0.1:80", "default_backend": "b", "capture": wanted}
    return Capture(model.Frontend.model_validate(config, strict=False))


def request(*lines: str):
    head = "GET / HTTP/1.1\r\nHost: www\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    parsed = parse_request(head.encode("latin-1"), LIMITS, 0)
    assert parsed is not None
    return parsed.section


def response(*lines: str):
    head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return parse_response(head.encode("latin-1"), LIMITS, b"GET")


def test_of_several_headers_the_last_one_counts() -> None:
    it = capture({"request_header": "x-two", "len": 6}, {"request_header": "Host", "len": 99},
                 {"response_header": "SERVER", "len": 3}, {"response_header": "Location", "len": 9})  # fmt: skip
    section = request("X-Two: one", "x-two:  second, third ")
    found = it.details(section, response("Server: a", "server: long"), None, None)
    assert (found.request, found.response) == ((b"second", b"www"), (b"lon", b""))
    assert it.details(request(), None, None, None).response == (b"", b"")
    assert (found.cookie, found.set_cookie, found.frontend, found.server) == (b"", b"", None, None)


def test_a_cookie_is_found_by_the_beginning_of_its_name() -> None:
    section = request("Cookie: a=1; theirsX=2 ", "Cookie: theirs=34567")
    answer = response("Set-Cookie: other=theirs", "Set-Cookie: theirs=abc; path=/")
    some, exact = (capture({"cookie": name, "len": 10}) for name in ("theirs", "theirs="))
    assert some.details(section, answer, None, None)[2:4] == (b"theirsX=2", b"theirs=abc")
    assert exact.details(section, answer, None, None)[2:4] == (b"theirs=345", b"theirs=abc")
    assert exact.details(request("Cookie: a=b"), response(), None, None)[2:4] == (b"", b"")
