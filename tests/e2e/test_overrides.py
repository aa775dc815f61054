"""What operators change is remembered: over a reload, over a restart, over the death of whoever keeps it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.bed.clients import curl, get
from tests.e2e.bed.process import PATIENCE, until
from tests.e2e.bed.pybalancer import COMMAND
from tests.e2e.test_steering import say, served, stat

CONFIG = """
global: {workers: 2, hard_stop_after: 5s, runtime_socket: {path: "${admin}", level: admin}, state_directory: "${state}"}
stats: {bind: "127.0.0.1:${stats}", admin: true, users: {boss: secret}}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
backends:
  web:
    check: {type: tcp, interval: 200ms}
    servers:
      web1: {address: "127.0.0.1:${web1}", weight: 10}
      web2: {address: "127.0.0.1:${web2}", weight: 10}
"""


class Place:
    """A state directory, and daemons that use it one after the other."""

    def __init__(self, balancer: Any, web: Any, path: Path) -> None:
        self._balancer = balancer
        self._ports = {"web1": web[0].port, "web2": web[1].port}
        self.admin = str(path / "admin.sock")
        self.state = path / "state"

    def start(self, *, up: tuple[str, ...] = ("web/web1", "web/web2"), **more: Any) -> Any:
        running = self._balancer(CONFIG, admin=self.admin, state=self.state, **self._ports, **more)
        running.ports = {**more, **running.ports}
        running.wait_until_up(*up)
        return running

    def run(self, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [COMMAND, *words, "--socket", self.admin], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return done.returncode, done.stdout, done.stderr

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(say(self.admin, "show overrides json"))
        return {f"{row['target']} {row['kind']}": row for row in rows}

    @property
    def whys(self) -> dict[str, str]:
        return {key: row["why"] for key, row in self.overrides.items()}

    @property
    def kept(self) -> set[str]:
        """What the file says."""
        try:
            rows = json.loads((self.state / "overrides.json").read_text())["overrides"]
        except FileNotFoundError:
            return set()
        return {f"{'/'.join(row['target'])} {row['kind']} {row['value']}" for row in rows}


@pytest.fixture
def place(balancer, web, tmp_path) -> Place:
    return Place(balancer, web, tmp_path)


def test_a_restart_forgets_nothing_and_the_configuration_wins(place: Place) -> None:
    first = place.start()
    assert place.run("drain", "web/web1", "--why", "new disk; slow", "--for", "2h")[0] == 0
    assert place.run("weight", "5", "web/web2")[0] == 0
    until(lambda: place.kept == {"web/web1 state drain", "web/web2 weight 5"}, "both are kept")
    assert re.search(r"web/web1  state drain  ready .* (2h|1h59m) +new disk; slow$", place.run("overrides")[1], re.M)
    line = first.wait_for_line("set server web/web1 state drain until ")
    assert line.endswith("(new disk; slow)")
    # Not even its last word is needed.
    first.expected_status = -signal.SIGKILL
    first.process.signal(signal.SIGKILL)
    first.process.wait()

    second = place.start(up=("web/web2",), **first.ports)
    second.wait_for_line("2 runtime changes hold besides the configuration (show overrides)")
    assert stat(place.admin)["web", "web1"]["status"] == "DRAIN" and served(second) == {"web2"}
    row = place.overrides["web/web1 state"]
    assert (row["value"], row["configured"], row["why"]) == ("drain", "ready", "new disk; slow")
    assert re.fullmatch(r"\S+ at the runtime socket", row["by"]) and row["until"] - row["at"] == pytest.approx(7200, 1)
    assert say(place.admin, "get weight web/web2") == "5 (initial 10)\n\n"

    # Another weight in the file ends the override of the weight, and nothing else.
    for server in second.config["backends"]["web"]["servers"].values():
        server["weight"] = 20
    second.file.write_text(yaml.safe_dump(second.config, sort_keys=False))
    second.process.signal(signal.SIGHUP)
    line = second.wait_for_line("is forgotten: the configuration has changed it from 10 to 20")
    assert "web/web2: weight 5 (by " in line
    until(lambda: Path(place.admin).is_socket() and place.kept == {"web/web1 state drain"}, "only the drain holds")
    assert say(place.admin, "get weight web/web2") == "20 (initial 20)\n\n"
    assert stat(place.admin)["web", "web1"]["status"] == "DRAIN"


def test_it_ends_by_itself_and_by_being_forgotten(place: Place) -> None:
    running = place.start()
    code, said, _ = place.run("drain", "web/web1", "--for", "1500ms")
    assert code == 0 and said.startswith("web/web1: DRAIN")
    assert stat(place.admin)["web", "web1"]["status"] == "DRAIN"
    running.wait_for_line("is over")
    until(lambda: "web1" in served(running), "it is back")
    assert place.run("overrides")[1] == "There are no runtime changes: all is as the configuration says.\n"
    say(place.admin, r"set server web/web1 state maint why a\ disk; set weight web/web1 3 why b")
    assert place.whys == {"web/web1 state": "a disk", "web/web1 weight": "b"}
    assert say(place.admin, "clear override web/web1 weight") == "\n"
    assert place.overrides.keys() == {"web/web1 state"}
    assert place.run("forget", "web/web1", "web/web9") == (
        1,
        "web/web1: as configured\n",
        "web/web9: No such server.\n",
    )
    until(lambda: "web1" in served(running), "it is back")
    until(lambda: place.kept == set(), "the file knows")
    assert place.run("forget", "web/web1")[2].startswith("web/web1: There is no such override of web/web1; ")


def test_the_page_says_who_changed_a_server(place: Place) -> None:
    running = place.start()
    page = f"http://127.0.0.1:{running.ports['stats']}/haproxy?stats"
    done = curl("-u", "boss:secret", "-d", "s=web1&action=drain&b=web", "-o", "/dev/null", "-w", "%{http_code}", page)
    assert done.stdout == b"303"
    assert place.overrides["web/web1 state"]["by"] == "boss at 127.0.0.1 (page)"
    text = curl("-u", "boss:secret", page).stdout.decode()
    assert text.count(">changed</abbr>") == 1
    assert "state drain instead of ready, by boss at 127.0.0.1 (page) since 20" in text


@pytest.mark.parametrize("trouble", ["bad", "taken", "full"])
def test_trouble_with_the_directory_stops_nobody(place: Place, trouble: str, tmp_path: Path) -> None:
    place.state.mkdir()
    if trouble == "bad":
        (place.state / "overrides.json").write_bytes(os.urandom(512))
        running = place.start()
        running.wait_for_line("overrides.json.bad now")
    elif trouble == "taken":
        other = Place(place._balancer, [type("", (), {"port": each}) for each in place._ports.values()], tmp_path)
        other.admin = str(tmp_path / "other.sock")
        other.start()
        running = place.start()
        running.wait_for_line("is in use by another pybalancer; each needs its own")
    else:
        (place.state / "overrides.json.new").mkdir()
        running = place.start()
    say(place.admin, "set server web/web1 state drain")
    until(lambda: served(running) == {"web2"}, "it is done all the same")
    if trouble == "full":
        running.wait_for_line("runtime changes are not kept for after a restart: ")
    (control,) = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control not in ([], [control]), "another one is there")
    until(lambda: place.overrides.keys() == {"web/web1 state"}, "and knows what was changed")
    assert get(running.ports["http"])["server"] == "web2"
