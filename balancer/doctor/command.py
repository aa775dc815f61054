"""`pybalancer doctor`: its arguments, and what it says.

Exit status: 0 no problem was found, 1 one was, or the configuration will not do, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from balancer.errors import BalancerError

if TYPE_CHECKING:
    from balancer.config.model import Config

__all__ = ["add"]

_LONGEST = 300.0
_EXAMPLES = """\
examples:
  pybalancer doctor -c balancer.yaml          before it is started, or while it runs
  pybalancer doctor --brief --strict          for scripts: what is not in order
  pybalancer doctor --listen 10               hear VRRP for ten seconds
  pybalancer doctor --json | jq -r '.findings[] | select(.verdict == "problem") | .now[]'

Each finding is ok, a warning, a problem, or what cannot be told. Lines under now: are to be typed, those under
always: make it last; a line that begins with # is to be done by hand. Nothing is changed. What is sent are ARP
probes and Neighbor Solicitations for the virtual addresses, which nobody remembers (--quiet-net: none).

exit status:
  0  no problem (with --strict: no warning either)
  1  a problem, or the configuration will not do
  2  wrong usage
"""


def add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    takes_file: Callable[[argparse.ArgumentParser], None],
    load: Callable[[argparse.Namespace], Config],
) -> None:
    """The command and its arguments; `load` reads the file that `takes_file` lets one name."""
    parser = commands.add_parser(
        "doctor",
        help="look at this host for what breaks the configuration, and say what to type",
        description="Look at this host for what would break what the configuration wants, before the daemon is started "
        "or while it runs, and say what to type. As root it sees more.",
        epilog=_EXAMPLES,
    )
    takes_file(parser)
    parser.add_argument(
        "--listen",
        metavar="SECONDS",
        type=_seconds,
        help="hear VRRP so long (default: three advert_int, 30 at most; 0: not)",
    )
    parser.add_argument("--quiet-net", action="store_true", help="send nothing and join no group: no probes, no VRRP")
    parser.add_argument("--servers", action="store_true", help="connect once to each server of modes tcp and http")
    parser.add_argument("--brief", action="store_true", help="leave out what is in order")
    parser.add_argument("--strict", action="store_true", help="warnings count for the exit status too")
    parser.add_argument("--json", action="store_true", help="one object, for programs")
    parser.set_defaults(command=lambda arguments: _run(arguments, load(arguments)))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {_LONGEST:g}")
    return seconds


def _run(arguments: argparse.Namespace, config: Config) -> int:
    from balancer.doctor import examine, report
    from balancer.doctor.case import Wish
    from balancer.terminal.paint import Paint

    wish = Wish(
        file=arguments.config, listen=arguments.listen, is_quiet=arguments.quiet_net, asks_servers=arguments.servers
    )
    try:
        areas = examine.examine(config, wish)
    except OSError as error:
        raise BalancerError(f"this host cannot be looked at: {error}") from error
    if arguments.json:
        sys.stdout.write(report.as_json(areas, is_strict=arguments.strict) + "\n")
    else:
        paint = Paint.of(sys.stdout)
        text = report.lines(areas, width=paint.width, is_coloured=paint.is_coloured, is_brief=arguments.brief)
        sys.stdout.writelines(f"{line}\n" for line in text)
    return report.status(areas, is_strict=arguments.strict)
