"""As process 1 of a container: nothing but Python and a kernel; no service manager, no right, no file in /etc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bed.process import Process, until
from tests.lab.space import why_not

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
global: {workers: 2, log: {target: stdout}, runtime_socket: {path: /run/admin.sock}}
frontends: {f: {mode: http, bind: "127.0.0.1:8080", default_backend: b}}
backends: {b: {servers: {s: {address: "127.0.0.1:9"}}}}
"""
# Python, this folder and its environment are there as they are here.
BOX = r"""
set -eu
root=$1
shift
mount -t tmpfs none "$root"
for each in "$@"; do
    mkdir -p "$root$each"
    mount --rbind "$each" "$root$each"
done
for each in bin sbin lib lib64; do
    if [ -L "/$each" ]; then ln -s "$(readlink "/$each")" "$root/$each"; else
        mkdir "$root/$each"; mount --rbind "/$each" "$root/$each"; fi
done
mkdir "$root/proc" "$root/dev" "$root/run"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
for each in null urandom; do : >"$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"; done
chown 12345:12345 "$root/run"
ip link set lo up
printf '%s' "$CONFIG" >"$root/balancer.yaml"
cd /
exec env -i PATH=/usr/bin:/usr/sbin PYTHONDONTWRITEBYTECODE=1 chroot "$root" \
    setpriv --reuid 12345 --regid 12345 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
    "$COMMAND" -c /balancer.yaml
"""
ASK = """
import http.client
asked = http.client.HTTPConnection("127.0.0.1", 8080, timeout=20)
asked.request("GET", "/")
print(asked.getresponse().status)
"""


class Container:
    def __init__(self, folder: Path) -> None:
        root = folder / "root"
        root.mkdir()
        here = dict.fromkeys(["/usr", str(REPOSITORY), sys.base_prefix, str(Path(sys.prefix).resolve())])
        places = [each for each in here if not any(each != other and each.startswith(f"{other}/") for other in here)]
        words = [
            "unshare",
            "--pid",
            "--fork",
            "--mount",
            "--net",
            "--ipc",
            "--uts",
            "--kill-child",
            "sh",
            "-c",
            BOX,
            "sh",
        ]
        command = Path(sys.executable).with_name("pybalancer")
        self.process = Process([*words, root, *places], cwd=folder, env={"CONFIG": CONFIG, "COMMAND": str(command)})
        self.process.wait_for_line("pybalancer starts, 2 workers")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (self.first,) = map(int, children)
        """Its process 1, by the number that it has outside."""

    def run(self, *words: str) -> str:
        enter = ["nsenter", "--target", str(self.first), "--pid", "--mount", "--net", "--root", "--wd=/"]
        return subprocess.run([*enter, *words], check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path)
    yield made
    made.process.end()


def test_it_serves_takes_in_orphans_is_upgraded_and_ends(container: Container) -> None:
    status = Path(f"/proc/{container.first}/status").read_text()
    assert "NSpid:\t" in status and status.split("NSpid:\t")[1].splitlines()[0].split()[-1] == "1"
    assert "CapEff:\t0000000000000000" in status and "CapBnd:\t0000000000000000" in status
    assert container.run(sys.executable, "-c", ASK) == "503\n"
    # Whoever starts it ends at once: process 1 has it then.
    orphan = container.run("sh", "-c", "sleep 0.2 >/dev/null & echo $!").strip()
    seen = Path(f"/proc/{container.first}/root/proc/{orphan}")
    until(lambda: not seen.exists(), "it is waited for when it has ended")
    container.run("sh", "-c", "kill -USR2 1")
    container.process.wait_for_line("upgraded from")
    assert container.run(sys.executable, "-c", ASK) == "503\n"
    container.run("sh", "-c", "kill -HUP 1")
    container.process.wait_for_line("reloaded:", after=_after(container, "upgraded from"))
    os.kill(container.first, signal.SIGTERM)
    assert container.process.wait() == 0
    assert any("NOTICE: stopped" in line for line in container.process.out)
    assert not container.process.err


def _after(container: Container, text: str) -> int:
    return next(i for i, line in enumerate(container.process.out) if text in line) + 1
