"""What one supervisor leaves to the next: written by name, read by another program, or refused."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys

import pytest

from balancer.config.model import Bind, Config, Server
from balancer.daemon import estate
from balancer.daemon.estate import EstateError
from balancer.daemon.generation import Child, Generation
from balancer.daemon.memory import Memory
from balancer.daemon.plan import Plan
from balancer.daemon.sockets import Sockets
from balancer.observe.log import AccessLog
from balancer.pool.orders import Condition

READER = """
import os, sys
from balancer.daemon import estate
left = estate.read(os.read(0, 1 << 24))
before = left["current"]
sys.stdout.write(repr((
    before.plan.config.backends["b"].servers["s"].weight,
    str(before.memory.board[0].condition), before.memory.board[0].weight,
    list(before.memory.limits), before.memory.turns["b"][0],
    [sock.getsockname() for sock in before.sockets.all], before.children[0].pid, before.children[0].main,
    before.memory.logbook.wish, before.memory.sources["f"].blocks[0].octets[9:12],
)))
before.memory.board[0] = before.memory.board[0]._replace(weight=77)
sys.stdout.flush()
os._exit(0)
"""


def generation(plan: Plan) -> Generation:
    memory = Memory(plan)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = plan.config
    frontend = config.frontends["f"].model_copy(update={"bind": (Bind(address=f"127.0.0.1:{port}"),)})
    sockets = Sockets.open(config.model_copy(update={"frontends": {"f": frontend}}), plan.workers)
    made = Generation(plan, memory, sockets, AccessLog([]), None)  # type: ignore[arg-type]
    made.children = [Child("worker 0", lambda: None, pid=12345, number=0)]
    return made


@pytest.fixture
def current(plan):
    made = generation(
        plan(
            {
                "frontends": {
                    "f": {"mode": "tcp", "bind": "127.0.0.1:9", "default_backend": "b", "limits": {"connections": 3}}
                },
                "backends": {"b": {"servers": {"s": {"address": "127.0.0.1:9", "maxconn": 4, "weight": 9}}}},
            }
        )
    )
    yield made
    made.sockets.close()
    made.memory.close()


def test_another_program_has_all_of_it(current):
    memory = current.memory
    memory.board[0] = memory.board[0]._replace(condition=Condition.UP, weight=5)
    memory.turns["b"][0] = 3
    memory.sources["f"].blocks[0].octets[9:12] = b"abc"
    memory.logbook.ask()
    octets = estate.write({"current": current})
    files = estate.head(octets)["files"]
    done = subprocess.run(
        [sys.executable, "-c", READER], input=octets, pass_fds=files, capture_output=True, check=True, timeout=60
    )
    names = [sock.getsockname() for sock in current.sockets.all]
    limits = list(memory.limits)
    wanted = (9, str(Condition.UP), 5, limits, 3, names, 12345, None, 1, b"abc")
    assert done.stdout.decode() == repr(wanted)
    assert memory.board[0].weight == 77, "it is the same memory"


def test_no_descriptor_is_forgotten(current):
    files = set(estate.head(estate.write({"current": current}))["files"])
    memory = current.memory
    bells = {*memory.worker_bells, memory.control_bell, memory.logbook.wishes, memory.logbook.refusals}
    assert bells | {limit.fd for limit in memory.limits.values()} <= files
    assert {sock.fileno() for sock in current.sockets.all} <= files
    os.set_inheritable(memory.control_bell, False)
    estate.keep(files, over_exec=True)
    assert os.get_inheritable(memory.control_bell)
    estate.keep(files, over_exec=False)
    assert not os.get_inheritable(memory.control_bell)


def test_what_is_closed_is_closed_there_too(current):
    current.memory.close()
    current.sockets.close()
    octets = estate.write({"current": current})
    left = subprocess.run(
        [sys.executable, "-c", "import os; from balancer.daemon import estate\n"
         "left = estate.read(os.read(0, 1 << 24))['current']\n"
         "print([sock.fileno() for sock in left.sockets.all], left.memory.worker_bells); os._exit(0)"],
        input=octets, pass_fds=estate.head(octets)["files"], capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert left.stderr == b"" or b"Error" not in left.stderr, left.stderr


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 99}, "handed over in format 99, and this version reads 1"),
        ({"shape": "other"}, "keeps what is counted and known of servers otherwise"),
    ],
)
def test_another_format_or_shape_is_refused(change, why):
    octets = estate.write({})
    head, _, body = octets.partition(b"\n")
    with pytest.raises(EstateError, match=why):
        estate.read(json.dumps(json.loads(head) | change).encode() + b"\n" + body)


@pytest.mark.parametrize("octets", [b"", b"\n", b"{}", b"[]\n", b"\xff" * 100, b'{"format": 1}\n'])
def test_nonsense_is_refused(octets):
    with pytest.raises(EstateError, match="cannot be understood"):
        estate.read(octets)


def test_a_body_that_is_cut_off_is_refused():
    octets = estate.write({"many": list(range(1000))})
    with pytest.raises(EstateError, match="cannot be understood"):
        estate.read(octets[:-100])


def test_only_what_is_ours_is_made():
    with pytest.raises(EstateError, match=r"subprocess\.Popen is nothing to be handed over"):
        estate.read(estate.write({"x": subprocess.Popen}))


def test_other_keys_of_another_version_take_their_defaults_or_are_dropped():
    """A configuration that was checked by another version."""
    server = Server.model_validate({"address": "127.0.0.1:80", "weight": 7}, strict=False)
    values = {name: value for name, value in server.__dict__.items() if name != "maxconn"} | {"of_tomorrow": 3}
    made = estate._model(Server, values, ["address", "weight", "of_tomorrow"])
    assert made == server
    with pytest.raises(EstateError, match="Server needs address in this version"):
        estate._model(Server, {"weight": 3}, [])


def test_a_configuration_is_the_same(plan):
    made = plan({"backends": {"b": {"servers": {"s": "[::1]:80"}, "check": {"type": "tcp", "interval": "3s"}}}})
    (again,) = estate.read(estate.write({"plan": made})).values()
    assert again == made and isinstance(again.config, Config)
    assert dataclasses.asdict(again.layout) == dataclasses.asdict(made.layout)
