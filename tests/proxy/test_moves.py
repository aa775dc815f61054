"""Servers that are elsewhere: whose connections are closed, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from balancer.addr import Address
from balancer.config.model import Server as Config
from balancer.pool.facts import Counters
from balancer.pool.server import Server
from balancer.proxy.http import ClientConnection
from balancer.proxy.moves import Moves

OLD, NEW = Address("10.0.0.1", 80), Address("10.0.0.2", 80)


class Connection:
    """To a server, as far as it matters here."""

    def __init__(self, server: Server, peer: Address) -> None:
        self.server = server
        self.transport = SimpleNamespace(get_extra_info=lambda name: {"peername": peer.sockaddr}[name])
        self.is_closed = self.has_more = False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def server() -> Server:
    return Server("b", "s", Config.model_validate({"address": str(OLD)}), Counters())


def client(**now: Any) -> ClientConnection:
    made: Any = ClientConnection.__new__(ClientConnection)
    made.own = now.get("own")
    made.exchange = SimpleNamespace(connection=now["used"]) if "used" in now else None
    return made


def test_idle_connections_to_the_old_address_are_closed(server) -> None:
    moves = Moves(())
    server.idle += [Connection(server, OLD), Connection(server, NEW)]
    old, new = server.idle
    moves.move(server, NEW)
    moves.look()
    assert (old.is_closed, new.is_closed, server.idle) == (True, False, [new])
    assert (server.sockaddr, server.address) == (NEW.sockaddr, NEW)


def test_one_in_use_is_closed_after_it(server) -> None:
    old, new, own = Connection(server, OLD), Connection(server, NEW), Connection(server, OLD)
    keeper = client(own=own)
    moves = Moves([client(used=old), client(used=new), client(), keeper])
    moves.move(server, NEW)
    moves.look()
    assert (old.has_more, old.is_closed, new.has_more) == (True, False, False)
    assert (own.is_closed, keeper.own) == (True, None)


def test_who_was_on_the_way_at_the_move_is_found_later(server) -> None:
    moves = Moves(())
    moves.move(server, NEW)
    moves.look()
    late = Connection(server, OLD)
    server.idle.append(late)
    moves.look()
    assert late.is_closed


def test_nobody_is_looked_at_where_nothing_moved(server, monkeypatch) -> None:
    class Nobody:
        def __iter__(self):
            raise AssertionError

    moves = Moves(Nobody())  # type: ignore[arg-type]
    moves.look()
    moves.move(server, OLD)
    moves.look()
    moves.move(server, None)
    moves.look()
    assert server.sockaddr is None
    moves.move(server, NEW)
    monkeypatch.setattr("balancer.proxy.moves.time.monotonic", lambda: float("inf"))
    with pytest.raises(AssertionError):
        moves.look()
    moves._members = ()
    moves.look()
    moves._members = Nobody()  # type: ignore[assignment]
    moves.look()
