from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import Balance
from balancer.kernel.slots import LONGEST_ROUND, MAGLEV_SIZES, Choice, is_hashed, slots


def choices(*weights: int) -> list[Choice]:
    return [Choice(f"web{i}", i, weight) for i, weight in enumerate(weights) if weight]


def made(balance: Balance, *weights: int, **more: object) -> tuple[int, ...]:
    return slots(balance, choices(*weights), configured=len(weights), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("balance", [balance for balance in Balance if balance is not Balance.URI])
def test_without_servers_there_are_no_slots_and_one_server_has_one(balance: Balance) -> None:
    assert made(balance) == ()
    assert made(balance, 0, 7) == (1,)


def test_equal_servers_take_turns_in_their_order() -> None:
    assert made(Balance.ROUNDROBIN, 1, 1, 1) == made(Balance.ROUNDROBIN, 7, 7, 7) == (0, 1, 2)


def test_a_weighted_round_is_evenly_spread() -> None:
    assert made(Balance.ROUNDROBIN, 5, 1, 1) == made(Balance.ROUNDROBIN, 10, 2, 2)
    assert "".join(map(str, made(Balance.ROUNDROBIN, 5, 1, 1))) == "0100020"
    assert made(Balance.ROUNDROBIN, 2, 0, 4) == (2, 0, 2)


@given(st.lists(st.integers(0, 256), min_size=1, max_size=40))
def test_shares_are_as_the_weights_say(weights: list[int]) -> None:
    total = sum(weights)
    for balance in (Balance.ROUNDROBIN, Balance.RANDOM, Balance.SOURCE):
        table = made(balance, *weights)
        shares = Counter(table)
        assert set(shares) == {i for i, weight in enumerate(weights) if weight}
        if balance is Balance.ROUNDROBIN:
            assert len(table) <= LONGEST_ROUND + len(weights)
        for i, share in shares.items():
            # Where the round would be too long, a share is rounded to a slot.
            assert (
                abs(share / len(table) - weights[i] / total) <= (len(weights) + 1) / min(LONGEST_ROUND, len(table))
                or abs(share * total - weights[i] * len(table)) == 0
            )


def test_random_and_source_lay_a_servers_slots_side_by_side() -> None:
    assert made(Balance.RANDOM, 2, 1, 3) == made(Balance.SOURCE, 4, 2, 6) == (0, 0, 1, 2, 2, 2)


def test_first_is_the_first_that_can() -> None:
    assert made(Balance.FIRST, 1, 9, 9) == (0,)
    assert made(Balance.FIRST, 0, 1, 9) == (1,)


@pytest.mark.parametrize(("servers", "size"), [(2, 199), (10, 199), (11, 797), (100, 3191), (200, 16381)])
def test_maglevs_table_follows_the_configuration_and_not_who_is_up(servers: int, size: int) -> None:
    assert len(made(Balance.MAGLEV, *[1] * servers)) == size
    assert len(made(Balance.MAGLEV, 1, 1, *[0] * (servers - 2))) == size


def test_maglevs_sizes_are_primes() -> None:
    for _, size in MAGLEV_SIZES:
        assert all(size % n for n in range(2, int(size**0.5) + 1))


def test_a_new_server_moves_little_more_than_its_share() -> None:
    full, less = made(Balance.MAGLEV, *[1] * 10), made(Balance.MAGLEV, *[1] * 4, 0, *[1] * 5)
    shares = Counter(full)
    assert max(shares.values()) - min(shares.values()) <= 1
    moved = sum(one != other for one, other in zip(full, less, strict=True))
    assert shares[4] <= moved <= 2 * shares[4]
    assert made(Balance.SOURCE, *[1] * 10, is_consistent=True) == full


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=2, max_size=20))
def test_servers_that_cannot_serve_move_their_own_share_alone(pool: list[tuple[int, bool]]) -> None:
    every = choices(*(weight for weight, _ in pool))
    present = [choice for choice, (_, is_up) in zip(every, pool, strict=True) if is_up]
    absent = [choice for choice in every if choice not in present]
    full = slots(Balance.MAGLEV, every, configured=len(pool))
    less = slots(Balance.MAGLEV, present, configured=len(pool), absent=absent)
    here = {choice.index for choice in present}
    assert set(less) <= here
    if len(present) > 1:
        assert all(now == before for before, now in zip(full, less, strict=True) if before in here)
        total = sum(choice.weight for choice in present)
        for choice in present:
            # A slot more or less in the table with all, and another in what is dealt out.
            assert abs(less.count(choice.index) - len(less) * choice.weight / total) <= 2 + choice.weight


def test_leastconn_fills_up_whoever_has_least() -> None:
    assert made(Balance.LEASTCONN, 1, 1) == (0, 1)
    table = made(Balance.LEASTCONN, 1, 1, 1, loads={0: 5, 1: 3, 2: 0})
    # 2 catches up with 1, both with 0, and from then on all take turns.
    assert table[:10] == (2, 2, 2, 1, 2, 1, 2, 0, 1, 2)
    assert len(table) == 66


def test_leastconn_weighs_loads() -> None:
    assert set(made(Balance.LEASTCONN, 1, 3, loads={0: 10, 1: 29})[:1]) == {1}
    table = Counter(made(Balance.LEASTCONN, 1, 3, loads={0: 10, 1: 30}))
    assert abs(table[1] - 3 * table[0]) <= 3


def test_a_server_far_behind_gets_all_for_now() -> None:
    assert set(made(Balance.LEASTCONN, 1, 1, loads={0: 1000, 1: 0})) == {1}


def test_who_decides() -> None:
    assert [balance for balance in Balance if is_hashed(balance)] == [Balance.SOURCE, Balance.MAGLEV]
