"""No two lines of a plot look alike, not even without colours."""

from __future__ import annotations

import plots
import pytest

NAMES = (
    *("no balancer", "pybalancer", "pybalancer, 2 cores", "pybalancer kernel", "HAProxy", "HAProxy, 2 cores"),
    *("HAProxy 3.2.1", "nginx", "nginx, 2 cores", "dnsdist"),
)


def test_each_is_told_by_marker_and_line_alone() -> None:
    looks = {name: plots.style(name) for name in NAMES}
    grey = {(look["marker"], look["linestyle"], look["markerfacecolor"] == "white") for look in looks.values()}
    assert len(grey) == len(NAMES)
    assert looks["pybalancer"]["color"] == looks["pybalancer, 2 cores"]["color"]


@pytest.mark.parametrize("colour", [colour for colour, _ in (*plots.STYLES.values(), plots.OTHER)])
def test_colours_are_dark_enough_on_white(colour: str) -> None:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75
