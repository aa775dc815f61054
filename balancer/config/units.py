"""Little languages of single values. Each function takes what YAML gave and returns the value or raises ValueError
saying what is allowed."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from balancer.addr import Address, parse_address

__all__ = ["duration", "endpoint", "size"]

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(value: Any) -> float:
    """`500ms`, `5s`, `1.5m` in seconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{value!r} is no duration; write a number with its unit (us, ms, s, m, h, d): 500ms, 5s, 1h")
    return float(match[1]) * _SECONDS[match[2]]
