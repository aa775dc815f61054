from __future__ import annotations

import pytest

from balancer.errors import KernelError
from balancer.kernel import render
from balancer.kernel.counters import PLACES, Tally, Totals, read

from .conftest import ADDRESSES, VIP, VIP_V6, Bed, Kernel, as_root, asking, tcp, text, tried, who

F1, F2 = ("f", "web1"), ("f", "web2")


def test_totals_go_on_where_the_kernel_begins_anew() -> None:
    totals = Totals()
    assert totals.update({F1: Tally(1, 2, 3, 4, 5)}) == {F1: Tally(1, 2, 3, 4, 5)}
    assert totals.update({F1: Tally(2, 3, 4, 5, 6)}) == {F1: Tally(2, 3, 4, 5, 6)}
    assert totals.update({F1: Tally(0, 1, 1, 0, 0)}) == {F1: Tally(2, 4, 5, 5, 6)}
    assert totals.update({F1: Tally(1, 1, 1, 0, 0)}) == {F1: Tally(3, 4, 5, 5, 6)}
    assert totals.update({F1: Tally()}) == {F1: Tally(3, 4, 5, 5, 6)}


def test_a_server_that_is_gone_and_comes_back() -> None:
    totals = Totals()
    totals.update({F1: Tally(flows=5), F2: Tally(flows=1)})
    assert totals.update({F2: Tally(flows=2)}) == {F1: Tally(flows=5), F2: Tally(flows=2)}
    assert totals.update({F1: Tally(flows=1), F2: Tally(flows=2)})[F1] == Tally(flows=6)


def test_who_comes_in_the_place_of_another_goes_on_where_it_was() -> None:
    numbers = memoryview(bytearray(8 * (1 + 2 * PLACES))).cast("q")
    totals = Totals((F1, F2, F1), numbers)
    assert not totals.is_begun
    totals.begin({F1: Tally(10, 10, 10, 10, 10)})
    assert totals.update({F1: Tally(11, 12, 13, 14, 15), F2: Tally(1)}) == {F1: Tally(1, 2, 3, 4, 5), F2: Tally(1)}
    totals.keep(F1)
    # The other one was said, but died with it.
    again = Totals((F1, F2), numbers)
    assert again.is_begun and again.all == {F1: Tally(1, 2, 3, 4, 5)}
    assert again.update({F1: Tally(12, 12, 13, 14, 15), F2: Tally(3)}) == {F1: Tally(2, 2, 3, 4, 5), F2: Tally(3)}
    again.keep(F1)
    # Its rules were made anew.
    third = Totals((F1, F2), numbers)
    assert third.update({F1: Tally(1, 1, 1, 1, 1), F2: Tally(1)}) == {F1: Tally(3, 3, 4, 5, 6), F2: Tally(1)}
    # Who has no place is counted all the same.
    assert Totals((F1, F2, ("g", "web1")), numbers).update({("g", "web1"): Tally(4)})["g", "web1"] == Tally(4)


@as_root
@pytest.mark.parametrize("forwarding", ["nat", "masquerade"])
@pytest.mark.parametrize("bind", [f"'{VIP}:80'", "'*:80'"])
def test_tcp(bed: Bed, forwarding: str, bind: str) -> None:
    kernel = Kernel(bed, text(bind=bind, frontend=f"forwarding: {forwarding}"))
    assert set(read(bed.nft, kernel.services).values()) == {Tally()}
    sock, name, _ = tcp(bed.client, VIP)
    before = read(bed.nft, kernel.services)["f", name]
    assert before.flows == 1
    sock.sendall(b"x" * 1000)
    got = 0
    while got < 1000:
        got += len(sock.recv(2000))
    after = read(bed.nft, kernel.services)["f", name]
    assert after.flows == 1
    assert 1052 <= after.octets_in - before.octets_in <= 1052 + 52 * (after.packets_in - before.packets_in)
    assert 1052 <= after.octets_out - before.octets_out <= 1052 + 52 * (after.packets_out - before.packets_out)
    sock.close()
    assert tried(5, lambda: who(bed.client, VIP)).total() == 5
    assert [tally.flows for tally in read(bed.nft, kernel.services).values()] == [2, 2, 2]


@as_root
def test_a_local_client_counts(bed: Bed) -> None:
    kernel = Kernel(bed, text())
    sock, name, _ = tcp(bed.director, VIP)
    tally = read(bed.nft, kernel.services)["f", name]
    sock.close()
    # SYN, SYN-ACK, ACK, and the server's words.
    assert tally.flows == 1 and tally.packets_in >= 2 and tally.packets_out >= 2


@as_root
@pytest.mark.parametrize("family", [4, 6])
def test_queries(bed: Bed, family: int) -> None:
    vip, bind = (VIP, f"'{VIP}:53'") if family == 4 else (VIP_V6, f"'[{VIP_V6}]:53'")
    kernel = Kernel(bed, text(mode="udp", bind=bind, port=8080, family=family))
    with asking(bed.client, vip) as asker:
        for _ in range(6):
            asker.ask()
    header = (20 if family == 4 else 40) + 8
    for tally in read(bed.nft, kernel.services).values():
        assert (tally.flows, tally.packets_in, tally.octets_in) == (2, 2, 2 * (header + 12))
        assert tally.packets_out == 2 and tally.octets_out > 2 * (header + 12)


@as_root
def test_what_is_not_the_services_is_not_counted(bed: Bed) -> None:
    kernel = Kernel(bed, text())
    who(bed.client, ADDRESSES["web1"])
    assert set(read(bed.nft, kernel.services).values()) == {Tally()}


@as_root
def test_changes_do_not_set_it_back(bed: Bed) -> None:
    kernel = Kernel(bed, text())
    tried(3, lambda: who(bed.client, VIP))
    before = read(bed.nft, kernel.services)
    kernel.down("web1", "web2", "web3")
    kernel.up("web3")
    for of, tally in read(bed.nft, kernel.services).items():
        # The last words of a connection may have come meanwhile.
        assert tally.flows == before[of].flows == 1
        assert tally.packets_in >= before[of].packets_in > 2


@as_root
def test_a_table_that_is_gone_is_told(bed: Bed) -> None:
    kernel = Kernel(bed, text())
    bed.nft.run(render.nothing())
    with pytest.raises(KernelError, match="No such file"):
        read(bed.nft, kernel.services)
