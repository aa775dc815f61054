"""`pybalancer doctor` on directors that are well, and on one with a firewall."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.lab import services
from tests.lab.lab import Lab, Node
from tests.lab.space import why_not

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

# Of the machine that the lab runs on, not of a director.
OF_THE_MACHINE = {"clock", "descriptors", "memory", "processors"}


def found(node: Node, *words: str) -> list[dict[str, Any]]:
    """What is not in order, or cannot be told."""
    said = node.outcome("pybalancer", "doctor", "--json", "-c", str(services.CONFIGURATION), *words)
    assert said.stderr.startswith("warning: no master under nodes") or not said.stderr
    findings: list[dict[str, Any]] = json.loads(said.stdout)["findings"]
    return [each for each in findings if each["verdict"] != "ok" and each["check"] not in OF_THE_MACHINE]


def test_directors_that_are_well(lab: Lab) -> None:
    with ThreadPoolExecutor() as pool:
        for result in pool.map(lambda name: found(lab[name], "--listen", "2.2", "--servers"), ("master", "standby")):
            assert result == []


def test_a_director_with_a_page_that_nobody_gets_to(lab: Lab) -> None:
    standby = lab["standby"]
    standby.run("nft", "add table inet f; add chain inet f i { type filter hook input priority 0; policy accept; }")
    try:
        standby.run("nft", "add rule inet f i tcp dport 7000 drop")
        (closed,) = [each for each in found(standby, "--quiet-net") if each["verdict"] == "problem"]
        assert (closed["check"], closed["what"]) == ("firewall", "tcp 0.0.0.0:7000 is dropped by inet f i")
        standby.run("sh", "-c", closed["now"][0])
        assert [each for each in found(standby, "--quiet-net") if each["verdict"] == "problem"] == []
    finally:
        standby.run("nft", "delete table inet f")
