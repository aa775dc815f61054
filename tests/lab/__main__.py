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
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.lab.lab import Lab
from tests.lab.space import LabError, NoNamespacesError
from tests.lab.topology import MACHINES
from tests.lab.verify import verify

_FAILED, _CANNOT, _INTERRUPTED = 1, 3, 130

_MAP = """\
    client {client:<13}            the real machine: no way in or out
       |
   ----+---------- outside 192.168.1.0/24 ----------+----
       |        200 and 202: virtual, on one of     |
   master {master:<13}             standby {standby:<13}
       |        10.0.100.200: with them             |
   ----+---------- inside 10.0.100.0/24, MTU 9000 --+----
       |                  |                  |
   web1 {web1}    dns1 {dns1}    nas {nas}
   web2 {web2}    dns2 {dns2}
   web3 {web3}    dns3 {dns3}
"""
_TRY = """\
try   {on} client curl -s http://192.168.1.200:8000/
      {on} client dig @192.168.1.200 web1.lab.local
      {on} client curl -s -u admin:123 'http://192.168.1.101:7000/haproxy?stats'
      {on} master        a shell on a machine; its logs are in /var/log
Ctrl-C takes everything down.
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="The cluster on one machine.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("verify", help="show the eight steps of the cluster's verification")
    on = commands.add_parser("on", help="a shell, or a command, on a machine of the lab that runs")
    on.add_argument("node", choices=sorted(MACHINES))
    on.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        if options.command == "on":
            return _on(options.node, options.words)
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
    print(_MAP.format(**{name: machine.address for name, machine in MACHINES.items()}))
    print(_TRY.format(on=f"{sys.executable} -m tests.lab on"), end="", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def _on(name: str, words: list[str]) -> int:
    """Become a command on the machine."""
    found = [init for init in _inits() if init[1] == name]
    labs = {lab for lab, _, _ in found}
    if len(labs) != 1:
        raise LabError("no lab runs here" if not labs else "several labs run here")
    target = ("nsenter", "--target", str(found[-1][2]), "--net", "--mount", "--uts", "--ipc", "--pid")
    os.execvp("nsenter", [*target, "sh", "-c", 'cd / && exec "$@"', "sh", *(words or ["bash", "-i"])])


def _inits() -> list[tuple[str, str, int]]:
    """The machines of all labs: lab, name, process id of the init, which is the youngest that bears the name."""
    found = []
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0] == "bash" and words[-2].startswith("lab:"):
            _, lab, name = words[-2].split(":")
            found.append((lab, name, int(entry.name)))
    return found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
