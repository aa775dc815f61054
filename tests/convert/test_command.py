from __future__ import annotations

import io
import stat
import subprocess
import sys

import pytest

from balancer import cli

GOOD = """\
defaults
    mode http
    log stdout local0
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen web
    bind 127.0.0.1:8000
    stats auth a:b
    server one 127.0.0.1:8001
"""
VRRP = """\
vrrp_instance VI {
    interface eth0
    virtual_router_id 51
    priority %s
    virtual_ipaddress {
        192.0.2.200
    }
}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "haproxy.cfg").write_text(GOOD)
    (tmp_path / "keepalived.conf").write_text(VRRP % 150)
    (tmp_path / "standby.conf").write_text(VRRP % 100)
    return tmp_path


def run(*words):
    return cli.main(["import", *words])


def test_it_goes_to_stdout_and_loads(files, capsys):
    assert run("keepalived.conf", "haproxy.cfg") == 1
    out, err = capsys.readouterr()
    assert "haproxy.cfg:9: not translated: stats auth …: the page has an address of its own" in err
    assert "a:b" not in err
    (files / "out.yaml").write_text(out)
    assert cli.main(["check", "-c", "out.yaml"]) == 0


def test_all_is_translated(files, capsys):
    assert run("keepalived.conf", "-o", "out.yaml") == 0
    assert capsys.readouterr() == ("", "")
    assert stat.S_IMODE((files / "out.yaml").stat().st_mode) == 0o600


def test_a_file_is_replaced_by_force_only(files, capsys):
    (files / "out.yaml").write_text("mine")
    assert run("keepalived.conf", "-o", "out.yaml") == 2
    assert "out.yaml: is there already; --force replaces it" in capsys.readouterr().err
    assert (files / "out.yaml").read_text() == "mine"
    assert run("keepalived.conf", "-o", "out.yaml", "--force") == 0
    assert "VI" in (files / "out.yaml").read_text()
    assert sorted(path.name for path in files.iterdir()) == [
        "haproxy.cfg",
        "keepalived.conf",
        "out.yaml",
        "standby.conf",
    ]


def test_a_userlist_is_not_written_over(files, capsys):
    (files / "haproxy.cfg").write_text(
        GOOD + "    http-request auth unless { http_auth(staff) }\nuserlist staff\n    user u insecure-password p\n"
    )
    (files / "staff.htpasswd").write_text("mine")
    assert run("haproxy.cfg", "-o", "out.yaml") == 2
    assert "staff.htpasswd" in capsys.readouterr().err
    assert (files / "staff.htpasswd").read_text() == "mine"
    (files / "staff.htpasswd").unlink()
    assert run("haproxy.cfg", "-o", "out.yaml") == 1
    assert (files / "staff.htpasswd").read_text().startswith("u:$2b$")
    assert cli.main(["check", "-c", "out.yaml"]) == 0


def test_without_a_place_for_its_users_a_rule_denies_everybody(files, capsys):
    (files / "haproxy.cfg").write_text(
        GOOD + "    http-request auth unless { http_auth(staff) }\nuserlist staff\n    user u insecure-password p\n"
    )
    assert run("haproxy.cfg") == 1
    out, err = capsys.readouterr()
    assert "- {deny: true}" in out
    assert "user …: users stand in a file" in err


def test_no_password_is_told_wherever_it_stands(files, capsys):
    lines = (
        "user Kumquat", "user admin Kumquat", "user Kumquat password admin", "user a insecure-password b Kumquat",
        'user a insecure-password "Kumquat', "user a password $5$Kumquat$x",
    )  # fmt: skip
    users = "".join(f"    {line}\n" for line in lines)
    auth = "    http-request auth unless { http_auth(staff) }\n"
    (files / "haproxy.cfg").write_text(f"{GOOD}{auth}    stats auth admin:1 Kumquat\nuserlist staff\n{users}")
    assert run("haproxy.cfg", "-o", "out.yaml") == 1
    out, err = capsys.readouterr()
    assert "haproxy.cfg:" in err and "user …: users have a password" in err
    assert "Kumquat" not in out + err + (files / "out.yaml").read_text()


def test_what_differs_on_another_director(files, capsys):
    assert run("keepalived.conf", "--node", "standby", "standby.conf", "-o", "out.yaml") == 0
    text = (files / "out.yaml").read_text()
    assert [row.split() for row in text.splitlines()[-2:]] == [
        ["VI:", "#", "standby.conf:1"],
        ["priority:", "100", "#", "standby.conf:4"],
    ]
    assert "nodes:\n  standby:\n" in text


def test_what_another_director_lacks_is_told(files, capsys):
    assert run("keepalived.conf", "haproxy.cfg", "--node", "standby", "standby.conf", "-o", "out.yaml") == 1
    assert "standby has nothing of this (frontends)" in capsys.readouterr().err


def test_stdin(files, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n"))
    assert run("-") == 0
    assert "# Made by `pybalancer import` of standard input.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "octets", "why"),
    [
        ("none.cfg", None, "none.cfg: cannot be read: No such file or directory"),
        ("empty.cfg", b"", "empty.cfg: is no haproxy.cfg, no keepalived.conf and no output of ipvsadm-save"),
        ("binary.cfg", b"\x7fELF\0\0", "binary.cfg: is no text: it holds NUL octets"),
        ("prose.cfg", "Es war\xe9 einmal".encode("latin-1"), "prose.cfg: is no haproxy.cfg"),
        ("huge.cfg", b"global\n" + b"#" * (9 << 20), "huge.cfg: is too large"),
        ("bare.cfg", b"global\n    daemon\n", "bare.cfg: nothing in there can be balanced here"),
    ],
)
def test_what_cannot_be_read(files, capsys, name, octets, why):
    if octets is not None:
        (files / name).write_bytes(octets)
    assert run(name, "-o", "out.yaml") == 2
    assert why in capsys.readouterr().err
    assert not (files / "out.yaml").exists()


def test_a_place_that_cannot_be_written(files, capsys):
    assert run("keepalived.conf", "-o", "no/where.yaml") == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_node_wants_files(files, capsys):
    assert run("keepalived.conf", "--node", "standby") == 2
    assert "--node standby: wants files behind the name" in capsys.readouterr().err


def test_help_has_an_example():
    said = subprocess.run([sys.executable, "-m", "balancer", "import", "--help"], capture_output=True, text=True)
    assert "pybalancer import /etc/haproxy/haproxy.cfg /etc/keepalived/keepalived.conf" in said.stdout
