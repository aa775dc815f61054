"""How a server that has come back gets its share little by little (HAProxy's slowstart).

Its weight rises linearly from next to nothing to the whole, in twenty steps, or one a second where these are longer.
Algorithms that choose anew each time follow it: they get weights on a finer scale, so that a weight of 1 has parts.
"""

from __future__ import annotations

from balancer.config.model import Backend, Balance
from balancer.pool.orders import WHOLE

__all__ = ["FOLLOWING", "SCALE", "scale_of", "throttle"]

# As HAProxy's BE_WEIGHT_SCALE.
SCALE = 16
_STEPS = 20
_SHORTEST_STEP = 1.0
FOLLOWING = frozenset((Balance.ROUNDROBIN, Balance.LEASTCONN, Balance.RANDOM))
"""Algorithms whose servers may have another weight at any time, and no client moves for it."""


def throttle(since: int, slowstart: float, now: int) -> int:
    """The share in percent, 1 to 100, of a server that came back at `since`. Times are Unix microseconds, `slowstart`
    is seconds."""
    # The wall clock may have been set back.
    elapsed = max(now - since, 0) * 1e-6
    if elapsed >= slowstart:
        return WHOLE
    step = max(slowstart / _STEPS, _SHORTEST_STEP)
    share = int(elapsed / step + 1e-6) * step / slowstart
    return min(max(int(WHOLE * share), 1), WHOLE)


def scale_of(backend: Backend) -> int:
    """What its servers' weights are multiplied by."""
    warms = backend.balance in FOLLOWING and any(server.slowstart is not None for server in backend.servers.values())
    return SCALE if warms else 1
