from __future__ import annotations

import pytest

from balancer.daemon import claim, kernelleft, lock
from balancer.daemon.claim import Claim
from balancer.errors import KernelError, StartError


class Lock:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """What is asked of it, with a claim and what that says."""
    asked, said = [], []
    monkeypatch.setattr(lock, "exclusive", lambda patience=2.0: asked.append(("exclusive", patience)) or Lock())
    monkeypatch.setattr(kernelleft, "state_file", lambda _: tmp_path / "state")
    monkeypatch.setattr(kernelleft, "clear", lambda state: asked.append(("clear", state)))
    return Claim(None, lambda _, text: said.append(text)), asked, said


def test_where_there_were_no_rules_nothing_is_taken_away(kernel):
    it, asked, _ = kernel
    it.give_back()
    assert (it.is_held, asked) == (False, [])
    it.take(waits=True)
    lock = it._lock
    it.give_back()
    assert (it.is_held, lock.is_closed, asked) == (False, True, [("exclusive", 2.0)])


def test_rules_do_not_outlive_it(kernel, tmp_path):
    it, asked, _ = kernel
    it.take(waits=False)
    it.has_rules = True
    it.give_back()
    assert asked == [("exclusive", 0.0), ("clear", tmp_path / "state")]


def test_what_cannot_be_taken_away_is_said(kernel, monkeypatch):
    it, _, said = kernel

    def refuse(_):
        raise KernelError("it will not")

    monkeypatch.setattr(kernelleft, "clear", refuse)
    it.take(waits=True)
    it.has_rules = True
    it.give_back()
    assert said == ["the kernel's rules could not be taken away: it will not"]
    assert not it.is_held


def test_another_version_has_it_too(kernel, tmp_path):
    it, _, _ = kernel
    assert it.estate() == {"lock": None, "state": "", "has_rules": False}
    assert not Claim(None, lambda *_: None, it.estate()).is_held
    it.take(waits=True)
    it.has_rules = True
    other = Claim(None, lambda *_: None, it.estate())
    assert (other.is_held, other.state, other.has_rules) == (True, tmp_path / "state", True)


def test_what_an_earlier_run_has_left(kernel, monkeypatch, tmp_path):
    it, _, said = kernel
    monkeypatch.setattr(claim, "_TRACES", tmp_path / "kernel")
    monkeypatch.setattr(kernelleft, "clear_leftovers", lambda: pytest.fail("there was none"))
    it.clear_leftovers()
    (tmp_path / "kernel").mkdir()
    monkeypatch.setattr(kernelleft, "clear_leftovers", lambda: ["they are taken away"])
    it.clear_leftovers()

    def refuse():
        raise StartError("nobody may")

    monkeypatch.setattr(kernelleft, "clear_leftovers", refuse)
    it.clear_leftovers()
    assert said == [
        "they are taken away",
        "what an earlier run has left in the kernel cannot be taken away: nobody may",
    ]
