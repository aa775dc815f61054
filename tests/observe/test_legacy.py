"""What one control process leaves to the next of a client."""

from __future__ import annotations

from balancer.observe.legacy import Legacy


def test_what_is_left_is_found() -> None:
    legacy = Legacy(
        "New server registered.\n", [["show", "stat"], ["a b"]], b"\xff\n\x00", "number", 5.0, True, True, False
    )
    assert Legacy.decode(legacy.encode()) == legacy
