"""What an operator reads who got much wrong at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.bed.pybalancer import COMMAND, run

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = Path(__file__).parents[2] / "config"


def test_every_error_of_a_file_in_one_go():
    done = subprocess.run(
        [COMMAND, "check", "-c", "broken.yaml"], cwd=GOLDEN, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (GOLDEN / "broken.txt").read_text()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("node", ["master", "standby"])
def test_the_files_that_we_ship_are_good(file, node):
    done = run("check", "-c", file, "--node", node)
    assert (done.returncode, done.stdout) == (0, "OK\n"), done.stderr


def test_the_environment_fills_values_in(tmp_path):
    file = tmp_path / "balancer.yaml"
    file.write_text(
        'frontends: {f: {mode: tcp, bind: "127.0.0.1:${THE_PORT}", default_backend: b}}\n'
        'backends: {b: {servers: {s: {address: "127.0.0.1:80"}}}}\n'
    )
    assert run("check", "-c", file, env={"THE_PORT": "8000"}).stdout == "OK\n"
    missing = run("check", "-c", file, env={})
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"{file}:1:") and "THE_PORT" in missing.stderr
