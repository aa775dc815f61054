"""What the bench of reloads gives the daemon, and what it makes of the times."""

from __future__ import annotations

import pytest
import reload

from balancer.config import read


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_the_configuration_is_one(turn: int) -> None:
    case = reload.Case("few", 300, 2, 1.0)
    text = reload.config(case, turn=turn, ports=range(20000, 20010), server=80, path="/tmp/x.sock")
    config = read.loads(text, file="x", node="n", environ={})
    assert len(config.backends) == 301 and sum(len(each.servers) for each in config.backends.values()) == 601
    assert config.frontends["f"].bind[1].address.port == 20001 + turn
    assert config.backends["b299"].servers["s1"].weight == turn % 2 + 1


def test_half_of_them_count() -> None:
    case = reload.CASES[0]
    fast, slow = reload.Times(0.5, 0.7), reload.Times(3.0, 3.1)
    assert reload.problems([(case, [fast, fast, slow])]) == []
    assert reload.problems([(case, [fast, slow, slow])]) == [
        "1 000 backends with a server each: served after 3.00 s, not within 1 s"
    ]
    assert "0.50     3.00     0.70" in reload.table([(case, [fast, fast, slow])])
