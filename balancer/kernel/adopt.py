"""Rules that an earlier process has left, made ours without a break: it may have been killed in the middle of anything,
and others may have changed them since.
"""

from __future__ import annotations

from balancer.errors import KernelError
from balancer.kernel import render
from balancer.kernel.nft import Nft
from balancer.kernel.render import TABLE, Desired
from balancer.kernel.tables import contents

__all__ = ["adopt"]


def adopt(nft: Nft, desired: Desired) -> bool:
    """Make `desired` of the table that is there, in one transaction: counters count on, and clients stay where they
    are. False where there is none, or it holds what a table of ours does not; then nothing has changed."""
    try:
        found = contents(nft, TABLE)
    except (KernelError, OSError):
        return False
    return found is not None and not found.has_more and nft.takes(render.adopted(desired, found))
