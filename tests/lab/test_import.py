"""What is made of the old configuration of HAProxy, IPVS and keepalived serves the cluster as the shipped file does."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import services
from tests.lab.directors import DIRECTORS
from tests.lab.lab import Lab
from tests.lab.services import ROOT
from tests.lab.test_kernel import replace_balancers
from tests.lab.verify import STEPS, Person, Step

OLD = ROOT / "tests" / "convert" / "corpus"
HOSTS = "127.0.0.1 localhost\n" + "".join(f"10.0.100.{i} cluster{i}.cluster cluster{i}\n" for i in range(2, 8))
NAMES = {"dns-servers": "ipvs-192.168.1.200-53-udp", "kernel-web": "ipvs-192.168.1.202-80"}
# What the standby's files have in place of the master's.
STANDBY = (("Nodo Master", "Nodo Standby"), ("state MASTER", "state BACKUP"), ("priority 150", "priority 100"))


@pytest.fixture(scope="module")
def imported(lab: Lab) -> Iterator[Lab]:
    """Both directors run what was made of both directors' files, as it came."""
    master = lab["master"]
    kept = {name: (lab[name].disk / "etc" / "hosts").read_text() for name in DIRECTORS}
    for name in DIRECTORS:
        lab[name].write("/etc/hosts", HOSTS)
    for kind in ("cfg", "conf"):
        text = (OLD / f"thesis.{kind}").read_text()
        master.write(f"/etc/old.{kind}", text)
        for old, new in STANDBY:
            text = text.replace(old, new)
        master.write(f"/etc/standby.{kind}", text)
    files = "/etc/old.cfg /etc/old.conf --node standby /etc/standby.cfg /etc/standby.conf"
    done = master.outcome("sh", "-c", f"pybalancer import {files} -o /etc/imported.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    made = master.run("cat", "/etc/imported.yaml")
    lab["standby"].write("/etc/imported.yaml", made)
    replace_balancers(lab, "/etc/imported.yaml")
    yield lab
    for name, text in kept.items():
        lab[name].write("/etc/hosts", text)
    replace_balancers(lab, str(services.CONFIGURATION))


# The others wait for checks and elections, which are the shipped file's as well: a minute, with ALL_STEPS=1.
SHOWN = STEPS if os.environ.get("ALL_STEPS") else STEPS[:5]


@pytest.mark.parametrize("step", SHOWN, ids=lambda step: f"{step.number}")
def test_step(imported: Lab, step: Step) -> None:
    step.show(Person(imported, print, NAMES))
