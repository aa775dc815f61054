from __future__ import annotations

import json
import select
import selectors
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from balancer.daemon.logbook import Logbook, Refusal
from balancer.daemon.reload import Draft, Look, Source
from balancer.daemon.reloads import Kind
from balancer.daemon.wishes import Wishes
from balancer.observe import reloading


@pytest.fixture
def logbook() -> Iterator[Logbook]:
    made = Logbook()
    yield made
    made.close()


@pytest.fixture
def asked(logbook, plan):
    """Wishes where there is a file, what they say, and the plan that is in force."""
    said: list[str] = []
    before = plan({})
    source = Source("x.yaml", lambda: before.config)
    return Wishes(logbook, source, say=lambda _, text: said.append(text)), said, before


def report(logbook: Logbook, kind: Kind) -> dict[str, object]:
    head: dict[str, object] = json.loads(logbook.reloads.report(kind).partition(b"\n")[0])
    return head


def current(plan) -> SimpleNamespace:
    return SimpleNamespace(plan=plan, sessions=lambda _: 0, sockets=None)


def test_one_after_the_other_and_a_look_last(asked, logbook):
    it, said, _ = asked
    assert not it.are_open and not it.begin()
    logbook.reloads.ask("dry-run")
    logbook.ask()
    it.is_reload_wanted = True
    with selectors.DefaultSelector() as selector:
        it.register(selector)
        assert len(selector.select(0)) == 2
        it.hear()
        assert selector.select(0) == []
    assert it.begin() and not it.is_of_servers and not it.is_look
    it.grant()
    assert it.are_open and it.begin() and it.is_of_servers and not it.is_look
    it.grant()
    assert it.are_open and it.begin() and not it.is_of_servers and it.is_look
    it.show(Look())
    assert not it.are_open and not it.begin()
    assert said == ["reloading x.yaml"], "of what control has asked for it speaks itself"


def test_who_asks_for_the_file_is_answered(asked, logbook):
    it, said, _ = asked
    for number, (answer, outcome) in enumerate(
        [(it.grant, "reloaded"), (lambda: it.refuse("one\ntwo", "rolled back"), "rolled back")], 1
    ):
        assert logbook.reloads.ask("reload") == number
        assert it.begin()
        it.find(reloading.body([], ["mind"]))
        answer()
        assert logbook.reloads.done("reload") == number
        assert report(logbook, "reload")["outcome"] == outcome
    assert report(logbook, "reload")["why"] == ["one", "two"]
    assert said[2:] == ["one", "two", "x.yaml is not loaded, all goes on as before"]


def test_who_asks_for_other_servers_is_answered(asked, logbook):
    it, said, _ = asked
    number = logbook.ask()
    it.hear()
    assert it.begin()
    it.refuse("there is no such server")
    assert (logbook.refused(), logbook.done) == (Refusal(number, "there is no such server"), number)
    number = logbook.ask()
    it.hear()
    assert it.begin()
    it.grant()
    assert logbook.refused() == Refusal(number, "")
    assert said == []


@pytest.mark.parametrize("why", ["", "a port is taken"])
def test_what_a_look_finds_only_control_hears(asked, logbook, why):
    it, said, _ = asked
    logbook.reloads.ask("dry-run")
    assert it.begin()
    it.show(Look(why=why))
    told = report(logbook, "dry-run")
    assert (told["outcome"], told["why"]) == ("refused" if why else "checked", [why] if why else [])
    assert said == []


def test_a_look_that_cannot_be_had(asked, logbook):
    it, said, _ = asked
    logbook.reloads.ask("dry-run")
    assert it.begin()
    it.refuse("there can be no process to read it")
    assert report(logbook, "dry-run")["outcome"] == "refused" and said == []


def test_what_is_read(asked, logbook, monkeypatch):
    """The file; or what it has said already, with servers as control has them."""
    it, _, before = asked
    it.is_reload_wanted = True
    assert it.begin()
    made = it.read(current(before))
    assert isinstance(made, Draft) and made.plan.config == before.config
    it.grant()
    it._source = Source("x.yaml", lambda: pytest.fail("the file is read"))
    logbook.ask()
    it.hear()
    assert it.begin()
    made = it.read(current(before))
    assert isinstance(made, Draft) and made.plan.laid == before.laid


def test_without_a_file_there_is_nothing_to_read_again(logbook):
    said = []
    it = Wishes(logbook, None, say=lambda _, text: said.append(text))
    it.is_reload_wanted = True
    assert not it.begin() and not it.are_open
    assert said == ["SIGHUP: there is no file to read again"]
    number = logbook.reloads.ask("reload")
    assert not it.begin()
    assert logbook.reloads.done("reload") == number
    assert report(logbook, "reload")["outcome"] == "refused"
    logbook.ask()
    it.hear()
    assert it.begin() and it.is_of_servers, "that needs none"


def test_a_wish_that_another_version_was_asked_for_is_done(logbook):
    number = logbook.ask()
    assert logbook.is_asked(), "it has answered the bell"
    it = Wishes(logbook, None, say=lambda *_: None)
    assert it.begin() and it.is_of_servers
    it.grant()
    assert logbook.done == number
    assert not Wishes(logbook, None, say=lambda *_: None).begin()


def test_the_end_is_an_answer_too(asked, logbook):
    it, _, _ = asked
    logbook.reloads.ask("reload")
    assert it.begin()
    it.is_reload_wanted = True
    it.stop()
    assert select.select([logbook.reloads.told], [], [], 0)[0]
    assert report(logbook, "reload")["why"] == ["pybalancer is being stopped"]
    assert not it.are_open
