"""What holds for all tests.

Property tests try the same examples each time, so that whether a commit is good does not depend on luck. To look for
new ones: `make test PYTEST=--hypothesis-profile=default`. How long an example takes depends on who else is at work.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
