from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from balancer.errors import KernelError, StartError
from balancer.kernel import nft as module
from balancer.kernel.nft import Nft
from tests.vrrp.conftest import Net

from .conftest import as_root, refused

pytestmark = as_root


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.close()


@pytest.fixture
def nft(net: Net) -> Iterator[Nft]:
    with net:
        nft = Nft()
    yield nft
    nft.close()


def test_it_acts_where_it_was_made(net: Net, nft: Nft) -> None:
    nft.run("add table inet t")
    with net:
        second = Nft()
    assert second.run("list tables") == nft.run("list tables") == "table inet t\n"
    second.close()
    outside = Nft()
    assert "inet t\n" not in outside.run("list tables")
    outside.close()


def test_all_or_nothing(nft: Nft) -> None:
    with pytest.raises(KernelError):
        nft.run("add table inet t\nadd rule inet t nowhere accept")
    assert nft.run("list tables") == ""


def test_the_error_says_what_and_where(nft: Nft) -> None:
    nft.run("add table inet t\nadd chain inet t c")
    with pytest.raises(KernelError) as refused:
        nft.run("add rule inet t c accept\nadd rule inet t c goto nowhere")
    assert str(refused.value) == "Could not process rule: No such file or directory: add rule inet t c goto nowhere"
    with pytest.raises(KernelError, match=r": add rule inet t c goto nowhere$"):
        good, bad = ["add rule inet t c accept"], ["add rule inet t c goto nowhere"]
        nft.run("\n".join(good * 1000 + bad + good * 9))
    with pytest.raises(KernelError, match=r"^syntax error.*: add rule inet t$"):
        nft.run("add rule inet t\n")
    assert "accept" not in nft.run("list ruleset")


def test_a_long_line_is_cut(nft: Nft) -> None:
    with pytest.raises(KernelError) as refused:
        nft.run("add element inet t s { " + ", ".join(map(str, range(10000))) + " }")
    assert str(refused.value).endswith(" …")
    assert len(str(refused.value)) < 300


def test_errors_do_not_pile_up(nft: Nft) -> None:
    for name in ("one", "other"):
        with pytest.raises(KernelError) as refused:
            nft.run(f"list table inet {name}")
        assert str(refused.value).count("list table") == 1
        assert nft.run("list tables") == ""


def test_a_check_changes_nothing(nft: Nft) -> None:
    nft.check("add table inet t")
    with pytest.raises(KernelError):
        nft.check("add chain inet t c")
    assert nft.run("list tables") == ""
    nft.run("add table inet t")
    assert nft.run("list tables") == "table inet t\n"


def test_json_and_text_in_turns(nft: Nft) -> None:
    nft.run("add table inet t")
    assert [entry["table"]["name"] for entry in nft.list_json("list tables") if "table" in entry] == ["t"]
    assert nft.run("list tables") == "table inet t\n"
    with pytest.raises(KernelError):
        nft.list_json("list table inet other")
    assert nft.run("list tables") == "table inet t\n"


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("ipv4_addr . inet_service", [f"10.0.{i // 250}.{i % 250} . {i + 1}" for i in range(3000)]),
        ("inet_service . ipv6_addr . inet_service", [f"{i + 1} . fd00::{i + 1:x} . 80" for i in range(700)]),
        ("ipv4_addr . inet_service", []),
    ],
)
def test_counters_are_read_as_the_library_reads_them(nft: Nft, kind: str, keys: list[str]) -> None:
    nft.run(f"add table inet t\nadd set inet t s {{ type {kind}; counter; }}")
    if keys:
        nft.run("add element inet t s { " + ", ".join(
            f"{key} counter packets {i} bytes {i * 1000003}" for i, key in enumerate(keys)) + " }")  # fmt: skip
    found = nft.counted("inet t", "s")
    (of,) = [entry["set"] for entry in nft.list_json("list set inet t s") if "set" in entry]
    said = [(e["elem"]["counter"]["packets"], e["elem"]["counter"]["bytes"]) for e in of.get("elem", ())]
    assert sorted(found.values()) == sorted(said) == [(i, i * 1000003) for i in range(len(keys))]
    assert nft.counted("inet t", "s") == found


def test_a_set_that_is_not_there_has_no_counters(nft: Nft) -> None:
    for missing in ("t", "u"):
        with pytest.raises(KernelError, match=r"^No such file or directory: set inet [tu] s$"):
            nft.counted(f"inet {missing}", "s")
        nft.run("add table inet t")
    nft.run("add set inet t s { type ipv4_addr; }\nadd element inet t s { 10.0.0.1 }")
    with pytest.raises(KernelError, match="not as this version expects"):
        nft.counted("inet t", "s")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIBRARY", "libnftables.so.none")
    with pytest.raises(StartError, match=r"needs libnftables.so.none, which is not there: apt-get install nftables"):
        Nft()


def test_without_the_right() -> None:
    ctypes.CDLL(module._LIBRARY)
    said = refused(Nft)
    assert said == ("engine kernel: the kernel does not let us look at its rules: start as root, or with CAP_NET_ADMIN")


def test_closed_twice(nft: Nft) -> None:
    nft.close()
