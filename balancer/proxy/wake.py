"""Bells that other processes ring, and nobody answers.

An answered bell would be silent for whoever comes later; so these are watched for edges (epoll(7), EPOLLET): each ring
wakes everybody once. An event loop watches for levels, so it watches the epoll that watches for edges.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

__all__ = ["Bells"]


class Bells:
    """The bells that one worker listens to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._heard: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._on_ring)

    def listen(self, bell: int, heard: Callable[[], None]) -> None:
        """Have `heard` called at each ring, and once soon if it has ever rung."""
        self._heard[bell] = heard
        self._epoll.register(bell, select.EPOLLIN | select.EPOLLET)

    def ignore(self, bell: int) -> None:
        """Listen to it no more."""
        del self._heard[bell]
        self._epoll.unregister(bell)

    def _on_ring(self) -> None:
        for bell, _ in self._epoll.poll(0):
            heard = self._heard.get(bell)
            if heard is not None:
                heard()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
