"""`pybalancer import`: its arguments, and what it writes where.

Exit status: 0 all is translated, 1 some of it is not (stderr says what and why), 2 a file cannot be read or the result
not be written.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.convert.words import Report

__all__ = ["add"]

_WHOLE, _IN_PART, _NOT = 0, 1, 2
_EXAMPLES = """\
examples:
  pybalancer import /etc/haproxy/haproxy.cfg /etc/keepalived/keepalived.conf -o balancer.yaml
  pybalancer import haproxy.cfg keepalived.conf --node standby standby/haproxy.cfg standby/keepalived.conf
  ipvsadm-save -n | pybalancer import - > balancer.yaml
exit status: 0 all is translated, 1 some of it is not, 2 a file cannot be read or written
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = commands.add_parser(
        "import",
        help="make a balancer.yaml of haproxy.cfg, keepalived.conf and ipvsadm-save",
        description="Make one balancer.yaml of what HAProxy, keepalived and IPVS were told.\n"
        "What has no counterpart is "
        "listed with its line and why, on stderr and at the end of the result.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="haproxy.cfg, keepalived.conf, output of ipvsadm-save; -: from stdin"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write there (default: to stdout)")
    parser.add_argument("--force", action="store_true", help="replace a FILE that is there")
    parser.add_argument(
        "--node",
        dest="nodes",
        metavar=("NAME", "FILE"),
        nargs="+",
        action="append",
        default=[],
        help="another director's host name and files; what differs goes under `nodes:`",
    )
    parser.add_argument(
        "--hosts", metavar="FILE", default="/etc/hosts", help="names of IPVS's servers (default: /etc/hosts)"
    )
    parser.add_argument(
        "--config-id", metavar="ID", default="", help="keepalived.conf: lines of @ID count (keepalived -i)"
    )
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from balancer.convert.importer import NothingError, import_files
    from balancer.convert.words import UnreadableError, read_text

    output = Path(arguments.output) if arguments.output is not None else None
    nodes: dict[str, list[str]] = {}
    for name, *files in arguments.nodes:
        nodes.setdefault(name, []).extend(files)
    for name, files in nodes.items():
        if not files:
            return _failed(f"--node {name}: wants files behind the name")
    try:
        if output is not None and not arguments.force and os.path.lexists(output):
            return _failed(f"{output}: is there already; --force replaces it")
        hosts = read_text(arguments.hosts) if arguments.hosts != "/etc/hosts" or Path("/etc/hosts").exists() else ""
        result = import_files(
            arguments.files,
            environ=os.environ,
            others=nodes,
            hosts=hosts,
            config_id=arguments.config_id,
            may_write_files=output is not None,
        )
        if output is None:
            sys.stdout.write(result.text)
        else:
            for name, content in {**result.files, output.name: result.text}.items():
                _write(output.with_name(name), content, is_forced=arguments.force)
    except NothingError as error:
        _tell(error.report)
        return _failed(str(error))
    except UnreadableError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename or output}: cannot be written: {error.strerror}")
    _tell(result.report)
    return _WHOLE if result.is_whole else _IN_PART


def _tell(report: Report) -> None:
    for note in report.told:
        sys.stderr.write(f"{note.place}: {note.fate}: {note.directive}: {note.why}\n")


def _failed(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return _NOT


def _write(path: Path, text: str, *, is_forced: bool) -> None:
    """Whole or not at all; for its owner alone, as there are passwords in it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    if not is_forced and os.path.lexists(path):
        raise FileExistsError(17, "is there already; --force replaces it", str(path))
    try:
        with open(
            part, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)
        ) as to:
            to.write(text)
            to.flush()
            os.fsync(to.fileno())
        os.replace(part, path) if is_forced else os.link(part, path)  # noqa: PTH105
    finally:
        part.unlink(missing_ok=True)
