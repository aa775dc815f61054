from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.daemon.conftest import talks
from tests.daemon.whole import CONFIG, alone, ends_well, is_up
from tests.e2e.bed.process import is_bound, until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_once_it_lets_what_is_in_flight_finish(running, number):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        # As a terminal does: to all of them.
        os.killpg(running.process.pid, number) if number == signal.SIGINT else running.process.signal(number)
        until(lambda: not is_bound(running.ports["port"]), "it accepts no more")
        assert not talks(running.ports["port"])
        client.sendall(b"two")
        assert client.recv(3) == b"two"
        # Until the last one has finished, servers are checked and statistics are shown.
        assert is_up(running)
    ends_well(running)
    running.wait_for_line("NOTICE: stopped")


def test_told_twice_it_ends_at_once(running):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        running.process.signal(signal.SIGTERM)
        until(lambda: not is_bound(running.ports["port"]), "it accepts no more")
        running.process.signal(signal.SIGINT)
        ends_well(running, within=5)


def test_a_frozen_worker_does_not_keep_it_from_ending(start):
    running = start(CONFIG.replace("20s", "300ms"))
    for pid in running.workers:
        os.kill(pid, signal.SIGSTOP)
    running.process.signal(signal.SIGTERM)
    ends_well(running, within=10)


def test_with_its_workers_gone_a_frozen_control_is_waited_for_no_longer(start):
    """Not for as long as connections would have been."""
    running = start()
    until(lambda: running.control, "control holds its socket")
    os.kill(running.control[0], signal.SIGSTOP)
    running.process.signal(signal.SIGTERM)
    ends_well(running, within=10)


def test_a_child_killed_during_the_stop_is_not_replaced(running):
    with socket.create_connection(("127.0.0.1", running.ports["port"]), timeout=10) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        (control,) = running.control
        running.process.signal(signal.SIGTERM)
        until(lambda: not is_bound(running.ports["port"]), "it accepts no more")
        os.kill(control, signal.SIGKILL)
        client.sendall(b"two")
        assert client.recv(3) == b"two"
    ends_well(running)
    assert not any("starting another" in line for line in running.log)


@alone
def test_programs_that_are_told_of_the_end_are_waited_for(speaking):
    """A service manager kills what is left when the daemon is gone."""
    it = speaking()
    until(lambda: "INSTANCE VI MASTER 100" in it.notified, "it was told")
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert it.notified[-1] == "INSTANCE VI STOP 100"
    assert not (it.folder / "run" / "admin.sock").exists()
    assert it.ask("why").stderr.startswith(f"pybalancer does not run here ({it.folder}/run/admin.sock: ")


@alone
def test_programs_that_hang_are_waited_for_no_longer_than_that(speaking, tmp_path):
    (tmp_path / "hang").write_text("#!/bin/sh\necho $$ >hung\nexec sleep 60\n".replace("hung", f"{tmp_path}/hung"))
    (tmp_path / "hang").chmod(0o755)
    it = speaking(("notify: FOLDER/notify", "notify_stop: FOLDER/hang"))
    began = time.monotonic()
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert 4.5 < time.monotonic() - began < 15
    os.kill(int((tmp_path / "hung").read_text()), signal.SIGKILL)


@alone
def test_a_second_signal_while_it_stops_does_no_harm(speaking):
    it = speaking()
    it.process.signal(signal.SIGTERM)
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    assert sum("Entering STOPPED STATE" in line for line in it.process.out) == 1
