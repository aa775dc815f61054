"""The texts of all these findings are in mistakes.txt; here is what depends on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from balancer.config.check_vrrp import check_vrrp
from balancer.config.model import Config


def findings(script: Path) -> list[str]:
    config = Config.model_validate({"vrrp": {"scripts": {"site": {"script": str(script)}}}}, context={"part": True})
    return [finding.text for finding in check_vrrp(config)]


@pytest.mark.parametrize("mode", [0o755, 0o644, None])
def test_a_program_must_be_there_and_executable(tmp_path: Path, mode: int | None) -> None:
    script = tmp_path / "check"
    if mode is not None:
        script.write_text("#!/bin/sh\n")
        script.chmod(mode)
    complaint = f"{script} is no program that can be started; give its whole path, and chmod +x it"
    assert findings(script) == ([] if mode == 0o755 else [complaint])


def test_a_directory_is_none(tmp_path: Path) -> None:
    assert findings(tmp_path)
