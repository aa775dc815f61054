"""The `pybalancer` command.

Exit status: 0 done, 1 a configuration or a machine that will not do (the text says why), 2 wrong usage, 3 and more as
the help of a command has it, 130 interrupted. What was asked for goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from balancer import __version__
from balancer.convert import command as importing
from balancer.doctor import command as doctor
from balancer.errors import BalancerError
from balancer.observe.upgrades import DRY_RUN, UPGRADE
from balancer.terminal import manual

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
  pybalancer doctor -c balancer.yaml          what on this host stands in its way, and what to type
  pybalancer -c balancer.yaml                 balance; SIGTERM lets what is in flight finish, a second one does not;
                                              SIGHUP reads the file again and loses no connection
  pybalancer import haproxy.cfg keepalived.conf -o balancer.yaml
  pybalancer reload --dry-run                 what a reload would change, and what becomes of connections
  pybalancer -c balancer.yaml --node standby  the same file on another director
  pybalancer status -n                        services and servers, as of ipvsadm -L -n
  pybalancer drain web/web1                   nothing new for a server but clients that hold its cookie
  pybalancer maint web/web1 --for 2h --why "new disk"   two hours of maintenance; it ends by itself
  pybalancer overrides                        what was changed while it runs, by whom, why, until when
  pybalancer forget web/web1                  as the configuration says again
  pybalancer why                              why this director is master, or is not
  pybalancer vrrp release --for 30m           leave the addresses to the other director, for maintenance
  pybalancer schema > balancer.schema.json    for editors that complete keys
"""
# What a shell reports of a program that SIGINT or SIGPIPE ended: 128 + the signal's number.
_INTERRUPTED = 130
_BROKEN_PIPE = 141
# What a daemon is told by them waits until it hears: they would end the program while it is loaded.
_HELD_BACK = (signal.SIGHUP, UPGRADE, DRY_RUN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); returns the exit status.

    Raises SystemExit for wrong usage, `--help` and `--version`, as argparse does.
    """
    # Not as an exception: a library that catches everything as it loads would swallow Ctrl-C with it.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        parser = _parser()
        if "_ARGCOMPLETE" in os.environ:
            from balancer.terminal import completion

            completion.complete(parser, lambda said: getattr(said, "socket", None) or _runtime_socket(said))
        arguments = parser.parse_args(argv)
        if arguments.command is not _run:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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
        # Where there is no daemon after all, its exit status tells why, and not that it was to reload.
        while signal.sigtimedwait(_HELD_BACK, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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

    schema = commands.add_parser("schema", help="print the JSON schema of the configuration, or of status --json")
    schema.add_argument("of", choices=("config", "status"), nargs="?", default="config", help="default: config")
    schema.set_defaults(command=_schema)

    completion = commands.add_parser(
        "completion",
        help="print what a shell needs to complete commands and names by Tab",
        description="Print what a shell is to read to complete commands, options and, of the daemon that runs here, "
        "the names of servers, backends and virtual routers.",
        epilog=_COMPLETION,
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(command=_completion)

    _add_reload(commands)
    _add_kernel(commands)
    _add_servers(commands)
    _add_top(commands)
    _add_events(commands)
    _add_vrrp(commands)
    _add_upgrade(commands)
    importing.add(commands)
    doctor.add(commands, lambda parser: _takes_file(parser, default=argparse.SUPPRESS), _load)

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

    page = commands.add_parser(
        "manual", help="print a man page", description="Print all of this, or the configuration's keys, as a man page."
    )
    page.add_argument("of", choices=("command", "keys"), nargs="?", default="command", help="default: command")
    page.set_defaults(command=_manual)
    manual.explain(parser)
    return parser


_COMPLETION = """\
examples:
  pybalancer completion bash > /etc/bash_completion.d/pybalancer
  source <(pybalancer completion bash)        in ~/.bashrc; of zsh, behind `autoload -Uz compinit && compinit`, the same
  pybalancer completion zsh > /usr/local/share/zsh/site-functions/_pybalancer
  pybalancer completion fish > ~/.config/fish/completions/pybalancer.fish

exit status: 0 done
"""


def _add_reload(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reload = commands.add_parser(
        "reload",
        help="have the daemon read its file again, and say what that changes",
        description="Have the daemon that runs here read its file again, check it, and go over to it; say what is "
        "added, removed and changed, and what becomes of connections. Where the file is wrong, or what is new does "
        "not come up, all goes on as before.",
        epilog=_RELOAD,
    )
    reload.add_argument("--dry-run", action="store_true", help="only say what would change")
    reload.add_argument("--json", action="store_true", help="the same for programs, in a line")
    reload.set_defaults(command=_reload)
    _asks_daemon(reload)


_RELOAD = """\
examples:
  pybalancer reload --dry-run                 nothing is changed
  pybalancer reload && echo "all of it serves"
  pybalancer reload --json | jq -r '.changes[] | .action + " " + .what + " " + .name'

The runtime socket's `level` has to be admin.

exit status:
  0  loaded, and the new processes serve; --dry-run: it would be loaded
  1  a mistake in the file, a change that needs a restart, or the daemon cannot be asked; all goes on as before
  3  what is new did not come up, and was taken back: a port that is taken, workers that die; all goes on as before
"""


def _add_kernel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser(
        "status",
        help="list services and servers, as ipvsadm -L or HAProxy's page does",
        description="List services and servers: in the layout of ipvsadm -L what the kernel balances, then the rest; "
        "or, where names or --view haproxy are given, frontends, backends and servers as HAProxy's page has them.",
        epilog=_STATUS,
    )
    status.add_argument(
        "names", metavar="NAME", nargs="*", help="a frontend, BACKEND or BACKEND/SERVER; * ? [abc] work"
    )
    status.add_argument("-n", "--numeric", action="store_true", help="addresses and ports instead of names")
    views = status.add_mutually_exclusive_group()
    for option, view, text in (
        ("--stats", "stats", "what each has carried, as ipvsadm"),
        ("--rate", "rate", "what each carries a second, as ipvsadm"),
        ("--connections", "connections", "the kernel's connections, as ipvsadm"),
        ("--json", "json", "all of it for programs, in a line; pybalancer schema status says what it means"),
        ("--quiet", "quiet", "nothing but the exit status"),
    ):
        views.add_argument(option, dest="view", action="store_const", const=view, help=text)
    views.add_argument("--view", choices=("ipvsadm", "haproxy"), help="the layout (default: ipvsadm, without names)")
    status.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=_seconds, const=2.0, help="again and again (default: every 2)"
    )
    status.set_defaults(command=_status, wrong=status.error)
    show = commands.add_parser("show", help="print what is in the kernel").add_subparsers(
        title="commands", metavar="", required=True
    )
    kernel = show.add_parser("kernel", help="print the rules as the kernel has them")
    kernel.set_defaults(command=_ask, words=["show", "kernel"])
    for parser in (status, kernel):
        _asks_daemon(parser)


_STATUS = """\
examples:
  pybalancer status -n                        as of ipvsadm -L -n
  pybalancer status --view haproxy            states, sessions, rates, checks, downtime; who has the addresses
  pybalancer status web 'api/*' --watch 1     of some, every second
  pybalancer status --json | jq -r '.backends[].servers[] | select(.takes_clients | not) | .name'
  pybalancer status --quiet || echo "something is down"

exit status, but for the layout of ipvsadm:
  0  all is well (what an operator has taken out is)
  1  the daemon cannot be asked, or nothing has such a name
  3  a server, a virtual router or another director is down
  4  a backend has no server
"""


def _add_servers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What changes servers of the daemon that runs here."""
    for word, help_, text in (
        ("drain", "send a server nothing new", "Only clients that hold its cookie still get to it; it is checked on."),
        ("maint", "put a server into maintenance", "Nobody gets to it, and it is not checked. What is there goes on."),
        ("ready", "end a drain or maintenance", "It takes part again; out of maintenance it is checked at once."),
    ):
        waits = word != "ready"
        parser = commands.add_parser(
            word,
            help=help_,
            description=text,
            epilog=_STEERING.format(word=word, more=_WAITING.format(word=word) if waits else ""),
        )
        parser.set_defaults(command=_steer, words=["state", word])
        _takes_servers(parser)
        _takes_reason(parser)
        if waits:
            parser.add_argument("--wait", action="store_true", help="until it has no sessions any more")
            parser.add_argument(
                "--timeout", metavar="TIME", type=_period, help="wait so long at most, such as 10m (default: for ever)"
            )
    weight = commands.add_parser(
        "weight",
        help="give a server another weight",
        description="Give a server another weight, until the configuration has another one.",
        epilog=_STEERING.format(word="weight 50%", more=""),
    )
    weight.add_argument("weight", metavar="WEIGHT", help="0 to 256, or of the configured one so much: 50%%")
    weight.set_defaults(command=_steer, words=["weight"])
    _takes_servers(weight)
    _takes_reason(weight)
    overrides = commands.add_parser(
        "overrides",
        help="list what was changed while it runs",
        description="List what is not as the configuration says, by whom, why and until when.",
    )
    overrides.add_argument("--json", action="store_true", help="a list of objects")
    overrides.set_defaults(command=_overrides)
    _asks_daemon(overrides)
    forget = commands.add_parser(
        "forget",
        help="make servers as the configuration says",
        description="Undo what was changed while it runs: a server is as the configuration says again.",
    )
    forget.set_defaults(command=_forget)
    _takes_servers(forget)


def _takes_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", metavar="TEXT", default="", help="for the log and whoever looks at the overrides")
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--for", dest="period", metavar="TIME", type=_period, help="so long, such as 30m (default: for good)"
    )
    end.add_argument("--until", metavar="TIME", type=_moment, help="until then: 18:00, or 2026-11-24T08:00")


_STEERING = """\
examples:
  pybalancer {word} web/web1 web/web2
  pybalancer {word} 'web/*'                   all servers of a backend; in quotes, or the shell takes the *
{more}
exit status: 0 done, 1 not all of it, or not at all (the text says why), 2 wrong usage
"""
_WAITING = """\
  pybalancer {word} web/web1 --wait --timeout 10m && ssh web1 reboot

With --wait: exit status 3 if there are sessions left when the time is over.
"""


def _takes_servers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("servers", metavar="BACKEND/SERVER", nargs="+", help="one or several; * ? [abc] stand for more")
    _asks_daemon(parser)


def _asks_daemon(parser: argparse.ArgumentParser) -> None:
    _takes_file(parser, default=argparse.SUPPRESS)
    parser.add_argument("--socket", metavar="PATH", help="the daemon's runtime socket; no configuration is read")


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = commands.add_parser(
        "top",
        help="watch and steer servers on a screen",
        description="Watch frontends, backends and servers, the busy or the broken first, and drain, maint, ready or "
        "weight servers by a key. `?` shows the keys.",
        epilog=_TOP,
    )
    top.add_argument(
        "--every", metavar="SECONDS", type=_seconds, default=1.0, help="ask the daemon so often (default: 1)"
    )
    top.set_defaults(command=_top)
    _asks_daemon(top)


_TOP = """\
examples:
  pybalancer top
  ssh -t director pybalancer top --every 5    over a slow line

A daemon that is away is said to be so, and asked again. Who may only look may use it too: the runtime socket's
`level` is obeyed, and the screen says so.

exit status: 0 left by q or Ctrl-C, 1 no terminal, or the daemon cannot be asked
"""


def _add_events(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    events = commands.add_parser(
        "events",
        help="print what happened: to servers and addresses, and by whom",
        description="Print the last events: servers up and down and why, who drained what, where the virtual addresses "
        "went, reloads, warnings; of all processes of the daemon, since its start.",
        epilog=_EVENTS,
    )
    events.add_argument("-f", "--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    events.add_argument("-n", "--last", metavar="N", type=_count, help="so many at the most (default: 50; all --since)")
    events.add_argument("--since", metavar="TIME", type=_period, help="of so long, such as 30m")
    events.add_argument("--level", choices=_LEVELS, help="as bad as this, or worse")
    events.add_argument("--json", action="store_true", help="an object a line, with the keys of the log's JSON lines")
    events.set_defaults(command=_events)
    _asks_daemon(events)


_LEVELS = ("alert", "err", "warning", "notice", "info")
_EVENTS = """\
examples:
  pybalancer events --since 1h --level warning
  pybalancer events -f                        while the daemon is away it waits for it
  pybalancer events -n 1000 --json | jq -r 'select(.message | test("web/web1")) | .time + " " + .message'

Some thousand events are kept, until the daemon ends; the log has all.

exit status: 0 done, 1 the daemon cannot be asked
"""


def _add_upgrade(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    upgrade = commands.add_parser(
        "upgrade",
        help="have the daemon become the version that is installed by now, and lose nothing",
        description="Have the daemon that runs here execute the version that its command leads to by now, in the same "
        "process: it keeps sockets, connections, what it knows of servers, and virtual addresses. The new version is "
        "tried first; one that cannot take over changes nothing.",
        epilog=_UPGRADE,
    )
    upgrade.add_argument("--dry-run", action="store_true", help="only try whether the new version could take over")
    upgrade.add_argument("--take-over", type=int, metavar="FD", help=argparse.SUPPRESS)
    upgrade.set_defaults(command=_upgrade)
    _asks_daemon(upgrade)


_UPGRADE = """\
examples:
  pybalancer upgrade --dry-run
  pybalancer upgrade                          the new version serves, the old one's workers finish what they have
  kill -USR2 $MAINPID                         the same; the log and `pybalancer events` tell what came of it

It needs the right to send the daemon a signal: root's, or that of its user. Without a runtime socket systemd is asked,
for pybalancer.service, what came of it.

exit status:
  0  done
  1  not upgraded, the old version goes on (the text says why)
  2  wrong usage
  3  only a restart brings it: the daemon cannot be asked, is too old to hear, or shares nothing with the new version
"""


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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_WATCH <= seconds <= _LONGEST_WATCH:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 86400; names go before it")
    return seconds


_SHORTEST_WATCH, _LONGEST_WATCH = 0.1, 86400.0


def _moment(text: str) -> str:
    """As ISO 8601 has it, whatever the daemon's time zone is."""
    from balancer.observe import reason

    try:
        return datetime.fromtimestamp(reason.moment(text, time.time()), UTC).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


_LONGEST_COUNT = 6
# Events that are shown where nobody says how many.
_LAST_EVENTS = 50


def _period(text: str) -> str:
    from balancer.config import units

    try:
        units.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


# The modules behind a command are imported by it alone: `check` runs before every start and reload.


def _run(arguments: argparse.Namespace) -> int:
    if "PYBALANCER_ESTATE" in os.environ:
        from balancer.daemon import supervisor, upgrade

        found = upgrade.inherited()
        if found is not None:
            return supervisor.take_over(found, supervisor.Source(arguments.config, lambda: _load(arguments)))
    config = _load(arguments)
    from balancer.daemon import supervisor

    return supervisor.run(config, supervisor.Source(arguments.config, lambda: _load(arguments)))


def _upgrade(arguments: argparse.Namespace) -> int:
    """Have the daemon that runs here become the version that is installed by now."""
    if arguments.take_over is not None:
        from balancer.daemon import upgrade

        upgrade.try_out(arguments.take_over, lambda: _load(arguments))
    from balancer.terminal import upgrade as asking

    try:
        path = arguments.socket or _runtime_socket(arguments)
    except BalancerError as error:
        if arguments.config != _DEFAULT_FILE:
            raise
        return asking.upgrade_service(str(error), is_dry=arguments.dry_run, out=sys.stdout, err=sys.stderr)
    return asking.upgrade(path, is_dry=arguments.dry_run, out=sys.stdout, err=sys.stderr)


def _check(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    from balancer.config import check

    for warning in check.warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
    print("OK")
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    from balancer.terminal import reload

    path = arguments.socket or _runtime_socket(arguments)
    return reload.reload(path, is_dry=arguments.dry_run, as_json=arguments.json, out=sys.stdout, err=sys.stderr)


def _schema(arguments: argparse.Namespace) -> int:
    if arguments.of == "status":
        from balancer.terminal.document import schema
    else:
        from balancer.config.schema import schema

    print(json.dumps(schema(), indent=2))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from balancer.terminal import completion

    print(completion.script(arguments.shell))
    return 0


def _manual(arguments: argparse.Namespace) -> int:
    if arguments.of == "keys":
        from balancer.config.schema import schema

        print(manual.keys(schema(), __version__), end="")
    else:
        print(manual.page(_parser(), __version__), end="")
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
    answer = client.ask(arguments.socket or _runtime_socket(arguments), *words)
    print(answer.text, end="", file=sys.stderr if answer.is_error else sys.stdout)
    return int(answer.is_error)


def _status(arguments: argparse.Namespace) -> int:
    """Show services and servers of the daemon that runs here."""
    from balancer.terminal import status
    from balancer.terminal.picture import Pattern

    view = arguments.view or ("haproxy" if arguments.names else "status")
    is_listed = view in ("status", "ipvsadm", "stats", "rate", "connections")
    if is_listed and arguments.names:
        arguments.wrong("the layout of ipvsadm lists all; names are for --view haproxy, --json and --quiet")
    if view == "quiet" and arguments.watch is not None:
        arguments.wrong("--quiet shows nothing to --watch")
    wish = status.Wish(
        status.Form("ipvsadm" if is_listed else view),
        tuple(map(Pattern.of, arguments.names)),
        ("show", "kernel", "status" if view == "ipvsadm" else view, *(["numeric"] if arguments.numeric else [])),
        arguments.watch,
    )
    return status.show(arguments.socket or _runtime_socket(arguments), wish, out=sys.stdout, err=sys.stderr)


def _top(arguments: argparse.Namespace) -> int:
    """A screen of what the daemon that runs here does."""
    from balancer.terminal import screen

    return screen.run(arguments.socket or _runtime_socket(arguments), every=arguments.every)


def _events(arguments: argparse.Namespace) -> int:
    """Show what happened, and what happens, to the daemon that runs here."""
    from balancer.terminal import events

    last = _LAST_EVENTS if arguments.last is None and arguments.since is None else arguments.last
    wish = events.Wish(last, arguments.since, arguments.level, arguments.json, arguments.follow)
    return events.show(arguments.socket or _runtime_socket(arguments), wish, out=sys.stdout, err=sys.stderr)


def _steer(arguments: argparse.Namespace) -> int:
    """Change servers of the daemon that runs here, and say what they are then."""
    from balancer.config import units
    from balancer.terminal import steer

    waits = getattr(arguments, "wait", False)
    timeout = getattr(arguments, "timeout", None)
    return steer.steer(
        arguments.socket or _runtime_socket(arguments),
        [*arguments.words, *([arguments.weight] if "weight" in arguments else []), *_reason(arguments)],
        arguments.servers,
        waits=waits or timeout is not None,
        timeout=units.duration(timeout) if timeout is not None else None,
        out=sys.stdout,
        err=sys.stderr,
    )


def _reason(arguments: argparse.Namespace) -> list[str]:
    """Until when, and why."""
    return [
        *(["for", arguments.period] if arguments.period else []),
        *(["until", arguments.until] if arguments.until else []),
        *(["why", arguments.why] if arguments.why.strip() else []),
    ]


def _overrides(arguments: argparse.Namespace) -> int:
    from balancer.observe import client

    path = arguments.socket or _runtime_socket(arguments)
    answer = client.ask(path, "show", "overrides", *(["json"] if arguments.json else []))
    print(answer.text, end="", file=sys.stderr if answer.is_error else sys.stdout)
    return int(answer.is_error)


def _forget(arguments: argparse.Namespace) -> int:
    from balancer.observe import client

    path = arguments.socket or _runtime_socket(arguments)
    status = 0
    for name in arguments.servers:
        answer = client.ask(path, "clear", "override", name)
        if answer.is_error:
            print(f"{name}: {answer.text}", end="", file=sys.stderr)
            status = 1
        else:
            print(f"{name}: as configured")
    return status


def _runtime_socket(arguments: argparse.Namespace) -> str:
    try:
        config = _load(arguments)
    except BalancerError:
        # The file is somewhere else, for others, wrong by now, or wants a variable that the daemon has and we have not;
        # but the daemon is where one looks for it.
        from balancer.config import read

        host = socket.gethostname()
        nodes = [arguments.node] if arguments.node else [host, host.partition(".")[0]]
        path = read.written(arguments.config, ("global", "runtime_socket", "path"), nodes=nodes, environ=os.environ)
        if path is not None and os.path.exists(path):  # noqa: PTH110 (raises nothing)
            return path
        if arguments.config == _DEFAULT_FILE and os.path.exists(_DEFAULT_SOCKET):  # noqa: PTH110 (raises nothing)
            return _DEFAULT_SOCKET
        raise
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
