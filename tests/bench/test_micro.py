"""What is timed does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import micro
import pyperf
import pytest

SCRIPT = Path(micro.__file__).resolve()


@pytest.mark.parametrize("name", micro.FUNCTIONS)
def test_it_can_be_asked_again_and_again(name):
    function = micro.FUNCTIONS[name]()
    first = [function() for _ in range(20)]
    if name not in ("leastconn", "counters of a request", "flush of 10 servers"):
        assert None not in first


def test_heads_that_came_before_are_remembered_and_others_are_not():
    known = micro.FUNCTIONS["request head, known"]()
    assert known().line is known().line
    new = micro.FUNCTIONS["request head, new"]()
    assert new().line.target != new().line.target


def test_pyperf_takes_it(tmp_path):
    result = tmp_path / "micro.json"
    words = ["--debug-single-value", "-q", "-o", str(result)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, SCRIPT, *words], check=True, capture_output=True, env=environment, timeout=60)
    found = pyperf.BenchmarkSuite.load(str(result))
    assert found.get_benchmark_names() == list(micro.FUNCTIONS)
    assert found.get_metadata()["pybalancer"] == "interpreted"
