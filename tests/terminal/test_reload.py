from __future__ import annotations

import io
from pathlib import Path

import pytest

from balancer.errors import BalancerError
from balancer.observe import reloading
from balancer.observe.client import Answer
from balancer.observe.reloading import Change
from balancer.terminal import reload
from balancer.terminal.reload import DONE, NOT_LOADED, ROLLED_BACK


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def ask(path: str, *words: str, patience: float) -> Answer:
        asked.append(words)
        assert path == "/x" and patience > 100
        return Answer(text, False)

    monkeypatch.setattr(reload.client, "ask", ask)
    return asked


def said(outcome: reloading.Outcome, why: str = "") -> str:
    head = reloading.head(outcome, "x.yaml", at=0.0, seconds=0.5, why=why)
    return reloading.document(head + b"\n" + reloading.body([Change("acl", "x", "added")])) + "\n"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("reloaded", DONE), ("checked", DONE), ("refused", NOT_LOADED), ("rolled back", ROLLED_BACK)],
)
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("is_dry", [False, True])
def test_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch, outcome: reloading.Outcome, status: int, *, as_json: bool, is_dry: bool
) -> None:
    text = said(outcome, "the reason" if status else "")
    asked = answer(monkeypatch, text)
    out, err = io.StringIO(), io.StringIO()
    assert reload.reload("/x", is_dry=is_dry, as_json=as_json, out=out, err=err) == status
    assert asked == [("reload", "dry-run", "json") if is_dry else ("reload", "json")]
    if as_json:
        assert (out.getvalue(), err.getvalue()) == (text, "")
    else:
        told, silent = (err, out) if status else (out, err)
        assert "+ acl x added\n" in told.getvalue() and silent.getvalue() == ""
        assert ("the reason\n" in told.getvalue()) == (status > 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Permission denied\n", "/x does not allow it: global.runtime_socket.level has to be admin"),
        ("Unknown command: 'reload'. Please\n", "older than this command"),
        ("It takes long\n", "It takes long"),
        ("[]\n", r"\[\]"),
        ("{}\n", "{}"),
        ("", "/x: there was no answer"),
    ],
)
def test_no_answer(monkeypatch: pytest.MonkeyPatch, text: str, why: str) -> None:
    answer(monkeypatch, text)
    with pytest.raises(BalancerError, match=why):
        reload.reload("/x", is_dry=False, as_json=False, out=io.StringIO(), err=io.StringIO())


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match="does not run here"):
        reload.reload(str(tmp_path / "x"), is_dry=True, as_json=False, out=io.StringIO(), err=io.StringIO())
