from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from balancer.config.values import WANTS_TEXT, FilePath, OneOrMany, Short, Switch, Unit, Whole, Written


class Door(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    width: int = 1
    open: bool = False


NAME = Written("[a-z]+", "a name is made of small letters", 5)
SECRET = Written("[a-z]+", "small letters only", secret=True)


def complaint(kind: Any, value: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    (error,) = caught.value.errors()
    return error["type"] if error["type"] == WANTS_TEXT else str(error["ctx"]["error"])


def test_text_of_a_pattern() -> None:
    kind = Annotated[str, NAME]
    assert TypeAdapter(kind).validate_python("abc") == "abc"
    assert complaint(kind, "") == "must not be empty"
    assert complaint(kind, "abcdef") == "is too long; 5 characters are allowed"
    assert complaint(kind, "a b") == "'a b' is not allowed; a name is made of small letters"
    assert complaint(kind, "abc\n") == r"'abc\n' is not allowed; a name is made of small letters"
    assert complaint(kind, 5) == WANTS_TEXT
    assert complaint(Annotated[str, SECRET], "PASSWORD") == "this value is not allowed; small letters only"
    assert TypeAdapter(kind).json_schema() == {
        "type": "string", "pattern": "^(?:[a-z]+)$", "minLength": 1, "maxLength": 5,
    }  # fmt: skip


def test_a_relative_path_starts_from_the_directory_in_the_context() -> None:
    path = TypeAdapter(Annotated[str, FilePath()])
    assert path.validate_python("a/b.html", context={"directory": "/etc/x"}) == "/etc/x/a/b.html"
    assert path.validate_python("/a/b.html", context={"directory": "/etc/x"}) == "/a/b.html"
    assert path.validate_python("a/b.html") == "a/b.html"


def test_whole_numbers_of_a_range() -> None:
    kind = Annotated[int, Whole(0, 256)]
    assert [TypeAdapter(kind).validate_python(number) for number in (0, 256)] == [0, 256]
    assert complaint(kind, 257) == "wants a whole number from 0 to 256, not 257"
    assert complaint(kind, True) == "wants a whole number from 0 to 256, not true"
    assert complaint(kind, 1.0) == "wants a whole number from 0 to 256, not 1.0"
    assert complaint(kind, "5") == "wants a whole number from 0 to 256, not '5' (a number stands without quotes)"
    assert complaint(kind, "five") == "wants a whole number from 0 to 256, not 'five'"
    assert TypeAdapter(kind).json_schema() == {"type": "integer", "minimum": 0, "maximum": 256}


def test_a_unit_reads_what_its_schema_shows() -> None:
    kind = TypeAdapter(Annotated[float, Unit(float, {"type": "string", "pattern": "^[0-9]+$"})])
    assert kind.validate_python("5") == 5.0
    assert kind.json_schema() == {"type": "string", "pattern": "^[0-9]+$"}


def test_one_item_may_stand_without_its_list() -> None:
    kind = TypeAdapter(Annotated[tuple[Annotated[str, NAME], ...], OneOrMany()])
    assert kind.validate_python("a") == ("a",)
    assert kind.validate_python(("a", "b")) == ("a", "b")
    assert [part.get("type") for part in kind.json_schema()["anyOf"]] == ["string", "array"]


def test_a_mapping_may_be_its_main_value_alone() -> None:
    kind = Annotated[Door, Short("width", int, "a width or a mapping", {"type": "integer"})]
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(3) == adapter.validate_python({"width": 3}) == Door(width=3)
    assert adapter.validate_python(Door(width=4)) == Door(width=4)
    assert complaint(kind, "wide") == "wants a width or a mapping, not 'wide'"


@pytest.mark.parametrize(
    ("written", "means"),
    [(True, Door()), (False, None), (None, None), ({}, Door()), ({"width": 2}, Door(width=2)), (Door(), Door())],
)
def test_a_switch(written: Any, means: Door | None) -> None:
    assert TypeAdapter(Annotated[Door | None, Switch()]).validate_python(written) == means


def test_a_switch_is_no_text() -> None:
    assert complaint(Annotated[Door | None, Switch()], "open") == "wants true, false or a mapping, not 'open'"
