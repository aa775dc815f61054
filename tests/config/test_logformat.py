from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.logformat import Field, fields, parse


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("%ci:%cp", (Field("ci"), ":", Field("cp"))),
        ("100%% of %s", ("100% of ", Field("s"))),
        ("%{+Q}r%{+Q,+E}HU", (Field("r", True), Field("HU", True, True))),
        ("%{+E, -E}r", (Field("r"),)),
        ("%{+Q}o %f %{-Q}b %s%o%f", (" ", Field("f", True), " ", Field("b"), " ", Field("s", True), Field("f", True))),
        ('{"a":%{+Q}s}', ('{"a":', Field("s", True), "}")),
        ("%hr|%hrl", (Field("hr"), "|", Field("hrl"))),
    ],
)
def test_text_and_variables(text: str, parts: tuple[object, ...]) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize(
    "text", ["%", "100% of", "%nosuch", "%[src]", "%{+Q}", "%{Q}r", "%{+X}r", "%{+Q", "%{}r", "%cix"]
)
def test_what_is_no_variable(text: str) -> None:
    with pytest.raises(ValueError, match=r"variable|flags"):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parts = parse(text)
    except ValueError as error:
        assert len(str(error)) < 500
    else:
        assert "%" in text or parts == ((text,) if text else ())


def test_what_only_requests_have() -> None:
    assert fields("%ci %ST %{+Q}r") == {"ci", "ST", "r"}
    assert fields("%ci %ST %{+Q}r", of_http=True) == {"ST", "r"}
