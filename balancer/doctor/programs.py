"""What other programs of this host say: fixed words, no shell, and not for long."""

from __future__ import annotations

import asyncio
import shutil

__all__ = ["said"]

_PATIENCE = 2.0
_MOST = 16 << 20
# Where programs for root are, which who is not root has not in his PATH.
_MORE_PLACES = "/usr/local/sbin:/usr/sbin:/sbin"


def said(program: str, *words: str) -> str | None:
    """What it prints; None where there is no such program, or it fails, or takes too long."""
    path = shutil.which(program) or shutil.which(program, path=_MORE_PLACES)
    if path is None:
        return None
    try:
        return asyncio.run(_run(path, *words))
    except (OSError, TimeoutError):
        return None


async def _run(*words: str) -> str | None:
    nothing = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *words, stdin=nothing, stdout=asyncio.subprocess.PIPE, stderr=nothing, limit=_MOST
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            output, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.communicate()
        raise
    return output.decode(errors="replace") if not child.returncode else None
