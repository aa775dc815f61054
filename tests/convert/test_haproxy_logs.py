from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("capture request header Host len 64", {"request_header": "Host", "len": 64}),
        ("capture response header Location len 20", {"response_header": "Location", "len": 20}),
        ("capture cookie SESSION len 9", {"cookie": "SESSION", "len": 9}),
    ],
)
def test_what_is_captured(web, line, made):
    result = web(f" {line}\n")
    assert result.made["frontends"]["f"]["capture"] == made
    assert result.told == []


def test_a_line_of_ones_own_ends_with_the_words_that_there_are(web):
    result = web(' log-format "%ci:%cp [%tr] %ft %b/%s %ST %B"\n')
    assert result.made["frontends"]["f"]["log_format"] == "%ci:%cp [%tr] %ft %b/%s %ST %B"
    assert result.told == []


def test_a_word_that_there_is_not_is_told_and_the_usual_line_stays(web):
    result = web(' log-format "%ci %[lua.mine]"\n')
    assert "log_format" not in result.made["frontends"]["f"]
    assert [told.partition(":")[0] for told in result.told] == ["5"]


def test_a_frontend_has_its_own_targets_only_where_they_are_others(web):
    same, other = web(" log stdout local0\n"), web(" log 192.0.2.1:514 local3\n")
    assert "log" not in same.made["frontends"]["f"]
    assert "udp://192.0.2.1:514" in other.text
