from __future__ import annotations

import pytest

from balancer.pool.sessions import SessionView, Wanted

VIEW = SessionView(
    number=7, mode="tcp", protocol="tcpv4", source="192.0.2.1:4242", began=0.0, age=5.0, frontend="web", backend="app",
    server="one", requests=1, retries=0, expires=None, received=0, sent=0, to_server=0, to_client=0, client_fd=5,
    server_fd=6, waits_for="both",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "is_so"),
    [
        (Wanted(), True),
        (Wanted(number=7), True),
        (Wanted(number=8), False),
        (Wanted(frontend="web"), True),
        (Wanted(frontend="app"), False),
        (Wanted(backend="app"), True),
        (Wanted(backend="web"), False),
        (Wanted(backend="app", server="one"), True),
        (Wanted(backend="app", server="two"), False),
        (Wanted(older=5.0), True),
        (Wanted(older=5.1), False),
        (Wanted(number=7, frontend="web", backend="app", server="one", older=1.0), True),
        (Wanted(number=7, frontend="no"), False),
    ],
)
def test_all_that_is_asked_for_has_to_be_so(wanted: Wanted, is_so: bool) -> None:
    assert wanted.has(VIEW) is is_so
