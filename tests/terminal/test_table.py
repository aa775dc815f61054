from __future__ import annotations

import re
from dataclasses import replace

import pytest

from balancer.terminal import picture, table
from balancer.terminal.paint import Paint
from tests.observe.conftest import NOW, two_routers
from tests.terminal.conftest import Daemon

WIDE = """\
director (Nodo Master): pybalancer 0.1.0, up 1h, 7 of 100 connections, 900 new/s, 5050 requests/s

NAME              STATE        SINCE  WGHT  SESS  MAX  LIMIT  QUEUE  RATE  TOTAL    IN   OUT  ERR  RETR  DOWNS  \
DOWN  CHECK                         ADDRESS
frontend web      OPEN                         5    8  20.0k      0  5000    700  9.8K  1.9M    2     0
frontend tls      FULL                        10   10     10      0   200    200   300   400    0     0
frontend dns      OPEN                         0    0  20.0k      0    50     50     0     0    0     0
backend app       UP 2 of 3       1h     3     5    6   2000      0  5000   5000  9.8K  1.9M    1     4      0    0s
  up              UP           1m30s     3     5    6      -      0  5000   5000  9.8K  1.9M    0     4      0    \
0s  L7OK/200 3ms                  10.0.0.1:80
  down            DOWN           30s     1     0    0      -      0     0      0     0     0    0     0      2   \
40s  L4CON 0ms Connection refused  10.0.0.2:80
  spare (backup)  UP              1m     1     0    0      -      0     0      0     0     0    0     0      0    \
0s  INI                           10.0.0.3:80
backend raw       UP 1 of 1       1h     0     0    0      1      0     0      0     0     0    0     0      0    0s
  one             UP 1/3          0s     1     0    0      -      0     0      0     0     0    0     0      0    \
0s  INI                           [2001:db8::2]:443
backend names     DOWN 0 of 1     0s     0     0    0   2000      0     0      0     0     0    0     0      1    0s
  ns              DRAIN           5s     1     0    0      -      0     0      0     0     0    0     0      0    \
0s                                10.0.0.5:53
"""


@pytest.fixture
def seen(daemon: Daemon) -> picture.Picture:
    return picture.fetch(daemon.path, clock=lambda: NOW)


def test_where_there_is_room_all_of_it_stands_there(seen: picture.Picture) -> None:
    assert "".join(f"{line}\n" for line in table.lines(seen, Paint())) == WIDE


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 132, 200])
def test_no_line_is_longer_than_the_terminal(seen: picture.Picture, width: int) -> None:
    seen = replace(seen, routers=two_routers())
    plain = [*table.lines(seen, Paint(width=width))]
    assert max(map(len, plain)) <= width
    coloured = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in table.lines(seen, Paint(True, width))]
    assert [line.rstrip() for line in coloured] == plain


def test_a_narrow_one_has_names_states_and_sessions_first(seen: picture.Picture) -> None:
    all_ = [*table.rows(seen)]
    titles = {width: [column.title for column, _ in table.fitting(all_, width)] for width in (24, 40, 80)}
    assert titles[24] == ["NAME", "STATE"]
    assert titles[40] == ["NAME", "STATE", "SESS", "RATE"]
    assert [*table.lines(seen, Paint(width=24))][-2:] == ["names     DOWN 0 of 1", "  ns      DRAIN"]
    assert {"NAME", "STATE", "SESS", "RATE", "WGHT", "ERR", "CHECK"} <= {*titles[80]}


def test_what_a_check_said_takes_what_is_left(seen: picture.Picture) -> None:
    assert any("L4CON 0ms Connection re" in line for line in table.lines(seen, Paint(width=110)))
    assert any(" L4CON 0" in line and "refused" not in line for line in table.lines(seen, Paint(width=90)))


def test_the_routers_are_there_unless_somebody_asks_for_servers(seen: picture.Picture) -> None:
    seen = replace(seen, routers=two_routers())
    said = "\n".join(table.lines(seen, Paint()))
    assert "VI_E" in said and "FAULT" in said and "peer 10.9.0.3:694 (standby): alive" in said
    assert "VI_E" not in "\n".join(table.lines(seen, Paint(), with_routers=False))


def test_a_state_has_a_colour_and_a_word(seen: picture.Picture) -> None:
    lines = [*table.lines(seen, Paint(True))]
    for word, colour in (("DOWN", "31;1"), ("DRAIN", "36"), ("UP 1/3", "33"), ("OPEN", "32")):
        assert any(f"\x1b[{colour}m{word}" in line for line in lines), word
