"""The demonstration's parts that need no running balancer; tests/e2e/test_demo.py runs the whole of it."""

from __future__ import annotations

import re
import socket

import pytest

from balancer.config import read
from balancer.demo import show
from balancer.errors import StartError


def test_the_configuration_is_a_good_one_with_every_port_filled_in():
    text = show.configuration()
    config = read.loads(text, node="demo", environ={})
    assert {name: frontend.mode for name, frontend in config.frontends.items()} == {
        "http": "http",
        "tcp": "tcp",
        "dns": "udp",
    }
    assert [len(backend.servers) for backend in config.backends.values()] == [3, 3, 3]
    assert "${" not in text
    assert config.global_.runtime_socket is not None and config.global_.runtime_socket.level == "admin"


@pytest.mark.parametrize(("given", "place"), [("{0}", "{0}"), ("", "{1}"), ("relative", "{1}"), ("{0}/none", "{1}")])
def test_commands_are_taken_where_its_user_may_write(tmp_path, monkeypatch, given, place):
    own, temporary = tmp_path / "run", tmp_path / "tmp"
    own.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", given.format(own))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert re.search(f'path: "{place.format(own, temporary)}/pybalancer-demo-[0-9]+.sock"', show.configuration())


def test_a_place_that_is_too_deep_is_none(monkeypatch, tmp_path):
    deep = tmp_path / "x" / ("y" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert 'path: "/tmp/pybalancer-demo-' in show.configuration()


def test_ports_are_counted_from_the_given_one():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        taken = sock.getsockname()[1]
        text = show.configuration(first_port=taken)
    listening = [int(port) for port in re.findall(r"bind: 127\.0\.0\.1:(\d+)", text)]
    assert len(set(listening)) == 4
    assert all(taken < port < taken + 50 for port in listening)


def test_a_usual_port_that_is_taken_is_said(capsys):
    try:
        holder = socket.create_server(("127.0.0.1", 8000))
    except OSError:
        holder = None  # somebody else holds it: as good
    try:
        text = show.configuration()
    finally:
        if holder is not None:
            holder.close()
    assert re.search(r"^port 8000 is taken, (\d+) serves instead$", capsys.readouterr().err, re.MULTILINE)
    assert "bind: 127.0.0.1:8000\n" not in text


def test_without_a_free_port_it_does_not_start():
    with pytest.raises(StartError, match="no free port"):
        show.configuration(first_port=65535)
