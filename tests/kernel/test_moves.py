from __future__ import annotations

import json
from pathlib import Path

from balancer.kernel.moves import Moves

ONE, OTHER = ("b", "one"), ("c", "other")


def test_they_are_known_to_whoever_comes_next(tmp_path: Path) -> None:
    file = tmp_path / "moves"
    moves = Moves(file, {ONE, OTHER})
    assert moves.by_backend() == {}
    moves.add([(ONE, ("10.0.0.1", 80)), (OTHER, ("2001:db8::1", 53))])
    moves.add([(ONE, ("10.0.0.2", 80)), (ONE, ("10.0.0.1", 80))])
    known = {"b": {("10.0.0.1", 80), ("10.0.0.2", 80)}, "c": {("2001:db8::1", 53)}}
    assert moves.by_backend() == Moves(file, {ONE, OTHER}).by_backend() == known
    # A server that is configured no more.
    assert Moves(file, {OTHER}).by_backend() == {"c": {("2001:db8::1", 53)}}
    moves.forget()
    assert not file.exists() and moves.by_backend() == {}
    moves.forget()


def test_of_one_that_moves_all_the_time_the_last_places_are_known(tmp_path: Path) -> None:
    moves = Moves(tmp_path / "moves", {ONE})
    for i in range(100):
        moves.add([(ONE, (f"10.0.0.{i}", 80))])
    assert moves.by_backend() == {"b": {(f"10.0.0.{i}", 80) for i in range(92, 100)}}


def test_what_makes_no_sense_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "moves"
    good = [*ONE, "10.0.0.1", 80]
    places = ('"b", "one", "www.example", 80', '"b", "one", "10.0.0.1", 80.5', '"b", "one", "10.0.0.1", 65536',
              '["b"], "one", "10.0.0.1", 1', '"b"')  # fmt: skip
    for bad in ("", "{}", "7", "[7]", "[" * 100_000, "\0", *(f"[[{place}]]" for place in places)):
        file.write_text(bad)
        assert Moves(file, {ONE}).by_backend() == {}, bad
    file.write_text(json.dumps([good]))
    assert Moves(file, {ONE}).by_backend() == {"b": {("10.0.0.1", 80)}}
    (tmp_path / "link").symlink_to(file)
    assert Moves(tmp_path / "link", {ONE}).by_backend() == {}


def test_where_nothing_can_be_kept_it_is_known_here(tmp_path: Path) -> None:
    moves = Moves(tmp_path / "missing" / "moves", {ONE})
    moves.add([(ONE, ("10.0.0.1", 80))])
    assert moves.by_backend() == {"b": {("10.0.0.1", 80)}}
    moves.forget()
