"""What is told to the emulator, and what becomes of a machine that says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import vm
from rig import BenchError


@pytest.fixture
def emulator(monkeypatch, tmp_path):
    """emulator(program): in qemu's place; told where the result goes, by its name."""
    monkeypatch.setattr(vm, "FOLDER", tmp_path)
    (tmp_path / "bench/boot").mkdir(parents=True)
    (tmp_path / "bench/boot/vmlinuz-6.1.0-amd64").touch()

    def replaced(program: str) -> None:
        def command(*given: object) -> list[str]:
            return [sys.executable, "-c", program, str(given[-2])]

        monkeypatch.setattr(vm, "command", command)

    return replaced


def test_it_has_no_way_out(monkeypatch):
    monkeypatch.setattr(vm, "find_tool", lambda name: name)
    words = vm.command(Path("k"), Path("i"), Path("bench.img"), Path("out"), ["kernel", "dns"])
    assert words[words.index("-nic") + 1] == "none"
    assert (
        "init=/usr/src/pybalancer/bench/guest.sh -- run /usr/src/pybalancer kernel dns"
        in words[words.index("-append") + 1]
    )
    assert "snapshot=on" in words[words.index("-drive") + 1]


def test_what_it_has_found_is_kept(emulator, tmp_path, capsys):
    emulator("import sys; print('booted'); open(sys.argv[1], 'w').write('{\"sweeps\": []}')")
    out = tmp_path / "results/vm.json"
    assert vm.main(["--again", "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == {"sweeps": []}
    assert "booted" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["", "import sys; open(sys.argv[1], 'w').write('{\"sw')", "raise SystemExit(1)"])
def test_one_that_says_nothing(emulator, program, tmp_path, capsys):
    emulator(program)
    assert vm.main(["--again", "--out", str(tmp_path / "none")]) == vm.EXIT_CANNOT
    assert "it did not say what it has found" in capsys.readouterr().err


def test_one_that_never_ends_is_ended(emulator, monkeypatch):
    monkeypatch.setattr(vm, "WITHIN", 0.2)
    emulator("import time; time.sleep(60)")
    with pytest.raises(BenchError, match="within"):
        vm.boot(["kernel"])


def test_no_image_yet(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(vm, "FOLDER", tmp_path)
    assert vm.main(["--again"]) == vm.EXIT_CANNOT
    assert "run without --again" in capsys.readouterr().err


def test_the_guests_script_is_one():
    subprocess.run(["bash", "-n", vm.CHECKOUT / "bench/guest.sh"], check=True)
