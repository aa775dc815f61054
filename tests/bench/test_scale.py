"""What directors behind ECMP do: theory beside what is simulated."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import scale
from hypothesis import given
from hypothesis import strategies as st

COSTS = {
    "works": [
        {"work": "http", "figures": [{"unit": "us", "ours": 70.0}, {"unit": "/s", "ours": 3.0}]},
        {"work": "idle-memory", "figures": [{"unit": "KiB", "ours": 1.0}]},
        {"work": "tcp", "figures": [{"unit": "us", "ours": None}]},
    ]
}


def test_theory_and_simulation_agree(capsys, tmp_path):
    kept = tmp_path / "scale.json"
    assert scale.main(["--flows", "4000", "--json", str(kept)]) == 0
    assert "WRONG" not in capsys.readouterr().out
    moved = json.loads(kept.read_text())["moved"]
    goes = [each for each in moved if "servers goes" in each["change"] and each["ways"].startswith("maglev")]
    assert {each["share"] for each in goes if each["theory"] is not None} == {0.0}
    assert all(each["share"] > 0 for each in goes if each["theory"] is None)


def test_who_strays_is_told_of(capsys, monkeypatch):
    monkeypatch.setattr(scale, "threshold", lambda mark, directors: directors[mark % len(directors)])
    assert scale.main(["--flows", "4000"]) == scale.EXIT_WRONG
    assert "WRONG by more than" in capsys.readouterr().out


@given(number=st.integers(2, 40), data=st.data())
def test_regions_are_rfc_2992s(number, data):
    """Counted region by region, in fractions."""
    gone = data.draw(st.integers(0, number - 1))
    left = [each for each in range(number) if each != gone]
    kept = Fraction(0)
    for place, who in enumerate(left):
        begins = max(Fraction(place, number - 1), Fraction(who, number))
        ends = min(Fraction(place + 1, number - 1), Fraction(who + 1, number))
        kept += max(ends - begins, 0)
    assert scale.threshold_theory(number, gone) == pytest.approx(float(1 - kept))


@given(directors=st.lists(st.integers(0, 99), min_size=2, max_size=12, unique=True), data=st.data())
def test_buckets_move_no_more_than_they_must(directors, data):
    full = scale.dealt(directors)
    gone = data.draw(st.sampled_from(directors))
    less = scale.dealt([each for each in directors if each != gone], full)
    assert all(one == two for one, two in zip(full, less, strict=True) if one != gone)
    for some in (full, less):
        counts = [some.count(each) for each in {*some}]
        assert max(counts) - min(counts) <= 1
    back = scale.dealt(directors, less)
    assert sum(one != two for one, two in zip(less, back, strict=True)) <= -(-scale.BUCKETS // len(directors))


def test_what_a_director_carries():
    (found,) = scale.carried(COSTS, 2, (3,))
    assert found.work == "http"
    assert found.per_second == {
        "one director, or a pair": pytest.approx(20_000),
        "3 behind ECMP, one gone": pytest.approx(40_000),
    }


@pytest.mark.parametrize("text", ["", "[]", '{"works": 1}', '{"works": [{}]}'])
def test_a_file_that_is_no_report(text, capsys, tmp_path):
    kept = tmp_path / "cost.json"
    kept.write_text(text)
    assert scale.main(["--costs", str(kept)]) == scale.EXIT_CANNOT
    assert "not what cost.py --json writes" in capsys.readouterr().err
