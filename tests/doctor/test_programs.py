from __future__ import annotations

import time
from pathlib import Path

import pytest

from balancer.doctor import programs


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "x").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "x").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, 'echo "$1"; echo no >&2')
    assert programs.said("x", "a; echo b $(c)") == "a; echo b $(c)\n"


def test_one_that_fails_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo half; exit 3")
    assert programs.said("x") is None and programs.said("no-such-program") is None
    (tmp_path / "x").write_bytes(b"\x7fELF nonsense")
    assert programs.said("x") is None


def test_one_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(programs, "_PATIENCE", 0.1)
    began = time.monotonic()
    assert programs.said("x") is None and time.monotonic() - began < 5
