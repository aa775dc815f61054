"""A daemon to ask: the real runtime socket in front of the house that `observe` is tested with."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from balancer.observe.command import Desk, Level
from balancer.observe.runtime import Runtime
from balancer.observe.steering import Change
from balancer.pool.journal import Journal
from balancer.pool.routers import Standing
from tests.e2e.bed.process import PATIENCE, until
from tests.observe.conftest import NOW, House
from tests.observe.conftest import house as house


class Daemon:
    """Answers at `path` until it is closed. What it is told to change is changed in the house."""

    def __init__(self, house: House, path: Path, level: Level = Level.ADMIN) -> None:
        self.house = house
        self.path = str(path)
        self.changes: list[Change] = []
        self.standing: Standing | None = None
        self.journal: Journal | None = None
        self._level = level
        self.open()

    def desk(self) -> Desk:
        return Desk(
            now=lambda: NOW,
            snapshot=self.house.look,
            steer=self._steer,
            events=self.journal.read if self.journal is not None else None,
            standing=(lambda: self.standing) if self.standing is not None else None,
        )

    def open(self) -> None:
        ready = threading.Event()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(self.path)
                listening.listen()
                listening.setblocking(False)
                runtime = Runtime(self._level, self.desk())
                await runtime.start(listening)
                ready.set()
                await self._stop.wait()
                await runtime.stop()
                # Who had just been accepted is let go too.
                for _ in range(5):
                    await asyncio.sleep(0)

        self._loop.run_until_complete(serve())
        self._loop.close()
        Path(self.path).unlink()

    def _steer(self, change: Change, by: str) -> None:
        self.changes.append(change)
        row = self.house.rows[change.backend, change.server]
        state = self.house.board[row]
        if change.admin is not None:
            state = state._replace(admin=change.admin)
        if change.weight is not None:
            state = state._replace(weight=change.weight)
        self.house.board[row] = state

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture
def daemon(house: House, tmp_path: Path) -> Iterator[Daemon]:
    it = Daemon(house, tmp_path / "admin.sock")
    yield it
    it.close()


class Terminal:
    """A terminal of its own, in tmux, in which a shell command runs."""

    def __init__(self, command: str, *, size: tuple[int, int] = (80, 24)) -> None:
        tmux = shutil.which("tmux")
        assert tmux, "tmux is not installed"
        self._tmux = [tmux, "-L", f"pybalancer-{uuid.uuid4()}", "-f", "/dev/null"]
        self._say("new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), command)

    def _say(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout

    def keys(self, *keys: str) -> None:
        self._say("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._say("resize-window", "-x", str(width), "-y", str(height))

    def seen(self, *more: str) -> str:
        return self._say("capture-pane", "-p", *more)

    def shows(self, *texts: str) -> str:
        """The screen as soon as all of these are there."""
        try:
            return until(lambda: (said := self.seen()) and all(text in said for text in texts) and said, f"{texts}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but\n{self.seen()}") from None

    @property
    def pid(self) -> int:
        """Of the program."""
        (shell,) = self._say("list-panes", "-F", "#{pane_pid}").split()
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    def end(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=PATIENCE, check=False)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """terminal(command, size=…)"""
    made: list[Terminal] = []

    def start(command: str, **more: Any) -> Terminal:
        made.append(Terminal(command, **more))
        return made[-1]

    yield start
    for each in made:
        each.end()
