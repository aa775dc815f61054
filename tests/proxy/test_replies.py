"""The answers that pybalancer makes itself."""

from __future__ import annotations

import h11
import pytest

from balancer.proxy.replies import REASONS, Replies, composed


def test_the_answer_for_503_octet_for_octet():
    assert Replies({}).reply(503) == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"content-length: 107\r\n"
        b"cache-control: no-cache\r\n"
        b"content-type: text/html\r\n"
        b"connection: close\r\n"
        b"\r\n"
        b"<html><body><h1>503 Service Unavailable</h1>\n"
        b"No server is available to handle this request.\n"
        b"</body></html>\n"
    )


def read(data, method="GET"):
    """What h11 makes of an answer: its response, its body, and whether the connection goes on."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "t")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        body += event.data
    assert client.trailing_data[0] == b""
    return response, body, client.their_state is h11.DONE


@pytest.mark.parametrize("status", REASONS)
@pytest.mark.parametrize("keep_alive", [True, False])
def test_every_answer_is_well_formed(status, keep_alive):
    response, body, goes_on = read(Replies({}).reply(status, keep_alive=keep_alive))
    assert (response.status_code, goes_on) == (status, keep_alive)
    assert str(status).encode() in body


def test_the_answer_to_head_announces_the_body_and_has_none():
    replies = Replies({})
    head = replies.reply(404, keep_alive=True, head_only=True)
    assert replies.reply(404, keep_alive=True) == head + replies.reply(404).partition(b"\r\n\r\n")[2]
    assert read(head, "HEAD")[1] == b""


def test_the_operators_page_replaces_the_body_alone():
    page = "<h1>Gleich zurück</h1>".encode()
    replies = Replies({503: page})
    response, body, _ = read(replies.reply(503))
    assert body == page
    assert (b"content-length", b"%d" % len(page)) in response.headers
    assert replies.reply(502) == Replies({}).reply(502)


@pytest.mark.parametrize("status", [200, 204, 301, 304, 404, 599])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("head_only", [True, False])
def test_an_answer_of_a_rule_is_well_formed(status, keep_alive, head_only):
    body = b"" if status in (204, 304) else b"page"
    data = composed(b"a: b\r\n", body)(status, keep_alive=keep_alive, head_only=head_only)
    response, read_body, goes_on = read(data, "HEAD" if head_only else "GET")
    assert (response.status_code, goes_on) == (status, keep_alive)
    assert read_body == (b"" if head_only else body)
    assert (b"a", b"b") in response.headers
    assert (b"content-length", b"4") in response.headers or not body
