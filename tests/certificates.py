"""Certificates that tests make for themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["make"]


def make(folder: Path, name: str = "page", *, days: int = 30, options: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """One of its own authority, for localhost and 127.0.0.1, and its key."""
    crt, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", key, "-out",
        crt, "-days", str(days), "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        *(options or ("-noenc",)),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return crt, key
