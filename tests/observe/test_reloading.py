"""What is said of a reload."""

from __future__ import annotations

import asyncio
import json

import pytest

from balancer.config.diff import Key
from balancer.observe import reloading
from balancer.observe.command import Desk, Level, Session, commands, obey, told
from balancer.observe.reloading import Change
from balancer.observe.servers import SuccessionError
from balancer.observe.steering import SteeringError

ALL = Change("workers", "all workers are new", "added", effect="new connections go to 2 new workers; none is open now")
WEIGHT = Change("server", "b/s", "changed", (Key("weight", "1", "5"),), "no connection is touched")
FOUND = [ALL, WEIGHT, Change("acl", "x", "removed"), Change("server", "b/t", "added", effect="takes clients at once")]


def report(outcome: reloading.Outcome = "reloaded", why: str = "", found: list[Change] = FOUND) -> bytes:
    head = reloading.head(outcome, "x.yaml", at=1e9, seconds=0.25, why=why)
    return head + b"\n" + reloading.body(found, ["mind this"], ["engine proxy"])


def test_a_line() -> None:
    assert reloading.line(FOUND) == "1 server added (b/t); 1 server changed (b/s); changed: acls"
    assert reloading.line([ALL]) == ""
    assert reloading.line([ALL, Change("files", "/x", "changed")]) == "changed: files that it names"
    more = [Change("workers", "3 workers instead of 2", "changed"), Change("global", "", "changed")]
    assert reloading.line(more) == "3 workers instead of 2; changed: global"
    many = [Change("backend", f"b{i}", "removed") for i in range(7)]
    assert reloading.line(many) == "7 backends removed (b0, b1, b2, b3, b4 and 2 more)"


def test_lines() -> None:
    assert list(reloading.lines(FOUND)) == [
        "all workers are new: new connections go to 2 new workers; none is open now",
        "server b/s changed: weight 1 -> 5; no connection is touched",
        "acl x removed",
        "server b/t added: takes clients at once",
    ]


def test_a_text() -> None:
    assert reloading.text(json.loads(reloading.document(report()))) == (
        "warning: mind this\n"
        "engine proxy\n"
        "* all workers are new: new connections go to 2 new workers; none is open now\n"
        "~ server b/s changed: weight 1 -> 5; no connection is touched\n"
        "- acl x removed\n"
        "+ server b/t added: takes clients at once\n"
        "x.yaml: reloaded in 0.25 s\n"
    )


@pytest.mark.parametrize(
    ("outcome", "why", "said"),
    [
        ("checked", "", "x.yaml: would be loaded; nothing has changed (--dry-run)\n"),
        ("refused", "x:1:1: bad\n\nand more", "x:1:1: bad\nand more\nx.yaml: not loaded, all goes on as before\n"),
        ("rolled back", "no port", "no port\nx.yaml: not loaded, rolled back after 0.25 s; all goes on as before\n"),
    ],
)
def test_what_came_of_it(outcome: reloading.Outcome, why: str, said: str) -> None:
    text = reloading.text(json.loads(reloading.document(report(outcome, why))))
    assert text.endswith(said)
    # An empty line is the end of an answer.
    assert "\n\n" not in text


def test_there_is_an_end_to_it() -> None:
    found = json.loads(reloading.document(report(found=[WEIGHT] * 10_005)))
    assert (len(found["changes"]), found["more"]) == (10_000, 5)
    assert "… and 5 more\n" in reloading.text(found)


def say(line: str, answer: bytes | Exception, level: Level = Level.ADMIN) -> tuple[str, list[object]]:
    asked: list[object] = []

    async def ask(is_dry: bool, number: int | None, by: str) -> tuple[int, bytes]:
        asked.append((is_dry, number, by))
        if isinstance(answer, Exception):
            raise answer
        return 7, answer

    desk = Desk(now=lambda: 0.0, reload=ask)
    (words,) = commands(line)
    return asyncio.run(obey(words, Session(level, "me", severity="number"), desk)), asked


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("reload", (False, None, "me")),
        ("reload dry-run", (True, None, "me")),
        ("reload json dry-run", (True, None, "me")),
        ("show reload", (False, None, "")),
        ("show reload dry-run json 12", (True, 12, "")),
    ],
)
def test_commands(line: str, asked: object) -> None:
    said, found = say(line, report())
    assert found == [asked]
    assert ("json" in line) == said.startswith("{")
    assert said.endswith("reloaded in 0.25 s\n") or json.loads(said)["outcome"] == "reloaded"


@pytest.mark.parametrize("outcome", ["refused", "rolled back"])
def test_what_did_not_come_to_be_is_an_error(outcome: reloading.Outcome) -> None:
    assert say("reload", report(outcome, "why"))[0].startswith("[3]: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("reload 7", "[3]: 'reload' has no argument '7', but 'dry-run' and 'json'.\n"),
        ("reload dry-run dry-run", "[3]: 'reload' has no argument 'dry-run', but 'dry-run' and 'json'.\n"),
        ("show reload of", "[3]: 'show reload' has no argument 'of', but 'json'.\n"),
    ],
)
def test_nonsense(line: str, said: str) -> None:
    assert say(line, report()) == (said, [])


def test_whose_level_is_too_low_does_not_reload_but_may_look() -> None:
    assert say("reload", report(), Level.OPERATOR) == ("[3]: Permission denied\n", [])
    assert say("show reload", report(), Level.USER)[1]


def test_there_was_none_or_it_takes_long() -> None:
    assert say("show reload", b"")[0] == "There was no reload yet.\n"
    assert say("reload", SteeringError("It takes long."))[0] == "[3]: It takes long.\n"
    assert asyncio.run(obey(["reload"], Session(Level.ADMIN), Desk(now=float))) == (
        "Nobody here reads the configuration again.\n"
    )


def test_another_process_is_asked_by_its_number() -> None:
    async def ask(*_: object) -> tuple[int, bytes]:
        raise SuccessionError(12)

    async def run() -> None:
        async for _ in told(["reload", "json", "dry-run"], Session(Level.ADMIN), Desk(now=float, reload=ask)):
            pass

    with pytest.raises(SuccessionError) as raised:
        asyncio.run(run())
    assert raised.value.args == (None, ["show", "reload", "dry-run", "json", "12"])
