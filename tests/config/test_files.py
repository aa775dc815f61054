from __future__ import annotations

import os
from pathlib import Path

from balancer.config.files import unreadable


def test_why_a_file_cannot_be_used(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(b"x" * 10)
    os.mkfifo(tmp_path / "pipe")
    assert unreadable(str(page), largest=10) == unreadable(str(page), largest=None) == ""
    assert unreadable(str(page), largest=9) == f"{page} has 10 octets; 9 are allowed"
    assert unreadable(str(tmp_path / "pipe"), largest=9).endswith("is no regular file")
    assert unreadable("/none", largest=9) == "/none cannot be read: No such file or directory"
    assert "cannot be read" in unreadable("a\0b", largest=9)
