"""What is made of files as directors have them: as it stands beside them, and taken by the programs it is of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from balancer.config.read import loads
from tests.convert.cases import CASES, ENVIRON, HERE, directives, golden, imported

PAGES = "/etc/haproxy/errors/503.http"
# Lines whose part stands at the line that opens their block, or at what they are for.
# Lines whose part stands at the line that opens their block, or at that of what they are for.
OF_OTHERS = re.compile(
    r"(?:mode|acl|default-server|default_backend|http-check|timeout check|stats|unique-id-header|http-re\w+ cache-\w+"
    r"|global|userlist|user|defaults|cache|http-errors|\.|tcp-check connect|http-request set-src"
    r"|global_defs|virtual_server_group|notification_email|protocol|l\w+_(?:algo|kind|sched|method)|auth_|group|url|path"
    r"|status_code|weight|[A-Z]+|connect_timeout|retry|delay_|type|name|virtualhost|persistence_timeout|\$|192\.0\.2|chk_"
    r"|script|interval|log global|frontend never|bind :1$)"
)


@pytest.fixture(params=CASES)
def case(request):
    files = "".join((HERE / file).read_text() for file in CASES[request.param])
    if PAGES.rpartition("/")[0] in files and not Path(PAGES).exists():
        pytest.skip("HAProxy's pages are not here")
    return request.param


def test_it_is_what_stands_beside_it(case):
    assert imported(case).text == golden(case).read_text(), "python -m tests.convert.cases writes it anew"


@pytest.mark.skipif(not Path(PAGES).exists(), reason="HAProxy's pages are not here")
@pytest.mark.parametrize("name", ["thesis", "01-debian-web"])
def test_nothing_of_it_is_lost(name):
    assert imported(name).report.told == []


def test_it_loads(case, tmp_path):
    result = imported(case)
    for name, content in result.files.items():
        (tmp_path / name).write_text(content)
    loads(result.text, file=str(tmp_path / "balancer.yaml"), node="", environ=ENVIRON)


def test_no_line_is_passed_over(case):
    text = imported(case).text
    for place, line in directives(case):
        assert OF_OTHERS.match(line) or re.search(rf"{re.escape(place)}\b", text), f"{place}: {line}"


@pytest.mark.skipif(not shutil.which("haproxy"), reason="HAProxy is not here")
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.cfg")))
def test_haproxy_takes_it(file):
    said = subprocess.run(
        ["haproxy", "-c", "-f", file], cwd=HERE, capture_output=True, text=True, env={**os.environ, **ENVIRON}
    )
    wrong = [row for row in said.stderr.splitlines() if "[ALERT]" in row and "resolve" not in row]
    assert said.returncode == 0 or (file == "thesis.cfg" and not wrong[1:]), said.stderr


@pytest.mark.skipif(not shutil.which("keepalived") or os.geteuid() != 0, reason="keepalived is not here, or no root")
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.conf")))
def test_keepalived_takes_it(file):
    links = "ip link add eth0 type veth peer name eth1; ip link add eth2 type veth peer name eth7"
    check = f"{links}; keepalived -t -f {HERE / file}"
    said = subprocess.run(["unshare", "--net", "sh", "-c", check], capture_output=True, text=True)
    # 5: there is something that it does in a way of its own.
    assert said.returncode in (0, 5), said.stderr
    assert "Unknown keyword" not in said.stderr
