"""The short form of bench/storm.py: reloads in a row under load, and nobody notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).resolve().parents[2] / "bench" / "storm.py"


@pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="the bench wants cores 0 and 1")
def test_ten_reloads_in_a_row_lose_nothing_and_leave_nothing(tmp_path):
    found = tmp_path / "storm.json"
    command = [sys.executable, STORM, "--reloads", "10", "--calm", "0.5", "--seed", "1", "--json", found]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told = json.loads(found.read_text())
    assert told["problems"] == []
    assert len(told["report"]["reloads"]) == 10
    # Connections of before the first were there until the last.
    assert told["report"]["old_workers"] >= 1
    assert told["report"]["counts"]["plain answers"] > 100
