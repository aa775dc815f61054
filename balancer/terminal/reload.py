"""`pybalancer reload [--dry-run]`: the daemon that runs here reads its file again, and what that changes.

The answer comes from the control process of after the reload, on the same connection.
"""

from __future__ import annotations

import json
from typing import TextIO

from balancer.errors import BalancerError
from balancer.observe import client, reloading

__all__ = ["DONE", "NOT_LOADED", "ROLLED_BACK", "reload"]

DONE, NOT_LOADED, ROLLED_BACK = 0, 1, 3
"""Exit statuses: NOT_LOADED, where nothing was begun, or nobody could be asked; ROLLED_BACK, where what came up did not
come far."""
# What the daemon takes for it at the very longest, and a little more.
_PATIENCE = 200.0


def reload(path: str, *, is_dry: bool, as_json: bool, out: TextIO, err: TextIO) -> int:
    """Have it done, or (`is_dry`) only looked at, and say what came of it; the exit status. BalancerError where the
    daemon cannot be asked."""
    answer = client.ask(path, "reload", *(["dry-run"] if is_dry else []), "json", patience=_PATIENCE)
    try:
        report = json.loads(answer.text)
        outcome = report["outcome"]
    except (ValueError, TypeError, KeyError):
        text = answer.text.strip()
        if text.startswith("Unknown command"):
            text = "the pybalancer that runs here knows no `reload`: it is older than this command; send it SIGHUP"
        elif text == "Permission denied":
            text = f"{path} does not allow it: global.runtime_socket.level has to be admin"
        raise BalancerError(text or f"{path}: there was no answer") from None
    status = {"refused": NOT_LOADED, "rolled back": ROLLED_BACK}.get(outcome, DONE)
    if as_json:
        print(answer.text, end="", file=out)
    else:
        print(reloading.text(report), end="", file=err if status else out)
    return status
