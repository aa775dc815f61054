"""Several old files made one balancer.yaml: which kind each is, what differs on other directors, the text."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from balancer.convert import haproxy, ipvs, keepalived
from balancer.convert.haproxy_lines import SECTIONS
from balancer.convert.mend import mend
from balancer.convert.render import commented
from balancer.convert.tree import Map, overlay_of, place_of, places
from balancer.convert.words import Fate, Line, Place, Report, UnreadableError, read_text, shown_path

__all__ = ["NothingError", "Result", "import_files"]

# As of global.runtime_socket.path.
_SOCKET = "/run/pybalancer/admin.sock"
_ORDER = ("global", "defaults", "resolvers", "acls", "frontends", "backends", "stats", "vrrp", "gateway", "nodes")
_OF_KEEPALIVED = re.compile(
    r"^[ \t]*(?:@\S+[ \t]+)?(?:vrrp_\w+|virtual_server\w*|global_defs"
    r"|static_\w+|track_file|garp_group|bfd_instance|include"
    r"|net_namespace|lvs_\w+|linkbeat_\w+|interface_up_down_delays)\b",
    re.MULTILINE,
)
_OF_IPVSADM = re.compile(r"^[ \t]*(?:-A|-a|--add-service|--add-server)\s", re.MULTILINE)
_OF_HAPROXY = re.compile(rf"^[ \t]*(?:{'|'.join(sorted(SECTIONS))})(?:\s|$)", re.MULTILINE)


class NothingError(UnreadableError):
    """Files of which nothing is left that would do anything; `report` says what was in them."""

    def __init__(self, paths: Sequence[str], report: Report) -> None:
        super().__init__(f"{', '.join(map(shown_path, paths))}: nothing in there can be balanced here")
        self.report = report


@dataclass(frozen=True)
class Result:
    """The configuration, the further files that it names (by their path beside it), and what was found on the way."""

    text: str
    report: Report
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost."""
        return not self.report.of(Fate.LOST)


def import_files(
    paths: Sequence[str],
    *,
    environ: Mapping[str, str],
    others: Mapping[str, Sequence[str]] | None = None,
    hosts: str = "",
    config_id: str = "",
    may_write_files: bool = False,
) -> Result:
    """Import haproxy.cfg, keepalived.conf and `ipvsadm-save` of one director; `others` are the files of further ones,
    by host name. `hosts` is the text of hosts(5), for names of servers.

    UnreadableError tells of files that are none of these, or hold nothing.
    """
    report = Report()
    files: dict[str, str] | None = {} if may_write_files else None
    names = ipvs.hosts_of(hosts)
    root = _one(paths, report, environ, names, config_id, files)
    loaded = mend(root, report, node="", environ=environ, files=files or {})
    if loaded is None:
        report.finish(set())
        raise NothingError(paths, report)
    for node, its in (others or {}).items():
        own = _one(its, report, environ, names, config_id, files)
        if mend(own, report, node="", environ=environ, files=files or {}) is None:
            raise NothingError(its, report)
        _overlay(root, own, node, report, its)
    if others:
        mend(root, report, node="", environ=environ, files=files or {})
    report.finish({*places(root)})
    ordered = Map()
    for key in _ORDER:
        if root.get(key):
            ordered.put(key, root[key], root.origins.get(key) if key == "stats" else None)
    everything = [*paths, *(path for its in (others or {}).values() for path in its)]
    label = _labels(everything)
    text = "".join([*_head(everything), commented(ordered, label), *_notes(report, label)])
    return Result(text, report, files or {})


def _one(
    paths: Sequence[str],
    report: Report,
    environ: Mapping[str, str],
    names: Mapping[str, str],
    config_id: str,
    files: dict[str, str] | None,
) -> Map:
    """One director's files as one tree: HAProxy's first, in whatever order they were named."""
    root = Map()
    texts = [(path, *_read(path)) for path in paths]
    for kind in ("haproxy", "keepalived", "ipvsadm"):
        for path, its, text in texts:
            file = shown_path(path)
            if its != kind:
                continue
            if kind == "haproxy":
                haproxy.convert(text, file, root, report, environ, files=files)
            elif kind == "keepalived":
                keepalived.convert(text, file, root, report, names, config_id=config_id)
            else:
                ipvs.convert(text, file, root, report, names)
    own = root.under("global")
    if "runtime_socket" not in own:
        socket = Map()
        socket.put("path", _SOCKET)
        own.put("runtime_socket", socket)
    return root


def _read(path: str) -> tuple[str, str]:
    """The kind of a file and its text; - is standard input."""
    text = sys.stdin.read() if path == "-" else read_text(path)
    plain = "\n".join(row for row in text.splitlines() if not row.lstrip().startswith(("#", "!")))
    if _OF_IPVSADM.search(plain):
        return "ipvsadm", text
    if _OF_KEEPALIVED.search(plain) and ("{" in plain or not _OF_HAPROXY.search(plain)):
        return "keepalived", text
    if _OF_HAPROXY.search(plain):
        return "haproxy", text
    raise UnreadableError(f"{shown_path(path)}: is no haproxy.cfg, no keepalived.conf and no output of ipvsadm-save")


def _overlay(root: Map, own: Map, node: str, report: Report, paths: Sequence[str]) -> None:
    """What is different on another director, under its name."""
    over, gone = overlay_of(root, own)
    for loc in gone:
        if len(loc) == 1 and not root.get(str(loc[0])):
            continue
        line = place_of(root, loc) or Line((str(loc[0]),), Place(shown_path(paths[0]), 1))
        where = ".".join(map(str, loc))
        report.lost(line, f"{node} has nothing of this ({where}): what stands under `nodes` takes nothing away")
    if over:
        root.under("nodes").put(node, over)


def _head(paths: Sequence[str]) -> Iterator[str]:
    names = ["standard input" if path == "-" else shown_path(path) for path in paths]
    yield f"# Made by `pybalancer import` of {', '.join(names)}.\n"
    yield "# Behind each part stands the line that it came from. What the files leave to defaults is left to\n"
    yield "# pybalancer's here: README has those that differ on purpose.\n\n"


def _labels(paths: Sequence[str]) -> Callable[[Place], str]:
    """Files are called by their names in comments, where these are different."""
    names = Counter(os.path.basename(path) for path in dict.fromkeys(paths))  # noqa: PTH119
    short = {shown_path(path): os.path.basename(path) for path in paths}  # noqa: PTH119

    def label(place: Place) -> str:
        name = short.get(place.file, place.file)
        return f"{name if names[name] == 1 and name.isprintable() else place.file}:{place.line}"

    return label


def _notes(report: Report, label: Callable[[Place], str]) -> Iterator[str]:
    titles = {
        Fate.LOST: "Not translated, and why",
        Fate.OTHER: "Translated, but not quite the same",
        Fate.IDLE: "Nothing to write: so anyway, or without meaning here",
    }
    for fate, title in titles.items():
        notes = report.of(fate)
        if notes:
            yield f"\n# {title}:\n"
            yield from (f"#   {label(note.place)}: {note.directive}: {note.why}\n" for note in notes)
