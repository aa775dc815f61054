"""Text for nftables into the kernel: through libnftables(3), the library behind nft(8)."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
from typing import Any

from balancer.errors import KernelError, StartError

__all__ = ["Nft"]

_LIBRARY = "libnftables.so.1"
# libnftables.h: NFT_CTX_DEFAULT, NFT_CTX_OUTPUT_JSON.
_DEFAULT = 0
_OUTPUT_JSON = 1 << 4
# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h: dumps of a set's elements.
_NETLINK_NETFILTER = 12
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_GET_ELEMENTS, _FAMILY_INET = 10 << 8 | 13, 1
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# An element's attributes. A counter's numbers lie where they lie by the order in which the kernel writes it, which is
# the same for all.
_KEY, _EXPRESSION = 1, 7
_COUNTER = b"counter\0"
# A change by somebody else while the kernel tells; then it must tell again.
_TRIES = 10
# A line of thousands of elements says no more than its beginning.
_LONGEST_LINE = 200
# Octets. The library takes some 50 times as much to read them.
_LONG = 1 << 18
# Not every C library has it (malloc_trim(3)).
_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)


class Nft:
    """A line to the kernel's rules, of the network namespace that it is made in.

    StartError where the library is missing, or the kernel has no nftables or does not let us.
    """

    def __init__(self) -> None:
        try:
            self._library = _load()
        except OSError:
            raise StartError(f"engine kernel needs {_LIBRARY}, which is not there: apt-get install nftables") from None
        self._context: int | None = self._library.nft_ctx_new(_DEFAULT)
        if not self._context:
            raise StartError("engine kernel: libnftables cannot be used (out of memory?)")
        self._is_dry = False
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        try:
            self.run("list tables")
        except KernelError as error:
            self.close()
            raise StartError(f"engine kernel: {_advice(str(error))}") from None

    def run(self, text: str) -> str:
        """Carry out all of `text` or none of it; what it lists. KernelError with nft's words and the line."""
        output, error = self._run(text)
        if error:
            raise KernelError(self._place(text.splitlines(), error))
        return output

    def takes(self, text: str) -> bool:
        """Carry out all of `text` or none of it; whether it was done. Why not takes long to find out."""
        return not self._run(text)[1]

    def _run(self, text: str) -> tuple[str, str]:
        """What was listed, or why not."""
        status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        # Both buffers are read whatever came of it: that empties them.
        output = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        error = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        if len(text) > _LONG:
            # What it took to read is not kept for the next such text, which may never come.
            _trim(0)
        return (output, "") if not status else ("", _reason(error))

    def _place(self, lines: list[str], error: str) -> str:
        """The error with its line, which the library tells of files alone: the last of the shortest beginning that
        fails."""
        self._library.nft_ctx_set_dry_run(self._context, True)
        try:
            good, bad = 0, len(lines)
            while bad - good > 1:
                middle = (good + bad) // 2
                if self._run("\n".join(lines[:middle]))[1]:
                    bad = middle
                else:
                    good = middle
            error = self._run("\n".join(lines[:bad]))[1] or error
        finally:
            self._library.nft_ctx_set_dry_run(self._context, self._is_dry)
        line = lines[bad - 1] if lines else ""
        return f"{error}: {line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + ' …'}"

    def check(self, text: str) -> None:
        """Whether the kernel would take it; KernelError where it would not. Nothing is changed."""
        self._is_dry = True
        self._library.nft_ctx_set_dry_run(self._context, True)
        try:
            self.run(text)
        finally:
            self._is_dry = False
            self._library.nft_ctx_set_dry_run(self._context, False)

    def list_json(self, command: str) -> Any:
        """What a `list` command says, as libnftables-json(5) has it."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)
        try:
            return json.loads(self.run(command))["nftables"]
        finally:
            self._library.nft_ctx_output_set_flags(self._context, _DEFAULT)

    def counted(self, table: str, name: str) -> dict[bytes, tuple[int, int]]:
        """Packets and octets by key of each element of a set or map of counters, whose keys (and values) are all of
        one length.

        Past the library, which takes 20 times as long. KernelError when there is no such set.
        """
        for _ in range(_TRIES):
            found = self._dump(table, name)
            if found is not None:
                return found
        raise KernelError(f"the rules change too fast to read the counters of {name}")

    def _dump(self, table: str, name: str) -> dict[bytes, tuple[int, int]] | None:
        """None where the rules were changed meanwhile."""
        body = struct.pack("=BBH", _FAMILY_INET, 0, 0) + _text(_TABLE, table.split()[-1]) + _text(_SET, name)
        self._socket.send(
            _HEADER.pack(_HEADER.size + len(body), _GET_ELEMENTS, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0) + body
        )
        parts: list[bytes] = []
        is_whole = True
        # All of it is taken before any of it is judged: what stays behind would be the next one's answer.
        while True:
            data = self._socket.recv(1 << 16)
            at = 0
            while at < len(data):
                size, kind, flags, _, _ = _HEADER.unpack_from(data, at)
                is_whole = is_whole and not flags & _NLM_F_DUMP_INTR
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    if error := -struct.unpack_from("=i", data, at + _HEADER.size)[0]:
                        raise KernelError(f"{os.strerror(error)}: set {table} {name}")
                    return _counters(parts) if is_whole else None
                # Past the message's header and nfgenmsg.
                parts.append(data[at + _HEADER.size + 4 : at + size])
                at += size

    def close(self) -> None:
        """Rules stay as they are."""
        self._socket.close()
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    context = ctypes.c_void_p
    for name, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_get_output_buffer", ctypes.c_char_p, [context]),
        ("nft_ctx_get_error_buffer", ctypes.c_char_p, [context]),
        ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
        ("nft_ctx_set_dry_run", None, [context, ctypes.c_bool]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, ctypes.c_char_p]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _text(kind: int, word: str) -> bytes:
    data = word.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _counters(messages: list[bytes]) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for data in messages:
        at = 0
        while at < len(data):
            size, kind = _ATTRIBUTE.unpack_from(data, at)
            if kind & 0x7FFF == _ELEMENTS and size > _ATTRIBUTE.size:
                elements = data[at + _ATTRIBUTE.size : at + size]
                layout = _layout(elements)
                found.update((own, (packets, octets)) for own, octets, packets in layout.iter_unpack(elements))
            at += size + -size % 4
    return found


def _layout(elements: bytes) -> struct.Struct:
    """Where each element has its key, octets and packets. KernelError for another one."""
    of_each, at = _ATTRIBUTE.unpack_from(elements)[0], _ATTRIBUTE.size
    places = {}
    while at < of_each:
        size, kind = _ATTRIBUTE.unpack_from(elements, at)
        places[kind & 0x7FFF] = at, size
        at += size + -size % 4
    (key_at, key), (counter_at, _) = places.get(_KEY, (0, 0)), places.get(_EXPRESSION, (0, 0))
    # Past the headers of the expression and of its name.
    if len(elements) % of_each or elements[counter_at + 8 : counter_at + 16] != _COUNTER:
        raise KernelError("a set's elements are not as this version expects them from the kernel")
    before, gap = key_at + 8, counter_at - key_at - key
    return struct.Struct(f"!{before}x{key - 8}s{gap + 24}xQ4xQ")


def _reason(said: str) -> str:
    """nft's first complaint, without the line and the marks under it."""
    first = next((line for line in said.splitlines() if line.strip(" ^~")), "Error: nftables does not say why")
    return first.split("Error: ", 1)[-1]


def _advice(why: str) -> str:
    if "not permitted" in why or "must be root" in why:
        return "the kernel does not let us look at its rules: start as root, or with CAP_NET_ADMIN"
    if "not supported" in why or "No such file" in why:
        return f"this kernel has no nftables (modprobe nf_tables; CONFIG_NF_TABLES_INET): {why}"
    return why
