"""What is executed, tried before, and found by whoever is executed. tests/e2e/test_upgrade.py has the whole."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from balancer.daemon import estate, upgrade
from balancer.daemon.upgrade import Inheritance, Trial, Verdict
from tests.e2e.bed.process import until


def command(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def verdict(trial):
    try:
        return until(trial.turn, "it says something")
    finally:
        trial.close()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('echo some noise; echo \'{"version": "2.0", "why": ""}\'', Verdict("2.0", "")),
        ('echo \'{"version": "2.0", "why": "no"}\'; exit 1', Verdict("2.0", "no")),
        ("echo one >&2; echo two >&2; exit 2", Verdict("", "NAME: two")),
        ("exit 0", Verdict("", "NAME: it said nothing")),
        ("kill -9 $$", Verdict("", "NAME: it said nothing")),
        ("echo '[1]'", Verdict("", "NAME: [1]")),
        ("printf '\\377\\000\\n'", Verdict("", "NAME: \ufffd\0")),
        ("head -c 300000 /dev/zero | tr '\\0' x; echo; echo last", Verdict("", "NAME: last")),
    ],
)
def test_what_a_trial_says(tmp_path, text, wanted):
    words = command(tmp_path / "it", text)
    said = verdict(Trial(words, lambda: estate.write({})))
    assert said == wanted._replace(why=wanted.why.replace("NAME", words[0]))


def test_what_cannot_be_executed_or_written(tmp_path):
    path = tmp_path / "gone"
    assert verdict(Trial([str(path)], lambda: estate.write({}))).why == f"{path}: No such file or directory"

    def fails():
        raise RuntimeError("cannot be written")

    assert verdict(Trial([str(path)], fails)).why == f"{path}: cannot be written"


def test_one_that_hangs_is_ended(tmp_path):
    trial = Trial(command(tmp_path / "it", "exec sleep 100"), lambda: estate.write({}))
    trial.deadline = 0.0
    pid = trial.pid
    assert "did not answer within 60 s" in verdict(trial).why
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_gets_what_is_left_and_the_arguments(tmp_path):
    text = 'shift; cat /proc/self/fd/$2 | head -c 11 >OUT; echo "$1" >>OUT'.replace("OUT", str(tmp_path / "out"))
    verdict(Trial([*command(tmp_path / "it", text)], lambda: estate.write({})))
    assert (tmp_path / "out").read_text() == '{"format": --take-over\n'


def test_what_is_executed_finds_what_was_left(tmp_path):
    """The descriptors are there, and closed to what it executes itself; signals are heard when it wants to."""
    reader, writer = os.pipe()
    program = (
        "import os, sys, signal; from balancer.daemon import upgrade\n"
        "found = upgrade.inherited()\n"
        "blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        f"flags = os.get_inheritable({reader})\n"
        "upgrade.past_exec()\n"
        "print(found.back, found.head['version'], blocked, flags, found.is_lost, upgrade.inherited())\n"
    )
    octets = b"%s\nrest" % json.dumps({"format": 1, "shape": "", "files": [reader], "version": "1.2"}).encode()
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(into, 1)
        upgrade.become([sys.executable, "-c", program], octets, "it broke")
    os.close(into)
    os.waitpid(pid, 0)
    said = os.read(out, 1000).decode()
    for file in (reader, writer, out):
        os.close(file)
    assert said == "it broke 1.2 True False False None\n"


def test_what_cannot_be_executed_leaves_all_as_it_was(tmp_path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    files = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        upgrade.become([str(tmp_path / "gone")], estate.write({}))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == files


@pytest.mark.parametrize("text", ["nonsense", "", "-1", "999", "9" * 40, "\u0663"])
def test_an_ordinary_start_has_inherited_nothing(monkeypatch, text):
    assert upgrade.inherited() is None
    monkeypatch.setenv("PYBALANCER_ESTATE", text)
    assert upgrade.inherited() is None
    assert "PYBALANCER_ESTATE" not in os.environ


def test_before_a_new_start_all_but_the_listening_sockets_is_closed():
    import socket

    kept, gone = socket.create_server(("127.0.0.1", 0)), os.pipe()
    child = os.fork()
    if not child:
        signal.pause()
    head = {
        "format": 1,
        "shape": "",
        "files": [kept.fileno(), *gone],
        "listening": [kept.fileno()],
        "children": [child],
    }
    (sock,) = upgrade.clear(Inheritance(json.dumps(head).encode() + b"\n", "lost: why"))
    assert sock.fileno() == kept.fileno()
    kept.detach()
    sock.close()
    for file in gone:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(file)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_next_version_is_what_the_path_leads_to():
    assert upgrade.successor()[-1] == upgrade.itself()[-1]
    assert upgrade.itself()[0] == sys.executable
