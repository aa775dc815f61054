"""Who takes part in which sweep, and where each is asked."""

from __future__ import annotations

import balancers
import pytest
import sweeps
from sweeps import SWEEPS, Entrant

from balancer.config import read

ENTRANTS = sweeps.entrants(["pybalancer"], [("HAProxy", "haproxy"), ("HAProxy 3.2", "/opt/haproxy")])
BY_NAME = {entrant.name: entrant for entrant in ENTRANTS}


def test_every_sweep_has_ours_and_what_has_no_balancer() -> None:
    for sweep in SWEEPS:
        names = [entrant.name for entrant in ENTRANTS if sweep.of(entrant)]
        assert names[0] == sweeps.DIRECT
        assert any(name.startswith("pybalancer") for name in names)
        assert len(names) == len(set(names))


def test_the_newer_haproxy_takes_part_in_what_the_installed_one_does() -> None:
    assert BY_NAME["HAProxy 3.2"].sweeps == BY_NAME["HAProxy"].sweeps


def test_those_on_all_cores_have_as_many_workers() -> None:
    assert BY_NAME[f"pybalancer{sweeps.ALL}"].task().workers == len(sweeps.CORES)
    assert BY_NAME["pybalancer"].task().workers == 1


@pytest.mark.parametrize("entrant", [one for one in ENTRANTS if one.contestant is not None], ids=lambda one: one.name)
def test_each_listens_where_it_is_asked(entrant: Entrant) -> None:
    listening = {(frontend.mode == "udp", frontend.address) for frontend in entrant.task().frontends}
    for sweep in (sweep for sweep in SWEEPS if sweep.of(entrant)):
        assert (sweep.unit == "queries", f"{entrant.at(sweep)}:{sweep.port}") in listening


@pytest.mark.parametrize("name", ["pybalancer", "pybalancer kernel"])
def test_pybalancer_takes_its_configuration(name: str) -> None:
    entrant = BY_NAME[name]
    assert entrant.contestant is not None
    config = read.loads(entrant.contestant.render(entrant.task()), node="here", environ={})
    assert list(config.frontends) == list(entrant.sweeps)


def test_who_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert BY_NAME["dnsdist"].needs() == "dnsdist is missing: apt install dnsdist"
    assert BY_NAME["IPVS"].needs() == "ipvsadm is missing: apt install ipvsadm"
    assert BY_NAME["nginx"].needs() == "nginx is missing: apt install nginx-light"
    assert BY_NAME["pybalancer"].needs() == ""


def test_nginx_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancers, "stream_module", lambda: "")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"stderr": "--with-stream=dynamic --x"}))
    assert "libnginx-mod-stream" in sweeps.nginx_is_missing()
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"stderr": "--with-stream --x"}))
    assert sweeps.nginx_is_missing() == ""
