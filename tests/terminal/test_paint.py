from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.terminal.paint import UNBOUNDED, Paint, cut, octets, short


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "is_coloured"),
    [({}, True), ({"TERM": "xterm"}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False),
     ({"TERM": "dumb"}, False)],
)  # fmt: skip
def test_a_terminal_has_colours_where_they_are_wanted(environ: dict[str, str], is_coloured: bool) -> None:
    assert Paint.of(Terminal(), environ).is_coloured is is_coloured


def test_what_is_no_terminal_has_neither_colour_nor_end() -> None:
    assert Paint.of(io.StringIO(), {}) == Paint(False, UNBOUNDED)


@pytest.mark.parametrize(("columns", "width"), [("100", 100), ("3", 20), ("0", 80)])
def test_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError))
    assert Paint.of(Terminal(), {}).width == width


def test_without_colours_words_stay_words() -> None:
    plain, coloured = Paint(), Paint(True)
    for draw in (lambda paint: paint.tone("DOWN", "bad"), lambda paint: paint.strong("web")):
        assert "\x1b" not in draw(plain) and draw(coloured).startswith("\x1b[") and draw(coloured).endswith("\x1b[0m")
    assert coloured.faint("") == ""


@given(st.text(max_size=50), st.integers(0, 60))
def test_a_text_is_cut_and_commands_nobody(text: str, width: int) -> None:
    found = cut(text, width)
    assert len(found) <= width
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in found)


@pytest.mark.parametrize(
    ("number", "decimal", "binary"),
    [(0, "0", "0"), (9999, "9999", "9.8K"), (10_000, "10.0k", "9.8K"), (123_456, "123k", "121K"),
     (999_999, "1.0M", "977K"), (5_000_000_000, "5.0G", "4.7G"), (3 * 10**15, "3P", "3P")],
)  # fmt: skip
def test_numbers_are_short(number: int, decimal: str, binary: str) -> None:
    assert (short(number), octets(number)) == (decimal, binary)


@given(st.integers(0, 10**18))
def test_no_number_is_longer_than_its_column(number: int) -> None:
    assert len(short(number)) <= 5 and len(octets(number)) <= 5
