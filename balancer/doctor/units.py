"""What systemd says of a unit of ours. Asks systemctl(1), and nothing where systemd does not run."""

from __future__ import annotations

from collections.abc import Mapping

from balancer.doctor.case import Case
from balancer.doctor.programs import said

__all__ = ["UNIT", "is_enabled", "properties"]

UNIT = "pybalancer.service"
_PROPERTIES = (
    "LoadState", "LimitNOFILE", "TimeoutStopUSec", "WatchdogUSec", "UnitFileState", "User", "AmbientCapabilities",
    "CapabilityBoundingSet", "StateDirectory", "ActiveState",
)  # fmt: skip


def properties(case: Case) -> Mapping[str, str]:
    """Of pybalancer.service; empty where there is none, or no systemd."""
    if not case.settings.path("run/systemd/system").is_dir():
        return {}
    text = said("systemctl", "show", UNIT, f"--property={','.join(_PROPERTIES)}") or ""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return found if found.get("LoadState") == "loaded" else {}


def is_enabled(found: Mapping[str, str]) -> bool:
    """Is it started with the machine?"""
    return found.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "indirect", "alias", "generated")
