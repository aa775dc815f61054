"""Where overrides are kept: in shared memory, for the processes of now, and in a file, for those of after a restart.

    control ── write ──► notice (memory) ──► supervisor, and whoever is started in control's place
            ├─ save ───► overrides.json, by way of another file, fsync(2) and rename(2)
            ├─ wish ───► supervisor: servers are added, deleted, elsewhere: a reload without a file
            │  ◄────── refuse
            └─ bequeath ► inherit: to control of after a reload, clients that wait for its answer

Only control writes either. The directory is of the user that it runs as, and what is found there at the start is read
like a stranger's: a bad file is set aside, and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from balancer.daemon.privileges import Identity
from balancer.daemon.reloads import Reloads
from balancer.errors import BalancerError
from balancer.pool import overrides, shared
from balancer.pool.notice import Notice
from balancer.pool.overrides import Overrides

__all__ = ["RESOLVED", "Logbook", "LogbookError", "Refusal", "Storage"]

# Fifty thousand overrides. Memory that is never touched is never used.
_LARGEST = 16 << 20
_NAME, _NEW, _BAD = "overrides.json", "overrides.json.new", "overrides.json.bad"
RESOLVED = "resolved.json"
"""Where names of servers were resolved to last."""
_OURS = frozenset((_NAME, _NEW, _BAD, RESOLVED, f"{RESOLVED}.new"))
_DIRECTORY_MODE, _MODE = 0o700, 0o600


# A text for a person; a client's words that nobody has answered yet.
_LONGEST_REFUSAL, _LONGEST_LEGACY = 8192, 128 << 10


class Refusal(NamedTuple):
    """What came of a wish: why nothing did, or (empty) that it is so."""

    wish: int
    why: str


class LogbookError(BalancerError):
    """Overrides cannot be kept, or read; the text says why, and what to do."""


class Storage:
    """The directory. `problems` is what was found wrong at the start, none of which keeps anybody from starting."""

    def __init__(self, directory: str, owner: Identity | None) -> None:
        """`owner`: whom control runs as, if that is somebody else. LogbookError where nothing can be kept there."""
        self._path = Path(directory)
        self.problems: list[str] = []
        try:
            with contextlib.suppress(FileExistsError):
                self._path.mkdir(_DIRECTORY_MODE, parents=True)
            self._directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LogbookError(f"{self._path} cannot be opened: {error.strerror}") from None
        try:
            # Of the open directory: it is held as long as one of our processes is there.
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if owner is not None:
                self._give_to(owner)
        except BlockingIOError:
            self.close()
            raise LogbookError(f"{self._path} is in use by another pybalancer; each needs its own") from None
        except OSError as error:
            self.close()
            raise LogbookError(f"{self._path} cannot be used: {error.strerror}") from None

    def _give_to(self, owner: Identity) -> None:
        """Only what is ours to give: root's, nobody else's to write, with nothing in it but what we put there."""
        found = os.fstat(self._directory)
        if found.st_uid != 0 or found.st_uid == owner[0] or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return
        if _OURS.issuperset(os.listdir(self._directory)):  # noqa: PTH208  # it has no path
            os.fchown(self._directory, *owner)

    def close(self) -> None:
        """Once all processes have done so, another daemon may use it."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def load(self) -> Overrides:
        """What was kept; what cannot be understood is set aside."""
        try:
            octets = self._read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.problems.append(f"{self._path / _NAME} cannot be read: {error.strerror}; nothing is remembered of it")
            return {}
        try:
            if len(octets) > _LARGEST:
                raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
            return overrides.decode(octets)
        except ValueError as error:
            with contextlib.suppress(OSError):
                os.rename(_NAME, _BAD, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            # What the error says may be long, and have anything in it.
            why = " ".join(ascii(str(error))[1:-1].split())[:200]
            self.problems.append(
                f"runtime changes are not remembered: {self._path / _NAME} cannot be understood ({why}); it is "
                f"{_BAD} now"
            )
            return {}

    def read(self, name: str) -> bytes:
        """What another file there holds, at most 16 MiB of it. OSError."""
        return self._read(name)

    def _read(self, name: str = _NAME) -> bytes:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory)
        with os.fdopen(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(0, "it is no regular file")
            return stream.read(_LARGEST + 1)

    def save(self, octets: bytes, name: str = _NAME) -> None:
        """In the place of what was kept before, whole or not at all; it may take a while. LogbookError."""
        new = f"{name}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=self._directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(new, flags, _MODE, dir_fd=self._directory)
            with os.fdopen(file, "wb") as stream:
                os.fchmod(file, _MODE)
                stream.write(octets)
                stream.flush()
                os.fsync(file)
            os.rename(new, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=self._directory)
            hint = "; it has to be of the user that control runs as" if isinstance(error, PermissionError) else ""
            raise LogbookError(f"{self._path / name} cannot be written: {error.strerror}{hint}") from None


class Logbook:
    """What control has written last, for all processes; `storage` is where it is kept for after a restart, if it is."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.storage = storage
        self._notice = Notice(memoryview(shared.allocate(Notice.size(_LARGEST))))
        self._wished = memoryview(shared.allocate(mmap.PAGESIZE)).cast("q")
        self._refusal = Notice(memoryview(shared.allocate(Notice.size(_LONGEST_REFUSAL))))
        self._from, self.legacies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """For control: to be read from when there is one."""
        for end in (self._from, self.legacies):
            end.setblocking(False)
        self.wishes = self.refusals = -1
        self._reloads: Reloads | None = None
        try:
            self.wishes = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            """Rung when there is one, for the supervisor."""
            self.refusals = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            """The same for control."""
            self._reloads = Reloads()
        except OSError:
            self.close()
            raise
        if storage is not None and (found := storage.load()):
            self.write(overrides.encode(found.values()))

    def close(self) -> None:
        """As far as this process is concerned: it has no part in it. What is in memory stays readable."""
        if self.storage is not None:
            self.storage.close()
        for bell in (self.wishes, self.refusals):
            if bell >= 0:
                os.close(bell)
        if self._reloads is not None:
            self._reloads.close()
        self.wishes = self.refusals = -1
        self._from.close()
        self.legacies.close()

    @property
    def reloads(self) -> Reloads:
        """Those of the file that somebody asks for."""
        assert self._reloads is not None
        return self._reloads

    # Wishes

    @property
    def wish(self) -> int:
        """The number of the last one."""
        return self._wished[0]

    def ask(self) -> int:
        """In control: have servers be as the overrides say that were written; the wish's number."""
        self._wished[0] += 1
        os.eventfd_write(self.wishes, 1)
        return self._wished[0]

    @property
    def done(self) -> int:
        """The number of the last one of which something came, or nothing."""
        return self._wished[1]

    def is_asked(self) -> bool:
        """In the supervisor: whether there was a wish since this was called last."""
        return _answered(self.wishes)

    def refuse(self, refusal: Refusal) -> None:
        """In the supervisor: servers stay as they are, or (no reason why) are as they are to be."""
        self._wished[1] = refusal.wish
        why = refusal.why.encode()[: _LONGEST_REFUSAL // 8].decode("utf-8", "replace")
        self._refusal.write(json.dumps([refusal.wish, why]).encode())
        # Full, as a stranger in control may have made it, it rings already.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.refusals, 1)

    def refused(self) -> Refusal | None:
        """In control: what was refused last, if anything was since this was called last."""
        return self.last_refusal if _answered(self.refusals) else None

    @property
    def last_refusal(self) -> Refusal | None:
        """What was refused last."""
        octets = self._refusal.read()
        return Refusal(*json.loads(octets)) if octets is not None else None

    # Clients

    def bequeath(self, client: int, state: bytes) -> bool:
        """In control, as it ends for another: a client's connection (its descriptor stays ours), and what is to be
        known of it. Whether that was possible."""
        try:
            return len(state) <= _LONGEST_LEGACY and socket.send_fds(self._from, [state], [client]) == len(state)
        except OSError:
            return False

    def inherit(self) -> tuple[int, bytes] | None:
        """In control, as it takes another's place: the next of these, if there is one."""
        try:
            state, descriptors, _, _ = socket.recv_fds(self.legacies, _LONGEST_LEGACY, 1)
        except OSError:
            return None
        return (descriptors[0], state) if descriptors else None

    # Overrides

    def write(self, octets: bytes) -> None:
        """From now on these hold (overrides.encode). LogbookError where they are too many."""
        try:
            self._notice.write(octets)
        except ValueError:
            raise LogbookError("there are too many runtime changes to remember") from None

    @property
    def was_written(self) -> bool:
        """Whether there ever was one."""
        return self._notice.read() is not None

    def read(self) -> Overrides:
        """Those that hold."""
        octets = self._notice.read()
        return overrides.decode(octets) if octets is not None else {}


def _answered(bell: int) -> bool:
    try:
        return os.eventfd_read(bell) > 0
    except BlockingIOError:
        return False
