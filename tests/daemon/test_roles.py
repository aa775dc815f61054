from __future__ import annotations

from pathlib import Path

from tests.daemon.whole import alone, descriptors, is_control, unix_sockets
from tests.e2e.bed.process import until


def test_children_hold_their_own_sockets_alone(running):
    """Else a connection would wait in the queue of a socket that nobody accepts from."""
    until(lambda: (len(running.workers), len(running.control)) == (2, 1), "each holds its sockets")
    own = [{name for name in descriptors(pid) if name.startswith("socket:")} for pid in running.workers]
    listening = {
        f"socket:[{line.split()[9]}]"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if int(line.split()[1].rpartition(":")[2], 16) == running.ports["port"] and line.split()[3] == "0A"
    }
    assert len(listening) == 2
    assert all(len(held & listening) == 1 for held in own)
    assert own[0] & listening != own[1] & listening
    (control,) = running.control
    assert not listening & set(descriptors(control))


@alone
def test_the_line_to_the_supervisor_is_controls_alone(speaking):
    """And of what a worker is asked by, each has its own end: the supervisor keeps both, for whoever is next."""
    it = speaking()
    line = unix_sockets(it.process.pid, kind="0005")
    children = list(it.process.children)
    assert len(children) == 3
    held = {pid: len(line & set(descriptors(pid))) for pid in (it.process.pid, *children)}
    (control,) = [pid for pid in children if is_control(pid)]
    workers = len(children) - 1
    # And the way from one control process to the next, of which it has both ends.
    assert held == {it.process.pid: 4 + 2 * workers} | dict.fromkeys(children, 1) | {control: 3 + workers}
