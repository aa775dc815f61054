"""The short form of bench/soak.py: whatever clients and servers do, nothing of it stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "bench" / "soak.py"


@pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="the bench wants cores 0 and 1")
def test_nothing_is_left_of_ten_seconds_of_mixed_load(tmp_path):
    found = tmp_path / "soak.json"
    command = [sys.executable, SOAK, "--seconds", "10", "--clients", "30", "--seed", "1", "--json", found]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told = json.loads(found.read_text())
    assert told["problems"] == []
    assert {"reload": 2, "child killed": 1}.items() <= told["report"]["events"].items()
    assert len(told["report"]["lulls"]) == 2
    for kind in ("keep-alive", "new connection", "pipelined", "upgrade", "shared", "tcp", "dns"):
        assert told["tally"]["whole"][kind] > 0, kind
