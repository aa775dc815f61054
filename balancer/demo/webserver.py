"""A web server that answers with its name and with what it sees of the client."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

__all__ = ["serve"]


def serve(name: str, sock: socket.socket) -> int:
    """Answer on the listening socket until killed."""
    asyncio.run(_serve(name, sock))
    return 0


async def _serve(name: str, sock: socket.socket) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=_page(name, request))

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    await asyncio.Event().wait()


def _page(name: str, request: web.Request) -> str:
    """Who answers whom, and what came with the request."""
    seen = {
        "server": name,
        "client": request.remote,
        "X-Forwarded-For": ", ".join(request.headers.getall("X-Forwarded-For", ())),
        "cookie": request.headers.get("Cookie"),
        "request": f"{request.method} {request.raw_path}",
    }
    return "".join(f"{what + ':':<17}{value or '-'}\n" for what, value in seen.items())
