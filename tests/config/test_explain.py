"""Golden texts: `mistakes.txt` holds files with something wrong in them, and what is said about each."""

from __future__ import annotations

from pathlib import Path

import pytest

from balancer.config import read
from balancer.errors import ConfigError

ENVIRON = {"SET": "5", "EMPTY": "", "SECRET": "hunter2"}


def mistakes() -> list[object]:
    text = (Path(__file__).parent / "mistakes.txt").read_text(encoding="utf-8")
    cases = []
    for block in text.split("=== ")[1:]:
        name, _, rest = block.partition("\n")
        source, _, says = rest.partition("--- says\n")
        cases.append(pytest.param(source, says.strip("\n"), id=name))
    return cases


@pytest.mark.parametrize(("source", "says"), mistakes())
def test_a_mistake_is_told_in_these_words(source: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read.loads(source, file="b.yaml", node="this", environ=ENVIRON)
    assert str(caught.value) == says


@pytest.mark.parametrize(("source", "says"), mistakes())
def test_no_complaint_speaks_of_pydantic_or_python(source: str, says: str) -> None:
    for word in ("pydantic", "Input", "valid ", "NoneType", "dict", "tuple", "Error", "BROKEN", "Traceback"):
        assert word not in says
