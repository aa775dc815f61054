"""Whatever the old files say, what is made of them loads."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.config.read import loads
from balancer.convert import keepalived
from balancer.convert.importer import import_files
from balancer.convert.mend import mend
from balancer.convert.render import commented
from balancer.convert.tree import Map, Seq
from balancer.convert.words import Fate, Line, Place, Report, UnreadableError

ROWS = sorted(
    {row.strip() for path in (Path(__file__).parent / "corpus").glob("*.cfg") for row in path.read_text().splitlines()}
    - {""}
)
WORDS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-1",
        "99999",
        "a b",
        "/x",
        "/../x",
        "10.0.0.1",
        "::1",
        "::",
        "${A}",
        "%[",
        "é",
        "\x7f",
        "if",
        "{",
        "}",
        "!",
        "TRUE",
        "src",
        "path",
        "ssl",
        "check",
        "*",
        "1s",
        "0s",
        "b",
        "f",
        "x" * 400,
        "(?=",
        "[",
        "\\1",
        "'",
    ]
)
KEYWORDS = st.sampled_from(sorted({row.split()[0] for row in ROWS} | {" ".join(row.split()[:2]) for row in ROWS}))
LINES = st.one_of(
    st.sampled_from(ROWS),
    st.builds(lambda keyword, words: " ".join([keyword, *words]), KEYWORDS, st.lists(WORDS, max_size=4)),
)
BASE = (
    "listen base\n mode http\n bind 127.0.0.1:1\n server s 127.0.0.1:2\n"
    "frontend f\n bind 127.0.0.1:3\n default_backend base\n"
)
BLOCKS = sorted(
    {
        *keepalived._INSTANCE,
        *keepalived._VIRTUAL_SERVER,
        *keepalived._REAL_SERVER,
        *keepalived._CHECK,
        *keepalived._SCRIPT,
    }
)


def loaded(text, tmp_path_factory):
    path = tmp_path_factory / "x"
    path.write_text(text)
    report = import_files([str(path)], environ={"A": "v"}, may_write_files=False)
    loads(report.text, node="", environ={"A": "v"})
    return report


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=12), st.lists(LINES, max_size=6))
def test_any_haproxy_cfg_gives_what_loads(tmp_path, first, last):
    try:
        loaded("\n".join([*first, BASE, *last]) + "\n", tmp_path)
    except UnreadableError:
        # The first lines may leave nothing of what stands behind them.
        assert any(row.startswith(".") for row in first)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(BLOCKS), st.lists(WORDS, max_size=2), st.booleans()), max_size=8))
def test_any_keepalived_conf_gives_what_loads(tmp_path, rows):
    inner = "\n".join(" ".join([word, *words]) + (" {\n x 1\n}" if is_block else "") for word, words, is_block in rows)
    loaded(
        f"vrrp_instance V {{\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {{\n192.0.2.1\n}}\n{inner}\n}}\n"
        f"virtual_server 192.0.2.1 80 {{\n{inner}\nreal_server 10.0.0.1 80 {{\n"
        f"{inner}\nTCP_CHECK {{\n{inner}\n}}\n}}\n}}\n"
        "vrrp_instance W {\ninterface eth1\nvirtual_router_id 2\nvirtual_ipaddress {\n192.0.2.2\n}\n}\n",
        tmp_path,
    )


def test_a_rule_goes_as_a_whole_and_what_leads_to_it_by_name():
    root = Map()
    front, rules = Map(), Seq()
    rules.add({"deny": True, "if": "gone"}, Line(("deny",), Place("f", 7)))
    rules.add({"deny": 404}, Line(("deny",), Place("f", 8)))
    for key, value in (("mode", "http"), ("bind", "127.0.0.1:1"), ("http_request", rules), ("default_backend", "b")):
        front.put(key, value)
    root.under("frontends").put("f", front, Line(("frontend", "f"), Place("f", 1)))
    root.under("acls").put("gone", {"path": "/../x"}, Line(("acl", "gone"), Place("f", 2)))
    servers = Map()
    servers.put("s", {"address": "127.0.0.1:2", "weight": 999}, Line(("server", "s"), Place("f", 9)))
    root.under("backends").under("b").put("servers", servers)
    report = Report()
    assert mend(root, report, node="", environ={}, files={}) is not None
    made = yaml.safe_load(commented(root, str))
    assert "acls" not in made
    assert made["frontends"]["f"]["http_request"] == [{"deny": 404}]
    assert made["backends"]["b"]["servers"] == {"s": {"address": "127.0.0.1:2"}}
    assert [note.place.line for note in report.of(Fate.LOST)] == [2, 7, 9]


def test_a_frontend_that_clashes_goes(tmp_path):
    text = "listen a\n bind :1\n server s 127.0.0.1:2\nlisten b\n bind :1\n server s 127.0.0.1:2\n"
    found = loaded(text, tmp_path)
    assert [note.place.line for note in found.report.of(Fate.LOST)] == [5]


def test_large_files_take_no_longer_than_they_must(tmp_path):
    rows = [f"listen l{i}\n bind 127.0.0.1:{10000 + i}\n server s 10.0.0.1:80 weight {i % 300}\n" for i in range(300)]
    random.Random(1).shuffle(rows)
    found = loaded("".join(rows), tmp_path)
    assert len(yaml.safe_load(found.text)["frontends"]) == 300


@pytest.mark.parametrize("text", ["x" * 1000, "global\n\x1b\x00", "\n" * 100000, "{" * 5000, "vrrp_instance {\n" * 500])
def test_nonsense_is_refused(tmp_path, text):
    with pytest.raises(UnreadableError):
        loaded(text, tmp_path)
