"""What one check found, in the codes and words of HAProxy's check_status and check_desc columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

__all__ = ["CheckResult", "Code"]

# HAProxy's HCHK_DESC_LEN, its closing NUL taken off: what an origin says must not fill our log.
_INFO_LIMIT = 127
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Code(Enum):
    """The outcome of a check; the value is its description."""

    SOCKERR = "Socket error"
    HANA = "Health analyze"
    L4OK = "Layer4 check passed"
    L4TOUT = "Layer4 timeout"
    L4CON = "Layer4 connection problem"
    L6TOUT = "Layer6 timeout"
    L6RSP = "Layer6 invalid response"
    L7OK = "Layer7 check passed"
    L7TOUT = "Layer7 timeout"
    L7RSP = "Layer7 invalid response"
    L7STS = "Layer7 wrong status"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finished check."""

    code: Code
    duration: float
    """Seconds from its begin to its end."""
    info: str = ""
    """Why, or what the server said: printable ASCII, at most 127 characters, whatever was given."""
    status: int | None = None
    """HTTP status or DNS response code, where there was one."""

    def __post_init__(self) -> None:
        if self.info:
            object.__setattr__(self, "info", _UNPRINTABLE.sub("?", self.info[:_INFO_LIMIT]))

    @property
    def ok(self) -> bool:
        return self.code is Code.L4OK or self.code is Code.L7OK

    @property
    def is_conclusive(self) -> bool:
        """Whether it says anything of the server; SOCKERR says only that this host lacks a resource."""
        return self.code is not Code.SOCKERR

    @property
    def description(self) -> str:
        """`Layer4 connection problem`"""
        return self.code.value

    @property
    def milliseconds(self) -> int:
        return int(self.duration * 1000)
