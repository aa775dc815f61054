from __future__ import annotations

import pytest

from balancer.config import units
from balancer.convert.words import (
    CannotError,
    Fate,
    Line,
    Place,
    Report,
    UnreadableError,
    milliseconds,
    number,
    read_text,
    size,
)


@pytest.mark.parametrize(
    ("word", "unit", "duration"),
    [
        ("5000", "ms", "5s"), ("1500", "ms", "1500ms"), ("60000", "ms", "60s"), ("90000", "ms", "90s"),
        ("3600000", "ms", "60m"), ("7200000", "ms", "2h"), ("30", "s", "30s"), ("240", "s", "4m"),
        ("500us", "ms", "500us"),
        ("1d", "s", "1d"), ("0", "ms", None), ("0s", "ms", None),
    ],
)  # fmt: skip
def test_times(word, unit, duration):
    assert milliseconds(word, unit=unit) == duration
    if duration is not None:
        units.duration(duration)


@pytest.mark.parametrize("word", ["", "x", "-1", "1.5s", "1w", "1 s"])
def test_what_is_no_time(word):
    with pytest.raises(CannotError):
        milliseconds(word)


def test_numbers_and_sizes():
    assert (number("12"), size("16k"), size("100"), size("1M")) == (12, 16384, 100, 1 << 20)
    for word in ("", "-1", "1e3", "9" * 30, "\u0663"):
        with pytest.raises(CannotError):
            number(word)
    with pytest.raises(CannotError):
        size("1t")


def test_secrets_are_not_shown():
    line = Line(("stats", "auth", "admin:123"), Place("f", 1))
    assert str(line) == "stats auth …"
    assert str(Line(("stats", "auth", "admin:1", "2 3"), Place("f", 1))) == "stats auth …"
    for words in (("admin",), ("admin", "123"), ("123", "password", "admin"), ("a", "insecure-password", "1", "23")):
        assert str(Line(("user", *words), Place("f", 1), of_users=True)) == "user …"
    assert str(Line(("user",), Place("f", 1), of_users=True)) == "user"
    assert str(Line(("user", "nobody"), Place("f", 1))) == "user nobody"
    assert "\x1b" not in str(Line(("a\x1bb", "x" * 300), Place("f", 1)))
    assert len(str(Line(("x" * 300,), Place("f", 1)))) == 100


def test_a_report_has_each_note_once_and_in_order():
    report = Report()
    for number_ in (3, 1, 3):
        report.lost(Line(("a",), Place("f", number_)), "why")
    report.idle(Line(("b",), Place("f", 2)), "so")
    assert [str(note) for note in report.of(Fate.LOST)] == ["f:1: a: why", "f:3: a: why"]
    assert report.told == report.of(Fate.LOST)


def test_lines_of_a_section_of_which_nothing_is_left_are_told():
    report = Report()
    gone, kept = Line(("backend", "a"), Place("f", 1)), Line(("backend", "b"), Place("f", 3))
    report.begins(gone, [Line(("x",), Place("f", 2))])
    report.begins(kept, [Line(("y",), Place("f", 4))])
    report.lost(gone, "why")
    report.finish({kept.place})
    assert [note.place.line for note in report.told] == [1, 2]


def test_texts_are_read_as_far_as_they_are_texts(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"\xef\xbb\xbfa\xff\xee\x80\x80")
    assert read_text(file) == "a\ufffd?"
    with pytest.raises(UnreadableError, match="Is a directory"):
        read_text(tmp_path)
