"""Rules of the house that no linter knows. Imports between rooms are import-linter's part (`make check`)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path.relative_to(ROOT / "balancer")
    for path in (ROOT / "balancer").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
# A name that says nothing collects everything.
SAYS_NOTHING = {"common", "helper", "helpers", "manager", "misc", "tools", "util", "utils"}
# Fields and signatures, no statement to test.
DECLARATIONS = {
    "algorithms/base.py",
    "convert/haproxy_without.py",
    "observe/answer.py",
    "observe/upgrades.py",
    "pool/records.py",
}
# About no source file alone: this one, what hostile neighbours do to the whole of VRRP, what the rules do to packets,
# what the proxy makes of hostile messages, whose answer a client gets, who waits for a server, and what becomes of
# traffic in the kernel where names lead elsewhere, and over an upgrade.
OF_THE_WHOLE = {
    Path("layout.py"),
    Path("vrrp/hostile.py"),
    Path("kernel/traffic.py"),
    Path("daemon/kernel_names.py"),
    Path("daemon/kernel_upgrade.py"),
    Path("proxy/strictness.py"),
    Path("proxy/isolation.py"),
    Path("proxy/waiting.py"),
}


@pytest.mark.parametrize("source", [source for source in SOURCES if str(source) not in DECLARATIONS], ids=str)
def test_a_source_file_has_a_test_file_of_its_name(source):
    assert (ROOT / "tests" / source.parent / f"test_{source.name}").is_file()


def test_a_test_file_has_a_source_file():
    rooms = {source.parent for source in SOURCES}
    tests = [test.relative_to(ROOT / "tests") for room in rooms for test in (ROOT / "tests" / room).glob("test_*.py")]
    sources = {test.parent / test.name.removeprefix("test_") for test in tests}
    assert sources - set(SOURCES) == OF_THE_WHOLE


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_module_says_what_it_is_for_and_what_is_public(source):
    tree = ast.parse((ROOT / "balancer" / source).read_text())
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert ast.get_docstring(tree)
    assert "__all__" in [target.id for target in assigned if isinstance(target, ast.Name)]
    assert source.stem not in SAYS_NOTHING


def test_a_room_has_a_card_and_no_code():
    """`__init__.py` holds a docstring alone: what it imported would come with every module of the room."""
    for init in (ROOT / "balancer").glob("*/__init__.py"):
        tree = ast.parse(init.read_text())
        assert ast.get_docstring(tree), init
        assert len(tree.body) == 1, init
