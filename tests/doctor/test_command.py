from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from balancer import cli
from tests.vrrp.conftest import Host, as_root

from .conftest import tcp, vrrp

QUIET = "global: {log: {target: none}, workers: 1, maxconn: 100}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "b.yaml"
    path.write_text(tcp() + QUIET)
    return path


@as_root
def test_what_is_said_and_the_exit_status(host: Host, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.ip("link set dev lo up")
    file.write_text(tcp("*:80", "192.0.2.9:80") + QUIET)
    with host:
        assert cli.main(["doctor", "-c", str(file)]) == 0
        assert "1 of 1 addresses to listen at are free" in capsys.readouterr().out
        file.write_text(tcp("*:80", "10.9.9.9:80") + QUIET)
        assert cli.main(["doctor", "-c", str(file), "--brief"]) == 1
    said = capsys.readouterr().out
    assert "there is no route to 10.9.9.9" in said and "are free" not in said


@as_root
def test_for_programs(host: Host, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(vrrp() + QUIET)
    with host:
        host.ip("link set dev eth0 multicast off")
        status = cli.main(["doctor", "-c", str(file), "--json", "--quiet-net", "--strict"])
    said = json.loads(capsys.readouterr().out)
    assert status == 1 and said["ok"] is False
    (found,) = [each for each in said["findings"] if each["check"] == "multicast"]
    assert (found["verdict"], found["now"]) == ("warning", ["ip link set dev eth0 multicast on"])


def test_a_configuration_that_will_not_do(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"frontends: {x: 1}\n", b"\0\xff" * 100, b"x" * 10_000):
        file.write_bytes(content)
        assert cli.main(["doctor", "-c", str(file)]) == 1
        said = capsys.readouterr()
        assert said.out == "" and "Traceback" not in said.err and str(file) in said.err


@pytest.mark.parametrize(
    "words", [["--listen", "-1"], ["--listen", "x"], ["--listen", "1e9"], ["--nonsense"], ["more"]]
)
def test_wrong_usage(file: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "-c", str(file), *words])
    assert ended.value.code == 2


@as_root
def test_somebody_without_rights(host: Host, file: Path) -> None:
    """Says what it could not see, and breaks nothing."""
    file.write_text(tcp("*:80", "192.0.2.9:80") + vrrp() + QUIET)
    file.chmod(0o644)
    for parent in list(file.parents)[:-2]:
        parent.chmod(0o755)
    root = Path(__file__).parent.parent.parent
    code = (
        f"import os, sys; sys.path[:0] = [{str(root)!r}]; from balancer import cli\n"
        "from balancer.doctor import examine\nos.setgroups([]); os.setresgid(65534, 65534, 65534)\n"
        "os.setresuid(65534, 65534, 65534); raise SystemExit(cli.main(['doctor', '-c', FILE, '--listen', '0.1']))"
    ).replace("FILE", repr(str(file)))
    with host:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    assert "who asks is not root" in done.stdout and "that takes root, or CAP_NET_RAW" in done.stdout
    assert done.stderr == "" and "Traceback" not in done.stdout
