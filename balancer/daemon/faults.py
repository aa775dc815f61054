"""What nobody expected: one line in the log each, and never a flood of them.

Libraries speak through `logging`, the event loop through its exception handler; left alone, both write tracebacks to
a console that nobody reads.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balancer.observe.log import AccessLog, Level

__all__ = ["described", "report_to"]

_ROOM = Path(__file__).parent.parent


def report_to(
    log: AccessLog, loop: asyncio.AbstractEventLoop, *, out_of_memory: Callable[[], None] | None = None
) -> None:
    """From now on `log` gets what libraries warn of and what `loop` could not hand to anybody. `out_of_memory` is
    called when there was none: whatever was under way has been left in the middle."""
    logging.getLogger().handlers[:] = [_ToLog(log)]

    def say(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, error = str(context["message"]), context.get("exception")
        text = message if error is None else f"{message}: {described(error)}"
        # The message of one cause may name another object each time.
        try:
            log.event(Level.ERR, text, kind=message if error is None else described(error))
        finally:
            if isinstance(error, MemoryError) and out_of_memory is not None:
                out_of_memory()

    loop.set_exception_handler(say)


def described(error: BaseException) -> str:
    """`KeyError: 'x' (proxy/http.py:17 in data_received)`: the innermost place in our own code, if there is one."""
    text = "".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _ROOM in Path(frame.filename).parents]
    if not frames:
        return text
    frame = (ours or frames)[-1]
    place = Path(frame.filename)
    name = place.relative_to(_ROOM) if ours else place.name
    return f"{text} ({name}:{frame.lineno} in {frame.name})"


class _ToLog(logging.Handler):
    def __init__(self, log: AccessLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() + (f": {described(error)}" if error is not None else "")
        self._log.event(
            Level.ERR if record.levelno >= logging.ERROR else Level.WARNING, text, kind=f"{record.name}: {record.msg}"
        )
