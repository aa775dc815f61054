from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.errors import BalancerError
from balancer.terminal import completion
from balancer.terminal.completion import instances, offering, proxies, servers
from tests.e2e.bed.process import until
from tests.e2e.bed.pybalancer import COMMAND
from tests.observe.conftest import two_routers
from tests.terminal.conftest import Daemon, Terminal

NOTHING = argparse.Namespace()


@pytest.mark.parametrize(
    ("names", "prefix", "offered"),
    [
        (servers, "", ["app/up", "app/down", "app/spare", "raw/one", "names/ns"]),
        (servers, "app/", ["app/up", "app/down", "app/spare"]), (servers, "app/u", ["app/up"]),
        (servers, "r", ["raw/one"]), (servers, "nobody/", []), (servers, "app/x", []),
        (proxies, "", ["web", "tls", "dns", "app", "raw", "names"]), (proxies, "n", ["names"]),
        (proxies, "app/d", ["app/down"]),
        (instances, "", []),
    ],
)  # fmt: skip
def test_names_are_the_daemons(daemon: Daemon, names, prefix: str, offered: list[str]) -> None:
    assert offering(lambda _: daemon.path, names)(prefix=prefix, parsed_args=NOTHING, action=None) == offered


def test_virtual_routers_have_names_and_groups(daemon: Daemon) -> None:
    daemon.close()
    daemon.standing = two_routers()
    daemon.open()
    assert offering(lambda _: daemon.path, instances)(prefix="V", parsed_args=NOTHING) == ["VI_E", "VI_I", "VG1"]


def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(daemon: Daemon, capfd) -> None:
    def nowhere(_: argparse.Namespace) -> str:
        raise BalancerError("no file")

    daemon.close()
    for socket in (nowhere, lambda _: daemon.path):
        assert offering(socket, servers)(prefix="", parsed_args=NOTHING) == []
    assert capfd.readouterr() == ("", "")


SETUP = {
    "bash": "bash --norc --noprofile",
    "zsh": "zsh -f",
    "fish": "fish --no-config",
}
READ = {
    "bash": "source {}",
    "zsh": "autoload -Uz compinit && compinit -u -D && source {}",
    "fish": "source {}",
}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_completes_commands_options_and_names(
    shell: completion.Shell, daemon: Daemon, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    if shell == "fish" and shutil.which(shell) is None:
        pytest.skip("fish is not installed")
    file = tmp_path / "completion"
    file.write_text(completion.script(shell))
    folder = Path(daemon.path).parent
    it = terminal(f"cd {folder}; PATH={COMMAND.parent}:$PATH exec {SETUP[shell]}", size=(120, 30))
    it.keys(READ[shell].format(file) + "; echo rea''dy", "Enter")
    it.shows("ready")
    it.keys("-l", "--", "pybalancer dra")
    it.keys("Tab")
    it.shows("pybalancer drain")
    it.keys("-l", "--", "--socket admin.sock raw/")
    it.keys("Tab")
    it.shows("raw/one")
    it.keys("-l", "--", " --time")
    it.keys("Tab")
    it.shows("--timeout")
    it.keys("C-u")
    it.keys("-l", "--", "pybalancer status --socket admin.sock na")
    it.keys("Tab")
    it.shows("names")


def test_tab_is_answered_soon(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that has hung must not keep the shell."""
    monkeypatch.setattr(completion, "_PATIENCE", 0.2)
    monkeypatch.setattr(daemon.house, "look", lambda: time.sleep(0.6))
    daemon.close()
    daemon.open()
    began = time.monotonic()
    assert offering(lambda _: daemon.path, servers)(prefix="", parsed_args=NOTHING) == []
    assert time.monotonic() - began < 0.5
    until(lambda: time.monotonic() - began > 0.7, "it has answered")
