from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.convert.keepalived_lines import blocks
from balancer.convert.words import Report


def read(text, file="f", **options):
    report = Report()
    return [outline(block) for block in blocks(text, file, report, **options)], [str(note) for note in report.told]


def outline(block):
    return (*block.line.words, [outline(each) for each in block.inner]) if block.is_block else block.line.words


def test_blocks():
    text = "a b {\n  c d # e\n  ! f\n  g {\n h\n }\n}\ni {}\nj\n{\nk\n}\n"
    assert read(text) == ([("a", "b", [("c", "d"), ("g", [("h",)])]), ("i", []), ("j", [("k",)])], [])


def test_a_block_on_one_line():
    assert read("a { b c }\n")[0] == [("a", [("b", "c")])]


def test_quotes_hold_words_together():
    assert read("notify \"/bin/x {y} #1\" 'z'\n")[0] == [("notify", "/bin/x {y} #1", "z")]


def test_definitions():
    assert read("$P=150\n$Q=${P}0\na $P $Q $R\n")[0] == [("a", "150", "1500", "$R")]


def test_comments_begin_anywhere():
    assert read("a b#c\nd!e\nf${_HASH}g h${_BANG}\n")[0] == [("a", "b"), ("d",), ("f#g", "h!")]


def test_lines_of_a_configuration_id():
    text = "@one a 1\n@two a 2\n@^one a 3\nb\n"
    assert read(text, config_id="one")[0] == [("a", "1"), ("b",)]
    assert read(text)[0] == [("a", "3"), ("b",)]


def test_a_line_goes_on_behind_a_backslash():
    assert read("a \\\nb\nc\n")[0] == [("a", "b"), ("c",)]


def test_files_are_included(tmp_path):
    (tmp_path / "one.conf").write_text("b {\n c\n}\n")
    (tmp_path / "two.conf").write_text("include two.conf\n")
    found, told = read("a\ninclude *.conf\ninclude none.conf\n", str(tmp_path / "main"))
    assert found == [("a",), ("b", [("c",)])]
    assert told[-1].endswith("there is no such file") or "include each other" in told[-1]
    assert any("include each other" in each for each in told)


def test_braces_that_do_not_fit_are_told():
    assert [note.rpartition(": ")[2] for note in read("a {\n b\n")[1]] == ["this block is not closed"]
    assert [note.rpartition(": ")[2] for note in read("a\n}\n")[1]] == ["a brace closes that was not opened"]
    assert [note.rpartition(": ")[2] for note in read("{\n}\n")[1]] == ["a brace opens that belongs to nothing"]


@given(st.text(st.sampled_from("ab{}\"'#!$@=\\ \n"), max_size=80))
def test_nothing_upsets_it(text):
    read(text)
