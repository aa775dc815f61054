"""What holds for all tests.

Property tests try the same examples each time, so that whether a commit is good does not depend on luck. To look for
new ones: `make test PYTEST=--hypothesis-profile=default`. How long an example takes depends on who else is at work.
"""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import settings

from balancer.pool import passwords
from balancer.proxy import stream

# What `make compiled` has made is tested where the environment says so, and then nothing else is.
if "PYBALANCER_COMPILED" in os.environ and stream.__file__.endswith(".py"):
    raise pytest.UsageError(f"{stream.__file__} is not compiled")

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture
def slowly(monkeypatch):
    """Checks of passwords last until they are let go; how many there were."""
    gate, calls, verify = threading.Event(), [], passwords.verify

    def wait(hashed, password):
        calls.append(password)
        assert gate.wait(10)
        return verify(hashed, password)

    monkeypatch.setattr(passwords, "verify", wait)
    yield gate, calls
    gate.set()
