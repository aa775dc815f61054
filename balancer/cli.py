"""The `pybalancer` command.

Exit status: 0 done, 1 a configuration or a machine that will not do (the text says why), 2 wrong usage,
130 interrupted. What was asked for goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from balancer import __version__
from balancer.errors import BalancerError

if TYPE_CHECKING:
    from balancer.config.model import Config

__all__ = ["main"]

_DEFAULT_FILE = "/etc/pybalancer/balancer.yaml"
# As of global.runtime_socket.path.
_DEFAULT_SOCKET = "/run/pybalancer/admin.sock"
_EXAMPLES = """\
examples:
  pybalancer demo                             three web and three DNS servers to try it on, no file needed
  pybalancer check -c balancer.yaml           OK, or every error with its line
  pybalancer -c balancer.yaml                 balance; SIGTERM lets what is in flight finish, a second one does not;
                                              SIGHUP reads the file again and loses no connection
  pybalancer -c balancer.yaml --node standby  the same file on another director
  pybalancer status -n                        services and servers, as of ipvsadm -L -n
  pybalancer drain web/web1                   nothing new for a server but clients that hold its cookie
  pybalancer why                              why this director is master, or is not
  pybalancer vrrp release --for 30m           leave the addresses to the other director, for maintenance
  pybalancer schema > balancer.schema.json    for editors that complete keys
"""
# What a shell reports of a program that SIGINT or SIGPIPE ended: 128 + the signal's number.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); returns the exit status.

    Raises SystemExit for wrong usage, `--help` and `--version`, as argparse does.
    """
    # Not as an exception: a library that catches everything as it loads would swallow Ctrl-C with it.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        sys.stdout.flush()
    except BalancerError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    finally:
        signal.signal(signal.SIGINT, before)
    return status


def _way() -> str:
    """How what traffic passes is run."""
    spec = importlib.util.find_spec("balancer.proxy.stream")
    is_compiled = spec is not None and spec.origin is not None and not spec.origin.endswith(".py")
    return "compiled" if is_compiled else "interpreted"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pybalancer",
        description="Load balancing with high availability: TCP, HTTP and UDP, health checks, statistics.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pybalancer {__version__} ({_way()})")
    _takes_file(parser, default=_DEFAULT_FILE)
    parser.set_defaults(command=_run)
    commands = parser.add_subparsers(title="commands", metavar="")

    check = commands.add_parser(
        "check", help="print OK or every error of a configuration", description="Print OK or every error, one a line."
    )
    # A default here would win over a value given before the word `check`.
    _takes_file(check, default=argparse.SUPPRESS)
    check.set_defaults(command=_check)

    schema = commands.add_parser("schema", help="print the JSON schema of the configuration")
    schema.set_defaults(command=_schema)

    _add_kernel(commands)
    _add_servers(commands)
    _add_vrrp(commands)

    demo = commands.add_parser(
        "demo",
        help="balance three web and three DNS servers of its own on this machine",
        description="Start three web servers, three DNS servers and a balancer in front of them, all on loopback.",
    )
    demo.add_argument(
        "--ports", metavar="N", type=_port, help="listen on the free ports from N on, instead of 8000, 8080, 5300, 7000"
    )
    demo.add_argument("--show-config", action="store_true", help="print its configuration and start nothing")
    demo.set_defaults(command=_demo)
    return parser


def _add_kernel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser(
        "status",
        help="list services and servers, as ipvsadm -L does",
        description="List services and servers in the layout of ipvsadm -L: what the kernel balances, then the rest.",
    )
    status.add_argument("-n", "--numeric", action="store_true", help="addresses and ports instead of names")
    views = status.add_mutually_exclusive_group()
    for option, view, text in (
        (("--stats",), "stats", "what each has carried"),
        (("--rate",), "rate", "what each carries a second"),
        (("--connections",), "connections", "the kernel's connections"),
    ):
        views.add_argument(*option, dest="view", action="store_const", const=view, default="status", help=text)
    status.set_defaults(command=_ask, words=["show", "kernel"])
    show = commands.add_parser("show", help="print what is in the kernel").add_subparsers(
        title="commands", metavar="", required=True
    )
    kernel = show.add_parser("kernel", help="print the rules as the kernel has them")
    kernel.set_defaults(command=_ask, words=["show", "kernel"])
    for parser in (status, kernel):
        _asks_daemon(parser)


def _add_servers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What changes servers of the daemon that runs here."""
    for word, help_, text in (
        ("drain", "send a server nothing new", "Only clients that hold its cookie still get to it; it is checked on."),
        ("maint", "put a server into maintenance", "Nobody gets to it, and it is not checked. What is there goes on."),
        ("ready", "end a drain or maintenance", "It takes part again; out of maintenance it is checked at once."),
    ):
        parser = commands.add_parser(word, help=help_, description=text)
        parser.set_defaults(command=_steer, words=["state", word])
        _takes_servers(parser)
    weight = commands.add_parser(
        "weight",
        help="give a server another weight",
        description="Give a server another weight, until the configuration has another one or the daemon is restarted.",
    )
    weight.add_argument("weight", metavar="WEIGHT", help="0 to 256, or of the configured one so much: 50%%")
    weight.set_defaults(command=_steer, words=["weight"])
    _takes_servers(weight)


def _takes_servers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("servers", metavar="BACKEND/SERVER", nargs="+", help="one or several")
    _asks_daemon(parser)


def _asks_daemon(parser: argparse.ArgumentParser) -> None:
    _takes_file(parser, default=argparse.SUPPRESS)
    parser.add_argument("--socket", metavar="PATH", help="the daemon's runtime socket; no configuration is read")


def _add_vrrp(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What asks the daemon that runs here."""
    why = commands.add_parser(
        "why",
        help="print the sums that give the priorities of the virtual routers here",
        description="Print why this director is master or is not: what its priority is the sum of, whom it hears.",
    )
    vrrp = commands.add_parser(
        "vrrp",
        help="show, release or hold the virtual addresses of this director",
        description="Ask the daemon that runs here for its virtual routers.",
    ).add_subparsers(title="commands", metavar="", required=True)
    show = vrrp.add_parser("show", help="print where the virtual routers stand")
    release = vrrp.add_parser(
        "release",
        help="leave the addresses to other directors",
        description="Leave the addresses to other directors, until the time is over or `hold` is said.",
    )
    hold = vrrp.add_parser("hold", help="take part again before the time of a release is over")
    release.add_argument(
        "--for", dest="period", metavar="TIME", type=_period, default="1h", help="so long, such as 30m (default: 1h)"
    )
    for parser, words in (
        (why, ["show", "vrrp", "why"]),
        (show, ["show", "vrrp"]),
        (release, ["vrrp", "release"]),
        (hold, ["vrrp", "hold"]),
    ):
        parser.set_defaults(command=_ask, words=words)
        if parser is not show:
            parser.add_argument("name", metavar="NAME", nargs="?", help="an instance or a sync group (default: all)")
        _asks_daemon(parser)


def _takes_file(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=default, help=f"the configuration (default: {_DEFAULT_FILE})"
    )
    parser.add_argument(
        "--node",
        metavar="NAME",
        default=None if default is not argparse.SUPPRESS else default,
        help="whose part under `nodes:` holds (default: this host's name)",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:6]) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _period(text: str) -> str:
    from balancer.config import units

    try:
        units.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


# The modules behind a command are imported by it alone: `check` runs before every start and reload.


def _run(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    from balancer.daemon import supervisor

    return supervisor.run(config, supervisor.Source(arguments.config, lambda: _load(arguments)))


def _check(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    from balancer.config import check

    for warning in check.warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
    print("OK")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from balancer.config.schema import schema

    print(json.dumps(schema(), indent=2))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from balancer.demo import show

    if arguments.show_config:
        print(show.configuration(first_port=arguments.ports), end="")
        return 0
    return show.run(first_port=arguments.ports)


def _ask(arguments: argparse.Namespace) -> int:
    """Give a command to the daemon that runs here."""
    from balancer.observe import client

    words = list(arguments.words)
    if getattr(arguments, "name", None) is not None:
        words.append(arguments.name)
    if "period" in arguments:
        words += ["for", arguments.period]
    if "view" in arguments:
        words += [arguments.view, *(["numeric"] if arguments.numeric else [])]
    answer = client.ask(arguments.socket or _runtime_socket(arguments), *words)
    print(answer.text, end="", file=sys.stderr if answer.is_error else sys.stdout)
    return int(answer.is_error)


def _steer(arguments: argparse.Namespace) -> int:
    """Change servers of the daemon that runs here, one after the other, and say what they are then."""
    from balancer.observe import client

    path = arguments.socket or _runtime_socket(arguments)
    words = [*arguments.words, *([arguments.weight] if "weight" in arguments else [])]
    status = 0
    for name in arguments.servers:
        answer = client.ask(path, "set", "server", name, *words)
        if answer.is_error:
            print(f"{name}: {answer.text}", end="", file=sys.stderr)
            status = 1
        else:
            print(f"{name}: {' '.join(words)}")
    return status


def _runtime_socket(arguments: argparse.Namespace) -> str:
    if arguments.config == _DEFAULT_FILE and not Path(_DEFAULT_FILE).exists() and Path(_DEFAULT_SOCKET).exists():
        # The file is somewhere else, but the daemon is where one looks for it.
        return _DEFAULT_SOCKET
    config = _load(arguments)
    if config.global_.runtime_socket is None:
        raise BalancerError(
            f"{arguments.config}: the daemon takes no commands; add under global: "
            "runtime_socket: {path: /run/pybalancer/admin.sock}"
        )
    return config.global_.runtime_socket.path


def _load(arguments: argparse.Namespace) -> Config:
    """The configuration as this node has it."""
    from balancer.config import read

    node = arguments.node or socket.gethostname()
    config = read.load(arguments.config, node=node, environ=os.environ)
    short = node.partition(".")[0]
    if arguments.node is None and node not in config.nodes and short in config.nodes:
        config = read.load(arguments.config, node=short, environ=os.environ)
    if arguments.node and arguments.node not in config.nodes:
        known = ", ".join(config.nodes) or "none"
        print(f"warning: no {arguments.node} under nodes, the file holds as it is; known: {known}", file=sys.stderr)
    return config
