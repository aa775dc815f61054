"""Servers and backends as a worker has them, from the text of a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from balancer.algorithms.registry import create
from balancer.config import model
from balancer.pool.backend import Backend
from balancer.pool.facts import Counters
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.server import Server


@pytest.fixture
def server() -> Callable[..., Server]:
    """server("s1", cookie="s1", weight=2): not checked yet."""

    index = itertools.count()

    def make(name: str, **keys: Any) -> Server:
        config = model.Server.model_validate({"address": "127.0.0.1:80", **keys})
        return Server("be", name, config, Counters(), next(index))

    return make


@pytest.fixture
def backend(server: Callable[..., Server]) -> Callable[..., Backend]:
    """backend({"s1": {}, "s2": {"backup": True}}, balance="leastconn"): no server checked yet."""

    def make(servers: dict[str, dict[str, Any]], **keys: Any) -> Backend:
        written = {name: {"address": "127.0.0.1:80", **given} for name, given in servers.items()}
        config = model.Backend.model_validate({"servers": written, **keys})
        return Backend(
            "be",
            config,
            servers=[server(name, **given) for name, given in servers.items()],
            algorithm=create(config.balance, hash_type=config.hash_type, rng=Random(1), servers=len(servers)),
            counters=Counters(),
            touched=[],
        )

    return make


@pytest.fixture
def become() -> Callable[..., None]:
    """become(server, "UP") or become(server, "UP", "DRAIN", weight=0): what control decided."""

    def apply(server: Server, condition: str, admin: str = "READY", *, weight: int | None = None) -> None:
        server.apply(
            ServerState(
                condition=Condition[condition],
                admin=Admin[admin],
                weight=server.config.weight if weight is None else weight,
            )
        )

    return apply
