from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.server import Server
from balancer.pool.sticky import Choice, Persistence, _date, _digits

# 2001-09-09 01:46:40, divisible by 4; O5rKA is its number of four seconds in base64.
NOW = 1_000_000_000
DAY = 86400


@pytest.fixture
def three(server, become):
    """s1 and s2 with a value, b without; all up."""
    servers = [server("s1", cookie="one"), server("s2", cookie="two"), server("b", backup=True)]
    for s in servers:
        become(s, "UP")
    return servers


def sticky(servers, **keys):
    return Persistence(model.Cookie.model_validate({"name": "SERVERID", **keys}), servers)


def value(line: bytes) -> bytes:
    """What a client sends back."""
    return line.removeprefix(b"set-cookie: SERVERID=").partition(b";")[0]


def date(seconds: int) -> bytes:
    return _digits(seconds)


def test_a_dialogue_from_the_first_visit_on(three, become):
    s1, s2, _ = three
    cookies = sticky(three)
    assert cookies.name == b"SERVERID"
    # The first visit: balanced, and told where to come back to.
    choice = cookies.find(None, NOW)
    assert choice == Choice(None, "N", 0, False)
    line = cookies.set_cookie(s1, choice, b"GET", NOW)
    assert line == b"set-cookie: SERVERID=one; path=/\r\n"
    # The next: straight to it, nothing to be told.
    choice = cookies.find(value(line), NOW)
    assert choice == Choice(s1, "V", 0, False)
    assert cookies.set_cookie(s1, choice, b"GET", NOW) == b""
    # It has died: balanced again at once, and told of the new one.
    become(s1, "DOWN")
    choice = cookies.find(b"one", NOW)
    assert choice == Choice(None, "D", 0, False)
    assert cookies.set_cookie(s2, choice, b"GET", NOW) == b"set-cookie: SERVERID=two; path=/\r\n"


@pytest.mark.parametrize(
    ("condition", "admin", "weight", "state"),
    [
        ("UP", "READY", 1, "V"),
        ("UP", "READY", 0, "V"),
        ("UP", "DRAIN", 1, "V"),
        ("UNKNOWN", "READY", 1, "V"),
        ("DOWN", "READY", 1, "D"),
        ("DOWN", "DRAIN", 1, "D"),
        ("UP", "MAINT", 1, "D"),
        ("UNKNOWN", "MAINT", 1, "D"),
    ],
)
@pytest.mark.parametrize("keys", [{}, {"maxidle": "1h"}])
def test_who_still_gets_clients_with_its_cookie(three, become, keys, condition, admin, weight, state):
    s1, *_ = three
    become(s1, condition, admin, weight=weight)
    choice = sticky(three, **keys).find(b"one", NOW)
    assert (choice.server, choice.state) == (s1 if state == "V" else None, state)


def test_a_cookie_naming_a_backup_is_honoured(server, become):
    backup = server("b", backup=True, cookie="b")
    become(backup, "UP")
    assert sticky([backup]).find(b"b", NOW).server is backup


@pytest.mark.parametrize(
    "unknown",
    [
        b"",
        b"three",
        b"ONE",
        b"one ",
        b" one",
        b'"one"',
        b"on",
        b"onetwo",
        b"|",
        b"|one",
        b"b",
        b"\xff\0",
        b"x" * 100_000,
    ],
)
@pytest.mark.parametrize("keys", [{}, {"maxidle": "1h", "maxlife": "8h"}])
def test_a_value_of_no_server_is_invalid_and_replaced(three, keys, unknown):
    cookies = sticky(three, **keys)
    choice = cookies.find(unknown, NOW)
    assert choice == Choice(None, "I", 0, False)
    assert value(cookies.set_cookie(three[0], choice, b"GET", NOW)).startswith(b"one")


def test_servers_may_share_a_value_and_the_first_alive_has_it(server, become):
    pair = [server("s1", cookie="x"), server("s2", cookie="x", backup=True)]
    for s in pair:
        become(s, "UP")
    cookies = sticky(pair)
    assert cookies.find(b"x", NOW).server is pair[0]
    become(pair[0], "DOWN")
    choice = cookies.find(b"x", NOW)
    assert (choice.server, choice.state) == (pair[1], "V")
    assert cookies.set_cookie(pair[1], choice, b"GET", NOW) == b""
    become(pair[1], "UP", "MAINT")
    assert cookies.find(b"x", NOW).state == "D"


def test_after_a_redispatch_the_client_is_told(three):
    s1, s2, _ = three
    cookies = sticky(three)
    choice = cookies.find(b"one", NOW)
    assert choice.server is s1
    assert cookies.set_cookie(s2, choice, b"GET", NOW) == b"set-cookie: SERVERID=two; path=/\r\n"


@pytest.mark.parametrize(
    ("keys", "attributes"),
    [
        ({}, b""),
        ({"httponly": True}, b"; HttpOnly"),
        ({"secure": True}, b"; Secure"),
        ({"domain": ".example.org"}, b"; domain=.example.org"),
        ({"domain": ("a.example", "b.example")}, b"; domain=a.example; domain=b.example"),
        ({"attr": "SameSite=Lax"}, b"; SameSite=Lax"),
        (
            {"attr": ("SameSite=None", "Partitioned"), "secure": True, "httponly": True, "domain": "example.org"},
            b"; domain=example.org; HttpOnly; Secure; SameSite=None; Partitioned",
        ),
        ({"indirect": True, "nocache": True, "preserve": True}, b""),
    ],
)
def test_attributes_stand_in_haproxys_order(three, keys, attributes):
    cookies = sticky(three, **keys)
    choice = cookies.find(None, NOW)
    assert (
        cookies.set_cookie(three[0], choice, b"GET", NOW) == b"set-cookie: SERVERID=one; path=/" + attributes + b"\r\n"
    )
    dated = sticky(three, **keys, maxidle="1h")
    line = b"set-cookie: SERVERID=one|O5rKA; path=/" + attributes + b"\r\n"
    assert dated.set_cookie(three[0], choice, b"GET", NOW) == line
    # A browser removes only what has the same domain and path.
    gone = b"set-cookie: SERVERID=; Expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/" + attributes + b"\r\n"
    assert cookies.set_cookie(three[2], cookies.find(b"old", NOW), b"GET", NOW) == gone


@pytest.mark.parametrize(("sent", "removed"), [(None, False), (b"one", True), (b"old", True), (b"", True)])
def test_a_server_without_a_value_takes_the_clients_cookie_away(three, sent, removed):
    cookies = sticky(three)
    line = cookies.set_cookie(three[2], cookies.find(sent, NOW), b"GET", NOW)
    assert (line != b"") is removed
    assert not removed or line.startswith(b"set-cookie: SERVERID=; Expires=")


@pytest.mark.parametrize(("method", "told"), [(b"GET", False), (b"POST", True), (b"PUT", False), (b"post", False)])
@pytest.mark.parametrize("sent", [None, b"old", b"one|AAAAB"])
def test_postonly_tells_in_answers_to_post_alone(three, method, told, sent):
    for keys in ({}, {"maxidle": "60d"}):
        cookies = sticky(three, postonly=True, **keys)
        assert (cookies.set_cookie(three[1], cookies.find(sent, NOW), method, NOW) != b"") is told


# Dates: what is sent


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ({"maxidle": "1h"}, b"one|O5rKA"),
        ({"maxlife": "8h"}, b"one|O5rKA|O5rKA"),
        ({"maxidle": "1h", "maxlife": "8h"}, b"one|O5rKA|O5rKA"),
    ],
)
def test_a_new_cookie_has_the_dates_that_will_be_asked_for(three, keys, sent):
    cookies = sticky(three, **keys)
    assert value(cookies.set_cookie(three[0], cookies.find(None, NOW), b"GET", NOW)) == sent


def test_dates_are_rounded_up_so_that_a_cookie_is_not_renewed_within_its_four_seconds(three):
    cookies = sticky(three, maxidle="1h")
    sent = value(cookies.set_cookie(three[0], cookies.find(None, NOW + 1), b"GET", NOW + 1.9))
    assert sent == b"one|O5rKB"
    assert [cookies.find(sent, NOW + later).refresh for later in (1, 2, 3.99, 4, 4.9, 5)] == [False] * 5 + [True]


# Dates: what they mean. HAProxy 2.6, http_manage_client_side_cookies().

AGES = [
    # keys, value, state, first use known, renewed
    ({"maxidle": "1h"}, b"one|" + date(NOW), "V", 0, False),
    ({"maxidle": "1h"}, b"one|" + date(NOW - 4), "V", 0, True),
    ({"maxidle": "1h"}, b"one|" + date(NOW - 3600), "V", 0, True),
    ({"maxidle": "1h"}, b"one|" + date(NOW - 3604), "E", 0, False),
    ({"maxidle": "1h"}, b"one|" + date(NOW + DAY), "V", 0, False),
    ({"maxidle": "1h"}, b"one|" + date(NOW + DAY + 4), "E", 0, False),
    ({"maxidle": "1h"}, b"one", "V", 0, True),
    ({"maxidle": "1h"}, b"one|", "V", 0, True),
    ({"maxidle": "1h"}, b"one|AAAAA", "V", 0, True),
    ({"maxidle": "1h"}, b"one|O5rK", "V", 0, True),
    ({"maxidle": "1h"}, b"one|O5r*A", "V", 0, True),
    ({"maxidle": "1h"}, b"one|O5rK=", "V", 0, True),
    ({"maxidle": "1h"}, b"one|O5rKAmore", "V", 0, False),
    ({"maxidle": "1h"}, b"one|O5rKA|" + date(NOW - DAY), "V", NOW - DAY, True),
    ({"maxidle": "1h"}, b"two|" + date(NOW - 3604), "E", 0, False),
    ({"maxidle": "1h"}, b"nobody|" + date(NOW - 3604), "E", 0, False),
    ({"maxidle": "1h"}, b"nobody|" + date(NOW), "I", 0, False),
    ({"maxlife": "8h"}, b"one|O5rKA|" + date(NOW - 4), "V", NOW - 4, False),
    ({"maxlife": "8h"}, b"one|O5rKA|" + date(NOW - 8 * 3600), "V", NOW - 8 * 3600, False),
    ({"maxlife": "8h"}, b"one|O5rKA|" + date(NOW - 8 * 3600 - 4), "O", 0, False),
    ({"maxlife": "8h"}, b"one|O5rKA|" + date(NOW + DAY), "V", NOW + DAY, False),
    ({"maxlife": "8h"}, b"one|O5rKA|" + date(NOW + DAY + 4), "O", 0, False),
    ({"maxlife": "8h"}, b"one|" + date(NOW - DAY) + b"|" + date(NOW - 4), "V", NOW - 4, True),
    ({"maxlife": "8h"}, b"one|O5rKA", "V", 0, True),
    ({"maxlife": "8h"}, b"one", "V", 0, True),
    ({"maxlife": "8h"}, b"one|O5rKA|O5rK", "V", 0, True),
    ({"maxlife": "8h"}, b"one|junk|" + date(NOW - 4), "V", NOW - 4, False),
    ({"maxlife": "8h", "maxidle": "1h"}, b"one|" + date(NOW - 3604) + b"|" + date(NOW - 8 * 3604), "O", 0, False),
    ({"maxlife": "8h", "maxidle": "1h"}, b"one|" + date(NOW - 3604) + b"|" + date(NOW - 3608), "E", 0, False),
    # Dates of an earlier configuration are taken off again.
    ({}, b"one|" + date(NOW - 4), "V", 0, True),
    ({}, b"one|" + date(NOW - 4) + b"|" + date(NOW - 400 * DAY), "V", NOW - 400 * DAY, True),
]


@pytest.mark.parametrize(("keys", "sent", "state", "first", "refresh"), AGES)
def test_what_an_age_means(three, keys, sent, state, first, refresh):
    choice = sticky(three, **keys).find(sent, NOW + 0.9)
    assert choice == Choice(three[0] if state == "V" else None, state, first, refresh)


def test_a_renewed_cookie_keeps_its_first_date(three):
    s1, *_ = three
    cookies = sticky(three, maxidle="1h", maxlife="8h")
    sent = value(cookies.set_cookie(s1, cookies.find(None, NOW), b"GET", NOW))
    for later in range(1800, 8 * 3600, 1800):
        choice = cookies.find(sent, NOW + later)
        assert (choice.server, choice.state, choice.first) == (s1, "V", NOW)
        sent = value(cookies.set_cookie(s1, choice, b"GET", NOW + later))
        assert sent == b"one|" + date(NOW + later) + b"|" + date(NOW)
    assert cookies.find(sent, NOW + 8 * 3600 + 1).state == "O"


def test_after_its_life_a_cookie_begins_another(three):
    cookies = sticky(three, maxlife="8h")
    later = NOW + 9 * 3600
    choice = cookies.find(b"one|" + date(NOW) + b"|" + date(NOW), later)
    assert choice.state == "O"
    assert value(cookies.set_cookie(three[1], choice, b"GET", later)) == b"two|" + date(later) + b"|" + date(later)


def test_moving_to_another_server_does_not_lengthen_a_life(three, become):
    s1, s2, _ = three
    cookies = sticky(three, maxlife="8h")
    become(s1, "DOWN")
    choice = cookies.find(b"one|" + date(NOW) + b"|" + date(NOW), NOW + 3600)
    assert choice == Choice(None, "D", NOW, False)
    sent = value(cookies.set_cookie(s2, choice, b"GET", NOW + 3600))
    assert sent == b"two|" + date(NOW + 3600) + b"|" + date(NOW)


def test_without_dates_in_the_configuration_they_are_taken_off(three):
    cookies = sticky(three)
    choice = cookies.find(b"one|" + date(NOW - 60), NOW)
    assert cookies.set_cookie(three[0], choice, b"GET", NOW) == b"set-cookie: SERVERID=one; path=/\r\n"


def test_a_value_with_a_bar_of_its_own_works_where_there_are_no_dates(server, become):
    s = server("s", cookie="a|b")
    become(s, "UP")
    assert sticky([s]).find(b"a|b", NOW) == Choice(s, "V")


@given(st.integers(4, 2**32 - 1))
def test_a_date_comes_back_as_it_was_sent_to_four_seconds(seconds):
    digits = _digits(seconds)
    assert len(digits) == 5
    assert _date(digits) == seconds // 4 * 4


@given(st.binary(max_size=12))
def test_what_is_no_date_is_none(digits):
    told = _date(digits)
    assert told == 0 or _digits(told) == digits[:5]


@given(sent=st.binary(max_size=40) | st.text("one|two|AO5rKz", max_size=20).map(str.encode), now=st.integers(0, 2**32))
def test_whatever_a_client_sends_it_is_judged(sent, now):
    config = model.Server.model_validate({"address": "127.0.0.1:80", "cookie": "one"})
    servers = [Server("be", "s1", config, Counters())]
    for keys in ({}, {"maxidle": "1h"}, {"maxlife": "8h"}, {"maxidle": "1h", "maxlife": "8h"}):
        cookies = sticky(servers, **keys)
        choice = cookies.find(sent, now)
        assert (choice.state == "V") is (choice.server is servers[0])
        assert choice.state in "IVEO"
        line = cookies.set_cookie(servers[0], choice, b"GET", now)
        assert line.count(b"\r\n") == (1 if choice.state != "V" or choice.refresh else 0)
