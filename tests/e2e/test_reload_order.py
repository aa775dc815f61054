"""`pybalancer reload`: asked of a daemon that runs, and answered by the one that it has become."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.bed.clients import Load, say
from tests.e2e.bed.process import PATIENCE, free_port, is_bound, until
from tests.e2e.bed.pybalancer import COMMAND, Balancer, run

CONFIG = """
global: {workers: 2, hard_stop_after: 6s, runtime_socket: {path: "${socket}", level: admin}}
frontends:
  http: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
backends:
  web:
    check: {type: http, path: /health, interval: 500ms}
    servers:
      web1: {address: "127.0.0.1:${web1}"}
      web2: {address: "127.0.0.1:${web2}"}
stats: {bind: "127.0.0.1:${stats}", users: {}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
def running(balancer, web, path) -> Balancer:
    it = balancer(CONFIG, web1=web[0].port, web2=web[1].port, socket=path)
    it.wait_until_up("web/web1", "web/web2")
    return it


def change(running: Balancer, how: Callable[[dict], object]) -> None:
    config = yaml.safe_load(running.file.read_text())
    how(config)
    running.file.write_text(yaml.safe_dump(config, sort_keys=False))


def ask(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run("reload", "--socket", path, *words)


def test_a_plan_and_what_comes_of_it(running, path, web):
    """The same words before and after; nothing is touched by the first, and no request fails by either."""
    port = free_port()

    def how(config):
        config["frontends"]["http"]["bind"] = [config["frontends"]["http"]["bind"], f"127.0.0.1:{port}"]
        config["backends"]["web"]["servers"]["web1"]["weight"] = 7
        config["backends"]["web"]["servers"]["web3"] = {"address": f"127.0.0.1:{web[2].port}"}
        del config["backends"]["web"]["servers"]["web2"]
        config["stats"]["users"] = {"me": "secret-word"}

    before = running.process.children.keys()
    change(running, how)
    with Load(running.ports["http"], clients=4, keep_alive=False) as load:
        load.wait_for(20)
        look = ask(path, "--dry-run")
        assert (look.returncode, look.stderr) == (0, "")
        assert running.process.children.keys() == before and not is_bound(port)
        seen = len(running.log)
        done = ask(path)
        load.wait_for(20)
    assert (load.failed, load.cut) == ([], [])
    assert (done.returncode, done.stderr) == (0, "")
    said, was = done.stdout.splitlines(), look.stdout.splitlines()
    assert f"+ listener 127.0.0.1:{port} of frontend http added: listens once the new workers are ready" in said
    assert "+ server web/web3 added: takes clients once a check finds it well" in said
    assert any(line.startswith(f"~ frontend http changed: bind[1] not set -> 127.0.0.1:{port}; ") for line in said)
    assert "~ server web/web1 changed: weight 1 -> 7; no connection is touched" in said
    assert any(line.startswith("- server web/web2 removed: gets nothing new; ") for line in said)
    assert said[-1].startswith(f"{running.file}: reloaded in 0.") or "reloaded in 1." in said[-1]
    assert was[-1] == f"{running.file}: would be loaded; nothing has changed (--dry-run)"
    assert "secret-word" not in done.stdout + look.stdout + "".join(running.log)
    # The log has the same.
    running.wait_for_line("INFO: server web/web1 changed: weight 1 -> 7; no connection is touched", after=seen)
    assert is_bound(port)
    assert say(path, "show reload") == done.stdout + "\n"


def test_as_json(running, path):
    change(running, lambda config: config["global"].update(maxconn=77))
    for words, outcome in ((["--dry-run"], "checked"), ([], "reloaded")):
        done = ask(path, "--json", *words)
        report = json.loads(done.stdout)
        assert (done.returncode, report["outcome"], report["why"]) == (0, outcome, [])
        assert report["changes"][1] == {
            "what": "global",
            "name": "",
            "action": "changed",
            "keys": [{"key": "maxconn", "old": "20000", "new": "77"}],
            "effect": "holds for the new processes",
        }


def test_a_bad_file_says_what_check_says(running, path):
    before = running.process.children.keys()
    change(running, lambda config: config["frontends"]["http"].update(mode="htpt", maxcon=5))
    mistakes = run("check", "-c", running.file).stderr
    assert mistakes.count("\n") == 2
    for words in ([], ["--dry-run"]):
        done = ask(path, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"{mistakes}{running.file}: not loaded, all goes on as before\n"
    assert json.loads(ask(path, "--json").stdout)["why"] == mistakes.splitlines()
    change(running, lambda config: (config["global"].update(user="daemon"), config["frontends"]["http"].pop("maxcon")))
    change(running, lambda config: config["frontends"]["http"].update(mode="http"))
    done = ask(path, "--dry-run")
    assert done.returncode == 1 and "global.user: None is to become daemon, which needs a restart" in done.stderr
    assert running.process.children.keys() == before


def test_a_port_that_is_taken_is_foretold_and_rolled_back(running, path):
    before = running.process.children.keys()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, mine = taken.getsockname()[1], free_port()

        def how(config):
            config["frontends"]["http"]["bind"] = [f"127.0.0.1:{each}" for each in (running.ports["http"], mine, port)]

        good = running.file.read_text()
        change(running, how)
        with Load(running.ports["http"], clients=4, keep_alive=False) as load:
            load.wait_for(20)
            for words, status in ((["--dry-run"], 1), ([], 3)):
                done = ask(path, *words)
                assert done.returncode == status
                assert f"frontends.http.bind: cannot bind 127.0.0.1:{port}: Address already in use" in done.stderr
            load.wait_for(20)
        assert (load.failed, load.cut) == ([], [])
        assert "rolled back after" in done.stderr
    assert running.process.children.keys() == before and not is_bound(mine)
    assert ask(path).returncode == 0
    assert is_bound(mine) and is_bound(port)
    running.file.write_text(good)
    assert ask(path).returncode == 0


def test_many_ask_at_once_and_all_are_answered(running, path):
    """Some only look. Reloads are as few as may be."""
    done: list[subprocess.CompletedProcess[str]] = []
    asking = [
        threading.Thread(target=lambda words=words: done.append(ask(path, *words)))
        for words in ([], [], ["--dry-run"], [], ["--dry-run"], [])
    ]
    for thread in asking:
        thread.start()
    running.process.signal(signal.SIGHUP)
    for thread in asking:
        thread.join(PATIENCE * 3)
    assert [each.returncode for each in done] == [0] * len(asking), [each.stderr for each in done]
    assert 1 <= sum("NOTICE: reloaded: " in line for line in running.log) <= 5


def test_what_was_connected_by_a_socket_that_goes_is_answered(running, path, tmp_path):
    elsewhere = tmp_path / "other.sock"
    change(running, lambda config: config["global"]["runtime_socket"].update(path=str(elsewhere), level="user"))
    assert ask(path).returncode == 0
    until(lambda: not path.exists(), "those who had it have ended")
    done = ask(elsewhere)
    assert (done.returncode, done.stderr) == (
        1,
        f"{elsewhere} does not allow it: global.runtime_socket.level has to be admin\n",
    )
    assert "~ global changed: runtime_socket.path" in say(elsewhere, "show reload")
    # The daemon's own file knows where it is.
    assert run("overrides", "-c", running.file).returncode == 0


def test_a_socket_that_is_taken_away(running, path):
    change(running, lambda config: config["global"].pop("runtime_socket"))
    done = ask(path)
    assert done.returncode == 0 and "runtime_socket" in done.stdout
    assert "does not run here" in ask(path).stderr


def test_control_that_dies_meanwhile_is_said_and_the_reload_goes_on(running, path):
    """The daemon reads a pipe, for as long as nobody writes to it."""
    good = running.file.read_text()
    running.file.unlink()
    os.mkfifo(running.file)
    (control,) = running.control
    with subprocess.Popen(
        [COMMAND, "reload", "--socket", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        running.wait_for_line("NOTICE: reloading ")
        os.kill(control, signal.SIGKILL)
        said, why = asking.communicate(timeout=PATIENCE)
    assert (asking.returncode, said) == (1, "") and "closed before the answer was complete" in why
    until(lambda: running.control not in ([], [control]), "there is another")
    # It is not answered what was there before it, and waits its turn.
    later: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: later.append(ask(path)))
    thread.start()
    with running.file.open("w") as pipe:
        running.file.unlink()
        running.file.write_text(good)
        pipe.write(good)
    running.wait_for_line("NOTICE: reloaded: nothing has changed")
    thread.join(PATIENCE)
    assert later[0].returncode == 0


def test_the_end_meanwhile_is_said(running, path):
    running.file.unlink()
    os.mkfifo(running.file)
    with subprocess.Popen(
        [COMMAND, "reload", "--socket", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        running.wait_for_line("NOTICE: reloading ")
        running.process.signal(signal.SIGTERM)
        _, why = asking.communicate(timeout=PATIENCE)
    assert asking.returncode == 1 and why
    assert running.process.wait(within=PATIENCE) == 0
