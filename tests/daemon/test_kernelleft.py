from __future__ import annotations

import pytest

from balancer.daemon import kernelleft
from balancer.errors import StartError
from tests.daemon.conftest import as_root


@as_root
def test_the_state_file_is_in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(kernelleft, "_DIRECTORY", tmp_path / "run")
    file = kernelleft.state_file((65534, 65534))
    assert (file.parent.stat().st_uid, file.parent.stat().st_mode & 0o777) == (65534, 0o700)
    assert kernelleft.state_file((65534, 65534)) == file
    monkeypatch.setattr(kernelleft, "_DIRECTORY", tmp_path / "missing" / "run")
    with pytest.raises(StartError, match=r"cannot make .*/missing/run/kernel: No such file"):
        kernelleft.state_file(None)


def test_who_has_no_rights_says_that_something_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(kernelleft, "_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(kernelleft.privileges, "has_network_rights", lambda: False)
    assert kernelleft.clear_leftovers() == []
    kernelleft.state_file(None).write_text("{}")
    with pytest.raises(StartError, match="that takes CAP_NET_ADMIN"):
        kernelleft.clear_leftovers()
