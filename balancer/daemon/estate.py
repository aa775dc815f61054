"""What a supervisor leaves to the one that is executed in its place: generations, memory, sockets, virtual routers.

Descriptors keep their numbers over execve(2). Memory is attached again by its file (pool.shared), sockets are made anew
around their descriptors, everything else is written down by name: what a later version has more takes its default, what
it has no more is dropped. Where it needs what was not written down, or looks at memory otherwise (`shape`), it says so,
and does not take over.

The octets are our own, of a file without a name that nobody else has; and nothing is made of them but what is ours, and
a few harmless types (`_ALLOWED`).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import importlib
import io
import json
import mmap
import os
import pickle
import socket
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from balancer.daemon.generation import Child, Generation
from balancer.daemon.limits import Book
from balancer.daemon.lock import Lock
from balancer.daemon.logbook import Logbook, Storage
from balancer.daemon.memory import Memory
from balancer.daemon.reloads import Reloads
from balancer.daemon.sockets import Sockets
from balancer.errors import BalancerError
from balancer.pool import facts, orders, shared
from balancer.pool.journal import Journal
from balancer.pool.notice import Notice
from balancer.pool.orders import Board
from balancer.pool.outdated import Outdated
from balancer.pool.places import Limit
from balancer.pool.sources import Block, Geometry
from balancer.vrrp.link import Link

__all__ = ["FORMAT", "EstateError", "head", "keep", "read", "shape", "write"]

FORMAT = 1
"""Of what is written here. Another one is not read."""
# Objects that are taken apart: those of their attributes that are descriptors. What is not to be taken along is made
# anew by whoever takes over.
_THINGS: dict[type, tuple[str, ...]] = {
    Block: (),
    Board: (),
    Book: ("bell",),
    Child: (),
    Generation: (),
    Journal: ("_fd",),
    Limit: ("fd",),
    Link: (),
    Lock: ("_file",),
    Logbook: ("wishes", "refusals"),
    Memory: ("worker_bells", "control_bell", "kernel_bell"),
    Notice: (),
    Outdated: (),
    Reloads: ("asked", "told"),
    Sockets: (),
    Storage: ("_directory",),
}
_LEFT_BEHIND: dict[type, dict[str, Any]] = {
    Child: {"main": None},
    Generation: {"log": None, "serving": None, "predecessor": None, "folded": []},
    Sockets: {"_adopted": {}},
}
_ALLOWED = frozenset(
    [
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "bytearray"),
        ("builtins", "range"),
        ("collections", "Counter"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("ipaddress", "IPv4Address"),
        ("ipaddress", "IPv6Address"),
        ("ipaddress", "IPv4Interface"),
        ("ipaddress", "IPv6Interface"),
        ("ipaddress", "IPv4Network"),
        ("ipaddress", "IPv6Network"),
        ("pathlib", "PosixPath"),
        ("re", "_compile"),
        ("socket", "AddressFamily"),
        ("socket", "SocketKind"),
    ]
)


class EstateError(BalancerError):
    """It cannot be taken over; the text says why."""


def shape() -> str:
    """How what is in memory is to be understood: equal for two versions that can share it."""
    return json.dumps(
        [
            list(facts.COUNTERS),
            orders.Board.size(1),
            orders.ServerState._fields,
            Limit.size(3),
            Limit.__slots__,
            Notice.size(1),
            Geometry(1, 1, (1.0, 1.0, 1.0)).octets,
        ]
    )


def write(left: dict[str, Any], more: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """It as octets. `more` stands at their head, for those too who cannot read the rest: JSON."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dump(left)
    told = {"format": FORMAT, "shape": shape(), "files": sorted(pickler.files), **more}
    return json.dumps(told).encode() + b"\n" + stream.getvalue()


def read(octets: bytes) -> dict[str, Any]:
    """What was written. EstateError where this version does not understand it, or cannot have it."""
    told, body = head(octets), octets.partition(b"\n")[2]
    try:
        if told["format"] != FORMAT:
            raise EstateError(f"it is handed over in format {told['format']}, and this version reads {FORMAT}")
        if told["shape"] != shape():
            raise EstateError("this version keeps what is counted and known of servers otherwise")
        left: dict[str, Any] = _Unpickler(io.BytesIO(body)).load()
        _made.clear()
    except EstateError:
        raise
    except Exception as error:
        raise EstateError(f"what is handed over cannot be understood: {type(error).__name__}: {error}") from error
    return left


def head(octets: bytes) -> dict[str, Any]:
    """What stands before it: `format`, `shape`, `files` (its descriptors), and `more`. EstateError."""
    try:
        told: dict[str, Any] = json.loads(octets.partition(b"\n")[0])
    except ValueError:
        told = {}
    if not isinstance(told, dict) or not {"format", "shape", "files"} <= told.keys():
        raise EstateError("what is handed over cannot be understood: it has no head")
    return told


def keep(files: Iterable[int], *, over_exec: bool) -> None:
    """Whether these descriptors are there after execve(2)."""
    for file in files:
        # One that is closed already is nothing to keep.
        with contextlib.suppress(OSError):
            os.set_inheritable(file, over_exec)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, protocol: int) -> None:
        super().__init__(stream, protocol)
        self.files: set[int] = set()

    def _file(self, file: int) -> int:
        if file >= 0:
            self.files.add(file)
        return file

    def reducer_override(self, it: Any) -> Any:
        kind = type(it)
        if kind in _THINGS:
            return self._thing(it)
        if kind is mmap.mmap:
            return _memory, (self._file(shared.file_of(it)), len(it))
        if kind is memoryview:
            return _view, self._view(it)
        if isinstance(it, socket.socket):
            return (_socket, (self._file(it.fileno()),)) if it.fileno() >= 0 else (_closed, ())
        if isinstance(it, enum.Enum):
            return _member, (kind, it.name)
        if isinstance(it, BaseModel):
            return _model, (kind, dict(it.__dict__), sorted(it.model_fields_set))
        if isinstance(it, tuple) and hasattr(kind, "_fields"):
            return _record, (kind, dict(zip(kind._fields, it, strict=True)))
        if dataclasses.is_dataclass(it) and not isinstance(it, type):
            return _record, (kind, {each.name: getattr(it, each.name) for each in dataclasses.fields(it)})
        return NotImplemented

    def _thing(self, it: Any) -> Any:
        kind = type(it)
        names = getattr(kind, "__slots__", None) or vars(it)
        state = {name: getattr(it, name) for name in names} | _LEFT_BEHIND.get(kind, {})
        if isinstance(it, Memory) and not it._is_open:
            # Their numbers are others' by now.
            state |= {"worker_bells": [], "control_bell": -1, "kernel_bell": None}
        for name in _THINGS[kind]:
            found = state[name]
            for file in found if isinstance(found, list) else [found]:
                if file is not None:
                    self._file(file)
        return _bare, (kind,), state, None, None, _fill

    @staticmethod
    def _view(view: memoryview) -> tuple[mmap.mmap, int, int, str]:
        base = view.obj
        assert isinstance(base, mmap.mmap)
        if not view.nbytes:
            return base, 0, 0, view.format
        begin, start = (ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (base, view))
        return base, start - begin, view.nbytes, view.format


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED and not module.startswith("balancer."):
            raise EstateError(f"{module}.{name} is nothing to be handed over")
        found = importlib.import_module(module)
        return getattr(found, name)


# What was made so far, while not all of it is: else what fails would close descriptors that others are to have.
_made: list[Any] = []


def _memory(file: int, octets: int) -> mmap.mmap:
    memory = shared.attach(file, octets)
    _made.append(memory)
    return memory


def _view(base: mmap.mmap, offset: int, octets: int, form: str) -> memoryview:
    view = memoryview(base)[offset : offset + octets]
    return view if form == "B" else view.cast(form)  # type: ignore[call-overload]


def _socket(file: int) -> socket.socket:
    sock = socket.socket(fileno=file)
    _made.append(sock)
    return sock


def _closed() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


def _member(kind: type[enum.Enum], name: str) -> enum.Enum:
    return kind[name]


def _model(kind: type[BaseModel], values: dict[str, Any], said: list[str]) -> BaseModel:
    """As it was checked before. Keys of other versions take their defaults, or are dropped."""
    known = {name: value for name, value in values.items() if name in kind.model_fields}
    lacking = [name for name, each in kind.model_fields.items() if each.is_required() and name not in known]
    if lacking:
        raise EstateError(f"{kind.__name__} needs {', '.join(lacking)} in this version")
    return kind.model_construct(_fields_set=set(said) & known.keys(), **known)


def _record(kind: Any, values: dict[str, Any]) -> Any:
    names = kind._fields if hasattr(kind, "_fields") else {each.name for each in dataclasses.fields(kind) if each.init}
    return kind(**{name: value for name, value in values.items() if name in names})


def _bare(kind: type) -> Any:
    return object.__new__(kind)


def _fill(it: Any, state: dict[str, Any]) -> None:
    kind = type(it)
    if dataclasses.is_dataclass(kind):
        for each in dataclasses.fields(kind):
            if each.default is not dataclasses.MISSING:
                setattr(it, each.name, each.default)
            elif each.default_factory is not dataclasses.MISSING:
                setattr(it, each.name, each.default_factory())
    for name, value in state.items():
        if hasattr(kind, "__slots__") and name not in kind.__slots__:
            raise EstateError(f"{kind.__name__} has no {name} in this version")
        setattr(it, name, value)
