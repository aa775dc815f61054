"""`python -m tests.lab`: the cluster for people.

    python -m tests.lab                  bring it up, keep it until Ctrl-C
    python -m tests.lab verify           bring it up, show the eight steps, take it down
    python -m tests.lab on NODE [CMD…]   a shell, or a command, on a machine of the lab that runs

Exit status: 0 done, 1 a step failed or the lab did not come up, 3 namespaces cannot be made here.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from tests.lab.lab import Lab
from tests.lab.services import ROOT
from tests.lab.space import ENVIRONMENT, LabError, NoNamespacesError, entering_command, inits
from tests.lab.topology import MACHINES, NETWORKS, VIPS
from tests.lab.verify import verify

_FAILED, _CANNOT, _INTERRUPTED = 1, 3, 130

_TRY = """\
try   {on} client curl -s http://192.168.1.200:8000/
      {on} web1 getent hosts dns2.lab.local
      {on} client curl -s -u admin:123 'http://192.168.1.101:7000/haproxy?stats'
      {on} master        a shell on a machine; its logs are in /var/log
Ctrl-C takes everything down.
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="The cluster on one machine.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("verify", help="show the eight steps of the cluster's verification")
    on = commands.add_parser("on", help="a shell, or a command, on a machine of the lab that runs")
    on.add_argument("--lab", type=int, metavar="PID", help="which lab, where several run")
    on.add_argument("node", choices=sorted(MACHINES))
    on.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    # A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if options.command == "on":
            return _on(options.node, options.words, lab=options.lab)
        with Lab() as lab:
            if options.command == "verify":
                return _FAILED if verify(lab, lambda text: print(text, flush=True)) else 0
            _keep()
        return 0
    except NoNamespacesError as error:
        print(error, file=sys.stderr)
        return _CANNOT
    except LabError as error:
        print(error, file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _keep() -> None:
    print(_map())
    print(_TRY.format(on=f"cd {ROOT} && {sys.executable} -m tests.lab on"), end="", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def _map() -> str:
    """Networks with their machines, and the real machine beside them."""
    lines = []
    for network in NETWORKS:
        virtual = [address for address, of in VIPS.items() if of is network]
        lines.append(f"--- {network.name} {network.prefix}, MTU {network.mtu}, virtual: {', '.join(virtual)}")
        for machine in MACHINES.values():
            cards = [card for card in machine.cards if card.network is network]
            lines += [f"      {machine.name:<10}{card.name}  {card.address:<16}{machine.kind}" for card in cards]
    return "\n".join([*lines, "--- this machine and its networks: no way in or out", ""])


def _on(name: str, words: list[str], *, lab: int | None) -> int:
    """Become a command on the machine."""
    found = {of: pid for pid, of, machine in inits() if machine == name}
    if not found:
        raise LabError(f"no lab runs here, or {name} is switched off")
    if lab is None and len(found) > 1:
        raise LabError(f"several labs run here; choose one with --lab: {', '.join(map(str, found))}")
    if lab is not None and lab not in found:
        raise LabError(f"there is no lab {lab} with {name} on; there are {', '.join(map(str, found))}")
    entering = entering_command(found[lab] if lab is not None else next(iter(found.values())))
    environment = {**ENVIRONMENT, "TERM": os.environ.get("TERM", "dumb")}
    os.execvpe(entering[0], [*entering, *(words or ["bash", "-i"])], environment)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
