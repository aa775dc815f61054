"""The page of a recorded run: whole, without anything from elsewhere, and true to its figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import presentation
import pytest

from tests.bench import recorded

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Makes sure that what is opened is closed in order, and keeps pictures and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found)
        self.links += [str(found[name]) for name in ("src", "href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        # These may be left open (HTML, optional tags); nothing of ours is.
        assert self.open.pop() == tag


def read(content: dict[str, Any], folder: Path) -> tuple[str, Reader]:
    text = presentation.write(content, folder).read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_a_recorded_run(tmp_path: Path) -> None:
    text, reader = read(recorded.content(), tmp_path)
    assert [link for link in reader.links if not link.startswith(("data:image/svg+xml;base64,", "#"))] == []
    assert len(reader.pictures) == 3
    assert all(picture["alt"] for picture in reader.pictures)
    assert "Most: no balancer 10\u202f000 at 4" in str(reader.pictures[0]["alt"])
    assert "The machine was quiet." in text
    assert "IPVS: not available here (this kernel has no ip_vs)" in text
    assert re.search(r"<th scope=\"row\">IPVS</th>.*not available here: this kernel has no ip_vs", text)
    assert text.count('<tr class="ours">') == 4
    assert "latency, round 5: not measured (time was up)" in text
    assert "Its processes used 95% of a core" in text
    assert "http-reuse safe" in text
    for name in ("l7", "kernel", "growth"):
        assert (tmp_path / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("gone", ["sweeps", "works", "failover", "noise"])
def test_a_run_of_which_a_part_is_missing(gone: str, tmp_path: Path) -> None:
    little = recorded.content(sweeps=[], works=recorded.content()["works"][:1])
    text, _ = read(little | {gone: []}, tmp_path)
    assert text.count("Not measured in this run.") == (2 if gone in ("works", "failover") else 1)
    assert ("The machine was too noisy to be believed." in text) == (gone == "noise")


def test_a_run_that_was_broken_off_at_once(tmp_path: Path) -> None:
    sweep = recorded.sweep("l7", recorded.L7) | {"samples": []}
    text, reader = read(recorded.content(sweeps=[sweep], works=[], failover=[]), tmp_path)
    assert reader.pictures == []
    assert "No figure of pybalancer was measured" in text


def test_what_programs_say_of_themselves_is_text(tmp_path: Path) -> None:
    said = {"pybalancer": "<script>", "named": "<id:>"}
    text, _ = read(recorded.content(versions=said, sweeps=[], works=[]), tmp_path)
    assert "&lt;id:&gt;" in text
    assert "<script>" not in text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    one = recorded.content(sweeps=[recorded.sweep("l7", recorded.L7)], works=[])
    first, _ = read(one, tmp_path / "a")
    second, _ = read(one, tmp_path / "b")
    assert first == second


def test_the_summary_names_gaps_and_what_is_not_there() -> None:
    told = presentation.summary(recorded.content()).splitlines()
    assert told[0] == "The machine was quiet."
    assert "behind: 2 of 14 figures beside a peer's" in told
    assert "gap: sweep l7, the most: pybalancer 2\u202f010 requests/s, HAProxy 4\u202f000" in told
    assert told[-2:] == [
        "not available here: IPVS (this kernel has no ip_vs)", "not measured: latency, round 5 (time was up)",
    ]  # fmt: skip
