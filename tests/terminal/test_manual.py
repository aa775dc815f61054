from __future__ import annotations

import shutil
import subprocess

import pytest

from balancer import cli
from balancer.config.schema import schema
from balancer.terminal import manual

PARSER = cli._parser()
COMMANDS = {words: command for words, _, command in manual.commands(PARSER)}


@pytest.mark.parametrize("words", COMMANDS)
def test_each_command_has_examples_and_exit_statuses(words: str) -> None:
    said = COMMANDS[words].format_help()
    assert f"examples:\n  pybalancer {words}" in said and "\nexit status" in said
    assert all(len(line) <= 120 for line in said.splitlines())


def test_nothing_is_explained_that_is_not_there() -> None:
    assert manual.EPILOGS.keys() <= COMMANDS.keys()


def test_the_man_page_has_all_of_them() -> None:
    page = manual.page(PARSER, "0.1.0")
    for words in COMMANDS:
        assert f'.SS "{words}' in page
    assert r"\fB\-\-watch\fP \fISECONDS\fP" in page and ".SH EXIT STATUS" in page
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".SH", ".SS", ".TP", ".PP", ".nf", ".fi", ".br", ".BR"}


def test_the_other_page_has_every_key() -> None:
    whole = schema()
    page = manual.keys(whole, "0.1.0")
    for name, part in whole["$defs"].items():
        for key in part.get("properties", ()) if not name.endswith("Override") and name != "Node" else ():
            assert rf"\fB{key}\fP" in page, (name, key)
    assert '.SH "backends.NAME.servers.NAME"' in page and '.SH "backends.NAME.check of type http"' in page
    assert "(default: auto)" in page and "(default: true)" in page
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".SH", ".TP", ".BR"}


@pytest.mark.skipif(shutil.which("man") is None or shutil.which("groff") is None, reason="man is not installed")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (manual.page(PARSER, "0.1.0"), "pybalancer drain web/web1 --wait --timeout 10m"),
        (manual.keys(schema(), "0.1.0"), "Where clients come in, by name."),
    ],
    ids=["1", "5"],
)
def test_man_has_nothing_to_say_against_it(tmp_path, text, says) -> None:
    file = tmp_path / "pybalancer.1"
    file.write_text(text)
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-P", "cat", "-l", file], capture_output=True, text=True, timeout=30,
        env={"LANG": "C.UTF-8", "MANWIDTH": "120", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout
