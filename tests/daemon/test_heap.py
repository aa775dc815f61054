"""What is free is given back."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import weakref

import pytest

from balancer.daemon.heap import trim

_SCRIPT = """
import re
from pathlib import Path
from balancer.daemon.heap import trim

def anonymous():
    return int(re.search(r"Anonymous: +(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1])

before = anonymous()
kept, freed = [], []
for _ in range(300):
    freed.append(bytearray(100_000))
    kept.append(bytearray(1000))
full = anonymous()
del freed
left = anonymous()
trim()
print(full - before, left - before, anonymous() - before)
"""


@pytest.mark.skipif("glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")), reason="another C library")
def test_pages_between_what_stays_are_given_back() -> None:
    # Buffers of this size are mapped one by one until one of them was freed.
    script = "x = bytearray(4_000_000); del x\n" + _SCRIPT
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    full, left, after = map(int, re.findall(r"-?\d+", ran.stdout))
    assert full > 25_000
    assert left > 20_000
    assert after < 5_000


def test_what_has_ended_does_not_wait_for_thousands_more() -> None:
    class Ended:
        pass

    gc.disable()
    try:
        gc.collect()
        one = Ended()
        one.itself = one  # type: ignore[attr-defined]
        left = weakref.ref(one)
        del one
        assert left() is not None
        trim()
        assert left() is None
    finally:
        gc.enable()
