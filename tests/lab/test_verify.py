"""The eight steps by which the cluster shows that it works."""

from __future__ import annotations

import pytest

from tests.lab.lab import Lab
from tests.lab.verify import STEPS, NotShownError, Person, Step, verify


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.number}")
def test_step(lab: Lab, step: Step) -> None:
    step.show(Person(lab, print))


def test_all_steps_are_there() -> None:
    assert [step.number for step in STEPS] == list(range(1, 9))


def test_a_failure_is_told_and_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(person: Person) -> None:
        person.types("echo tried")
        raise NotShownError("it does not")

    def passes(person: Person) -> None:
        person.page("http://192.168.1.200/")

    steps = (Step(1, "one", fails), Step(2, "two", passes), Step(3, "three", fails))
    monkeypatch.setattr("tests.lab.verify.STEPS", steps)
    said: list[str] = []
    assert verify(lab, said.append) == 2
    assert said[:4] == ["\n=== 1. one", "client$ echo tried", "tried", "FAIL 1: it does not"]
    assert "FAIL 3: it does not" in said
    assert said[-1] == "\n1 of 3 steps pass, 2 fail"
