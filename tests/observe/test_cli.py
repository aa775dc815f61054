from __future__ import annotations

import asyncio

import pytest

from balancer.observe import cli
from balancer.observe.command import Desk, Level, Session


def say(run, session: Session, *words: str, desk: Desk | None = None) -> tuple[str, int | None]:
    said = asyncio.run(run(session, desk or Desk(now=lambda: 0.0), list(words)))
    return said.text, said.severity


@pytest.fixture
def session() -> Session:
    return Session(Level.ADMIN)


def test_nobody_gets_more_than_he_had(session: Session) -> None:
    assert say(cli.lowers(Level.OPERATOR), session) == ("", None)
    assert say(cli.show_level, session) == ("operator", None)
    assert say(cli.lowers(Level.ADMIN), session)[0] == "Permission denied"
    assert session.level is Level.OPERATOR


def test_the_end_is_the_end(session: Session) -> None:
    say(cli.quit_, session)
    assert session.is_over


@pytest.mark.parametrize(("words", "seconds"), [("10", 10), ("2m", 120), ("0", 1), ("500d", 86400)])
def test_a_timeout_is_kept_within_reason(session: Session, words: str, seconds: float) -> None:
    assert say(cli.set_timeout, session, "cli", words) == ("", None)
    assert session.timeout == seconds


@pytest.mark.parametrize("words", [["cli"], ["cli", "soon"], ["cli", "1", "2"], ["client", "1"], []])
def test_a_timeout_that_is_none_is_refused(session: Session, words: list[str]) -> None:
    before = session.timeout
    assert say(cli.set_timeout, session, *words)[1] == cli._ERROR
    assert session.timeout == before


def test_where_one_may_ask(session: Session) -> None:
    desk = Desk(now=lambda: 0.0, sockets=[("/run/admin.sock", "admin")])
    assert say(cli.show_sockets, session, desk=desk)[0] == "# socket lvl processes\nunix@/run/admin.sock admin all\n"
