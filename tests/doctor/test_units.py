from __future__ import annotations

from pathlib import Path

import pytest

from balancer.doctor import units

from .conftest import here, put, tcp


def systemd(root: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """A systemctl(1) that says so."""
    put(root, {"run/systemd/system/x": "", "bin/said": said, "bin/systemctl": f"#!/bin/sh\ncat {root}/bin/said\n"})
    (root / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}/bin:/usr/bin:/bin")


def test_what_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert units.properties(here(tcp(), tmp_path)) == {}
    systemd(tmp_path, monkeypatch, "LoadState=loaded\nLimitNOFILE=131072\nUser=a=b\n\n")
    assert units.properties(here(tcp(), tmp_path)) == {"LoadState": "loaded", "LimitNOFILE": "131072", "User": "a=b"}


def test_no_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd(tmp_path, monkeypatch, "LoadState=not-found\n")
    assert units.properties(here(tcp(), tmp_path)) == {}


def test_systemctl_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd(tmp_path, monkeypatch, "")
    (tmp_path / "bin/systemctl").write_text("no program")
    assert units.properties(here(tcp(), tmp_path)) == {}
    monkeypatch.setenv("PATH", "/nowhere")
    assert units.properties(here(tcp(), tmp_path)) == {}


def test_is_it_started_with_the_machine() -> None:
    assert units.is_enabled({"UnitFileState": "enabled"})
    assert not units.is_enabled({"UnitFileState": "disabled"}) and not units.is_enabled({})
