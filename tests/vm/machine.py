"""One Debian 12 system under its own systemd (systemd-nspawn(1)), with network cards in a space that has no way out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.space import Space

__all__ = ["Machine", "VmError", "base_system", "until"]

_SUITE = "bookworm"
_PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,curl"
# A package mirror and an index may be this machine's own: what it needs to reach them is lent for the installation.
_LENT_FILES = ("/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/apt/sources.list.d")
_LENT_VARIABLES = ("PIP_", "SSL_", "http_proxy", "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE")


class VmError(Exception):
    """It cannot be made, or did not do what it must."""


def until(condition: Callable[[], object], what: str, *, within: float = 60.0) -> None:
    """Wait for it. VmError after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise VmError(f"not within {within:.0f} s: {what}")
        time.sleep(0.1)


def base_system(folder: Path) -> Path:
    """A Debian system to copy, made by debootstrap(8) unless it is there; two minutes."""
    base = folder / "base"
    if not (base / "made").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, base]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise VmError(f"debootstrap: {done.stdout[-2000:]}{done.stderr}")
        (base / "made").touch()
    return base


class Machine:
    """Made from the base system, with whatever `provision` puts into it, and started from then on as a machine is."""

    def __init__(self, name: str, base: Path | None, folder: Path, space: Space) -> None:
        """A new one, or (no `base`) as an earlier run has left it."""
        self.name = name
        self.root = folder / name
        self._space = space
        """Whose network it has."""
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._console = folder / f"{name}.console"
        if base is None:
            return
        shutil.rmtree(self.root, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", base, self.root], check=True)
        (self.root / "etc/hostname").write_text(f"{name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")

    def provision(self, script: str, role: str, checkout: Path) -> str:
        """Run the script on it as it lies there; what it says."""
        source = self.root / "usr/src/pybalancer"
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "-C", checkout, "archive", "HEAD"], stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
        return self.prepare(f"/usr/src/pybalancer/{script}", role, "/usr/src/pybalancer")

    def prepare(self, *words: str) -> str:
        """Run a command on it as it lies there, with this machine's network; what it says."""
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={self.root}"]
        command += [f"--bind-ro={path}" for path in (*_LENT_FILES, *_named_by_pip()) if Path(path).exists()]
        command += [f"--setenv={name}" for name in os.environ if name.startswith(_LENT_VARIABLES)]
        command += ["--resolv-conf=off", "--pipe", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            said = done.stdout[-3000:] + done.stderr[-3000:]
            raise VmError(f"{self.name}: {' '.join(words)}: status {done.returncode}\n{said}")
        return done.stdout

    def start(self) -> None:
        """Switch it on; it is there when systemd has started everything."""
        network = f"--network-namespace-path=/proc/{self._space.pid}/ns/net"
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", network]
        # The service asks for SCHED_RR, and for memory that is never paged out.
        command += [f"--directory={self.root}", f"--machine={self.name}", "--capability=CAP_IPC_LOCK,CAP_NET_ADMIN"]
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        self.wait_until_started()

    def wait_until_started(self) -> None:
        """All that starts at boot has been started."""

        def stands() -> bool:
            return self.outcome("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

        until(stands, f"{self.name} has started")

    @property
    def _leader(self) -> int:
        """Its process 1, as we see it; 0 while there is none."""
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise VmError(f"{self.name} has ended: {self._console.read_text(errors='replace')[-2000:]}")
        # nspawn's child is the one that waits in the outer namespaces, or systemd itself.
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def outcome(self, *command: str, takes: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on it, whatever its status."""
        leader = self._leader
        if not leader:
            return subprocess.CompletedProcess(command, 255, "", "it is not there yet")
        inside = ["nsenter", "--target", str(leader), "--all", "--root", "--wd=/"]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        return subprocess.run(
            [*inside, "timeout", f"{takes:g}", *command],
            capture_output=True, text=True, errors="replace", env=environment, timeout=takes + 5, check=False,
        )  # fmt: skip

    def run(self, *command: str, takes: float = 60.0) -> str:
        """The same; VmError when it fails."""
        done = self.outcome(*command, takes=takes)
        if done.returncode:
            raise VmError(f"{self.name}: {' '.join(command)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def reboot(self) -> None:
        """Down as systemd has it, and up again."""
        assert self._nspawn is not None
        self.outcome("systemctl", "reboot")
        # nspawn would do it for us where it has a service manager above it that starts it again.
        self._nspawn.wait(120)
        self.start()

    def switch_off(self) -> None:
        """As by the mains switch."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            # Its process 1 first, with which all go: nspawn killed would leave them.
            if leader := self._leader:
                os.kill(leader, signal.SIGKILL)
            self._nspawn.terminate()
            self._nspawn.wait()
        self._nspawn = None


def _named_by_pip() -> list[str]:
    """Files and folders of this machine that pip's settings name."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    paths = re.findall(r"(?<![/\w])/[\w.][\w./-]*", said.stdout.replace("file://", " "))
    return sorted({path for path in paths if Path(path).exists()})
