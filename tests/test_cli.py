from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from balancer import __version__, cli
from balancer.proxy import stream

GOOD = """\
frontends:
  web: {mode: tcp, bind: "127.0.0.1:8000", default_backend: web}
backends:
  web: {check: {type: tcp}, servers: {one: {address: "127.0.0.1:8001"}}}
nodes:
  standby: {backends: {web: {retries: 7}}}
  "standby.lab.local": {backends: {web: {retries: 8}}}
"""


@pytest.fixture
def good(tmp_path):
    file = tmp_path / "balancer.yaml"
    file.write_text(GOOD)
    return str(file)


@pytest.fixture
def ran(monkeypatch):
    """The configurations that the daemon was started with."""
    from balancer.daemon import supervisor

    configs = []
    monkeypatch.setattr(supervisor, "run", lambda config, source: configs.append(config) or 0)
    return configs


def test_check_says_ok(good, capsys):
    assert cli.main(["check", "-c", good]) == 0
    assert capsys.readouterr() == ("OK\n", "")


def test_check_says_everything_that_is_wrong(tmp_path, capsys):
    file = tmp_path / "balancer.yaml"
    file.write_text(
        "frontends:\n"
        "  web:\n"
        "    mode: tpc\n"
        "    bind: 127.0.0.1:99999\n"
        "    default_backend: nowhere\n"
        "backends:\n"
        "  web: {servers: {one: {address: '127.0.0.1:80', wieght: 3}}}\n"
    )
    assert cli.main(["check", "-c", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    for place, word in ((3, "mode"), (4, "bind"), (7, "weight")):
        assert any(line.startswith(f"{file}:{place}:") and word in line for line in lines), (place, err)


def test_check_of_a_file_that_is_not_there(tmp_path, capsys):
    assert cli.main(["check", "-c", str(tmp_path / "none.yaml")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "No such file" in err and len(err.splitlines()) == 1


def test_warnings_go_to_stderr_and_it_is_ok(good, capsys, monkeypatch):
    from balancer.config import check

    monkeypatch.setattr(check, "warnings", lambda config: ["mind the gap"])
    assert cli.main(["check", "-c", good]) == 0
    assert capsys.readouterr() == ("OK\n", "warning: mind the gap\n")


@pytest.mark.parametrize(
    "arguments", [["-c", "FILE", "check"], ["check", "--config", "FILE"], ["--config=FILE", "check"]]
)
def test_the_file_may_stand_on_either_side_of_check(arguments, good, capsys):
    assert cli.main([argument.replace("FILE", good) for argument in arguments]) == 0


def test_without_a_command_it_runs(good, ran):
    assert cli.main(["-c", good]) == 0
    assert list(ran[0].frontends) == ["web"]


def test_the_exit_status_is_the_daemons(good, monkeypatch):
    from balancer.daemon import supervisor

    monkeypatch.setattr(supervisor, "run", lambda config, source: 5)
    assert cli.main(["-c", good]) == 5


@pytest.mark.parametrize(
    ("host", "retries"),
    [("standby", 7), ("standby.elsewhere.example", 7), ("standby.lab.local", 8), ("master", None)],
    ids=["its name", "its name before the first dot", "its whole name before a part of it", "a host without a part"],
)
def test_the_hosts_name_chooses_its_part(host, retries, good, ran, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: host)
    cli.main(["-c", good])
    assert ran[0].backends["web"].retries == retries


def test_node_chooses_it_too(good, ran, monkeypatch, capsys):
    monkeypatch.setattr("socket.gethostname", lambda: "master")
    cli.main(["-c", good, "--node", "standby"])
    assert ran[0].backends["web"].retries == 7
    assert capsys.readouterr().err == ""


def test_a_node_that_the_file_does_not_know_is_said(good, ran, capsys):
    cli.main(["-c", good, "--node", "standbye"])
    assert capsys.readouterr().err == (
        "warning: no standbye under nodes, the file holds as it is; known: standby, standby.lab.local\n"
    )


def test_a_machine_that_will_not_do_is_said_without_a_traceback(good, monkeypatch, capsys):
    from balancer.daemon import supervisor
    from balancer.errors import StartError

    def refuse(config, source):
        raise StartError("frontends.web.bind: cannot bind 127.0.0.1:8000")

    monkeypatch.setattr(supervisor, "run", refuse)
    assert cli.main(["-c", good]) == 1
    assert capsys.readouterr() == ("", "frontends.web.bind: cannot bind 127.0.0.1:8000\n")


def test_an_interrupt_is_130_whoever_would_swallow_it(good):
    program = f"""
import contextlib, os, signal
from balancer import cli
from balancer.daemon import supervisor
def run(config, source):
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGINT)
    return 0
supervisor.run = run
raise SystemExit(cli.main(["-c", {good!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_the_handler_of_interrupts_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["schema"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_the_schema_is_json_for_editors(capsys):
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"frontends", "backends", "stats"} <= schema["properties"].keys()


def test_what_status_says_has_a_schema(capsys):
    assert cli.main(["schema", "status"]) == 0
    assert {"backends", "health"} <= json.loads(capsys.readouterr().out)["properties"].keys()


def test_the_demos_configuration_is_shown(capsys):
    assert cli.main(["demo", "--show-config"]) == 0
    assert "frontends:" in capsys.readouterr().out


def test_demo_starts_from_the_port_given(monkeypatch):
    from balancer.demo import show

    seen = []
    monkeypatch.setattr(show, "run", lambda *, first_port: seen.append(first_port) or 0)
    assert cli.main(["demo", "--ports", "9000"]) == 0
    assert cli.main(["demo"]) == 0
    assert seen == [9000, None]


@pytest.mark.parametrize(
    "arguments", [["chekc"], ["--port", "1"], ["demo", "--ports", "0"], ["demo", "--ports", "70000"], ["-c"]]
)
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: pybalancer" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    way = "interpreted" if stream.__file__.endswith(".py") else "compiled"
    assert capsys.readouterr().out == f"pybalancer {__version__} ({way})\n"


@pytest.mark.parametrize("command", ["status", "drain", "maint", "ready", "weight", "events", "top", "completion"])
def test_the_help_of_a_command_has_examples_and_exit_statuses(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"examples:\n  pybalancer {command}" in out and "\nexit status" in out


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert "pybalancer check -c balancer.yaml" in out
    assert "/etc/pybalancer/balancer.yaml" in out


def test_a_reader_that_leaves_is_no_error():
    """`pybalancer schema | head -1`"""
    command = f'"{sys.executable}" -m balancer schema | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")


def test_a_pipe_closed_before_it_writes_is_141(good):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as out:
        done = subprocess.run(
            [sys.executable, "-m", "balancer", "check", "-c", good], stdout=out, stderr=-1, timeout=60
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_check_imports_no_data_plane():
    """It runs before every start and reload: what it does not need would only make it slow."""
    program = "import sys; from balancer import cli; cli.main(['schema']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stderr.split())
    assert "balancer.config.model" in modules
    assert not {"asyncio", "uvloop", "aiohttp", "balancer.daemon", "balancer.demo"} & modules


# What asks the daemon

SPOKEN = GOOD + "global: {runtime_socket: {path: PATH}}\n"


class Spoken:
    """A runtime socket that says what the test wants, and remembers what it heard."""

    def __init__(self, path) -> None:
        self.path = str(path)
        self.said, self.heard = b"\n\n", []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(65536).decode().partition(";")[2].strip())
                connection.sendall(self.said)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def spoken(tmp_path):
    it = Spoken(tmp_path / "admin.sock")
    it.file = tmp_path / "balancer.yaml"
    it.file.write_text(SPOKEN.replace("PATH", it.path))
    yield it
    it.close()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["why"], "show vrrp why"),
        (["why", "VI_E"], "show vrrp why VI_E"),
        (["vrrp", "show"], "show vrrp"),
        (["vrrp", "release"], "vrrp release for 1h"),
        (["vrrp", "release", "VI_E", "--for", "30m"], "vrrp release VI_E for 30m"),
        (["vrrp", "release", "--for=90s"], "vrrp release for 90s"),
        (["vrrp", "hold", "VG1"], "vrrp hold VG1"),
        (["vrrp", "hold"], "vrrp hold"),
        (["status"], "show kernel status"),
        (["status", "-n"], "show kernel status numeric"),
        (["status", "--stats", "--numeric"], "show kernel stats numeric"),
        (["status", "--rate"], "show kernel rate"),
        (["status", "--connections"], "show kernel connections"),
        (["status", "--view", "ipvsadm"], "show kernel status"),
        (["show", "kernel"], "show kernel"),
    ],
)
def test_the_daemon_is_asked_in_its_own_words(spoken, capsys, arguments, command):
    spoken.said = b"\nVI_E  MASTER\n         150  priority\n\n"
    assert cli.main([*arguments, "-c", str(spoken.file)]) == 0
    assert capsys.readouterr() == ("VI_E  MASTER\n         150  priority\n", "")
    assert spoken.heard == [command]


def test_the_daemon_is_asked_where_only_it_has_a_variable(spoken, capsys):
    """Its password comes from a file of systemd's; and the file may be wrong by now."""
    text = spoken.file.read_text()
    spoken.said = b"\nVI_E  MASTER\n\n"
    for more in ('stats: {bind: "127.0.0.1:1", users: {a: "${NOT_SET_ANYWHERE}"}}\n', "frontend: {}\n"):
        spoken.file.write_text(text + more)
        assert cli.main(["why", "-c", str(spoken.file)]) == 0
        assert capsys.readouterr() == ("VI_E  MASTER\n", "")
    Path(spoken.path).unlink()
    assert cli.main(["why", "-c", str(spoken.file)]) == 1
    assert "unknown key" in capsys.readouterr().err


def test_what_it_refuses_is_told_on_stderr(spoken, capsys):
    spoken.said = b"\n[3]: No such virtual router: 'VX'; there are VI_E.\n\n"
    assert cli.main(["why", "VX", "-c", str(spoken.file)]) == 1
    assert capsys.readouterr() == ("", "No such virtual router: 'VX'; there are VI_E.\n")
    spoken.said = b"\n[6]: VI_E: released\n\n"
    assert cli.main(["-c", str(spoken.file), "vrrp", "release"]) == 0
    assert capsys.readouterr() == ("VI_E: released\n", "")


def test_the_socket_may_be_given_without_a_configuration(spoken, capsys):
    spoken.file.unlink()
    assert cli.main(["why", "--socket", spoken.path]) == 0
    assert cli.main(["why", "-c", str(spoken.file)]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_node_may_have_a_socket_of_its_own(spoken, tmp_path):
    spoken.file.write_text(
        SPOKEN.replace("PATH", str(tmp_path / "none")).replace(
            "standby: {", f"standby: {{global: {{runtime_socket: {{path: {spoken.path}}}}}, "
        )
    )
    assert cli.main(["why", "-c", str(spoken.file), "--node", "standby"]) == 0
    assert cli.main(["why", "-c", str(spoken.file), "--node", "standby.lab.local"]) == 1


def test_without_a_runtime_socket_it_says_what_to_add(good, capsys):
    assert cli.main(["why", "-c", good]) == 1
    assert capsys.readouterr() == (
        "",
        f"{good}: the daemon takes no commands; add under global: "
        "runtime_socket: {path: /run/pybalancer/admin.sock}\n",
    )


def test_where_no_daemon_runs_it_says_so(spoken, capsys):
    spoken.close()
    assert cli.main(["vrrp", "show", "-c", str(spoken.file)]) == 1
    assert capsys.readouterr().err == f"pybalancer does not run here ({spoken.path}: Connection refused)\n"


def test_where_the_file_is_somewhere_else_the_daemon_is_found_all_the_same(spoken, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_DEFAULT_FILE", str(tmp_path / "none.yaml"))
    monkeypatch.setattr(cli, "_DEFAULT_SOCKET", spoken.path)
    spoken.said = b"\nlist\n\n"
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out == "list\n"
    spoken.file.rename(tmp_path / "none.yaml")
    monkeypatch.setattr(cli, "_DEFAULT_SOCKET", str(tmp_path / "another.sock"))
    assert cli.main(["status"]) == 0


@pytest.mark.parametrize("spoil", ["frontends: nonsense", "", "\0"])
def test_where_the_file_is_wrong_by_now_the_daemon_is_found_all_the_same(spoil, spoken, capsys, tmp_path, monkeypatch):
    file = tmp_path / "wrong.yaml"
    file.write_text(spoil)
    monkeypatch.setattr(cli, "_DEFAULT_FILE", str(file))
    monkeypatch.setattr(cli, "_DEFAULT_SOCKET", str(tmp_path / "nobody.sock"))
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err.startswith(f"{file}:1:")
    monkeypatch.setattr(cli, "_DEFAULT_SOCKET", spoken.path)
    spoken.said = b"\nlist\n\n"
    assert cli.main(["status"]) == 0
    assert capsys.readouterr() == ("list\n", "")


def test_who_may_not_read_the_file_may_still_use_the_socket(spoken, monkeypatch):
    monkeypatch.setattr(cli, "_DEFAULT_FILE", str(spoken.file))
    monkeypatch.setattr(cli, "_DEFAULT_SOCKET", spoken.path)
    spoken.said = b"\nlist\n\n"

    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(Path, "stat", denied)
    assert cli.main(["status"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["vrrp"], ["vrrp", "move"], ["vrrp", "release", "--for", "30"], ["why", "a", "b"], ["show"], ["show", "all"],
        ["status", "--stats", "--rate"], ["status", "--json", "--quiet"], ["status", "web", "--rate"],
        ["status", "--view", "ipvsadm", "web"], ["status", "--watch", "web"], ["status", "--watch", "0"],
        ["status", "--watch", "nan"], ["status", "--quiet", "--watch"], ["drain"], ["drain", "a/b", "--timeout", "10"],
        ["ready", "a/b", "--wait"], ["weight", "5"], ["schema", "stats"],
        ["events", "-n", "x"], ["top", "--every", "0"], ["completion"], ["completion", "tcsh"],
        ["events", "--since", "5"], ["events", "--level", "loud"],
    ],
)  # fmt: skip
def test_orders_that_are_none_are_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: pybalancer" in capsys.readouterr().err
