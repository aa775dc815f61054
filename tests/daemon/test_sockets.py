from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
from pathlib import Path

import pytest

from balancer.config.model import Config
from balancer.daemon.sockets import Sockets, try_to_bind
from balancer.errors import StartError
from tests.daemon.conftest import as_root
from tests.e2e.bed.process import free_port


def config(*binds, mode="tcp", stats=None, runtime=None):
    """A configuration with these binds."""
    return Config.model_validate(
        {
            "frontends": {"f": {"mode": mode, "bind": binds, "default_backend": "b"}},
            "backends": {"b": {"servers": {"s": {"address": "127.0.0.1:9"}}}},
            "stats": {"bind": stats} if stats else None,
            "global": {"runtime_socket": runtime},
        },
        strict=False,
    )


@pytest.fixture
def opened():
    """opened(config, workers): like Sockets.open, closed at the end."""
    made = []

    def open_(*arguments, **more):
        made.append(Sockets.open(*arguments, **more))
        return made[-1]

    yield open_
    for sockets in made:
        sockets.close()
        sockets.unlink()


def reaches(sock_or_address) -> bool:
    address = sock_or_address
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0


def accepted(pairs) -> int:
    """Connections that wait at a worker's sockets."""
    count = 0
    for _, sock in pairs:
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
    return count


def test_each_worker_gets_a_share_of_the_connections(opened):
    port = free_port()
    sockets = opened(config(f"127.0.0.1:{port}"), 4)
    for _ in range(200):
        assert reaches(("127.0.0.1", port))
    shares = [accepted(pairs) for pairs in sockets.frontends["f"]]
    assert sum(shares) == 200
    assert min(shares) > 20


def test_each_worker_gets_a_share_of_the_datagrams(opened):
    port = free_port()
    sockets = opened(config(f"127.0.0.1:{port}", mode="udp"), 4)
    for _ in range(200):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"?", ("127.0.0.1", port))
    shares = []
    for ((_, sock),) in sockets.frontends["f"]:
        shares.append(0)
        while True:
            try:
                sock.recv(10)
            except BlockingIOError:
                break
            shares[-1] += 1
    assert sum(shares) == 200
    assert min(shares) > 20


def test_several_binds_of_all_families(opened, tmp_path):
    ports = [free_port(), free_port()]
    path = str(tmp_path / "s.sock")
    sockets = opened(config(f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", path), 2)
    for address in (("127.0.0.1", ports[0]), ("::1", ports[1]), path):
        assert reaches(address)
    for pairs in sockets.frontends["f"]:
        assert [str(bind.address) for bind, _ in pairs] == [f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", path]


def test_ipv6_takes_ipv4_only_where_told_so(opened):
    port, both = free_port(), free_port()
    opened(config(f"[::]:{port}", {"address": f"[::]:{both}", "v4v6": True}), 2)
    assert reaches(("::1", port)) and not reaches(("127.0.0.1", port))
    assert reaches(("::1", both)) and reaches(("127.0.0.1", both))


def test_ipv4_and_ipv6_share_a_port(opened):
    port = free_port()
    opened(config(f"*:{port}", f"[::]:{port}"), 2)
    assert reaches(("127.0.0.1", port)) and reaches(("::1", port))


@pytest.mark.parametrize("mode", ["tcp", "udp"])
@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]"])
def test_an_address_that_this_host_does_not_hold_yet(opened, host, mode):
    opened(config(f"{host}:{free_port()}", mode=mode), 2)


def test_an_interface(opened):
    name = next(name for _, name in socket.if_nameindex() if name == "lo")
    port = free_port()
    sockets = opened(config({"address": f"127.0.0.1:{port}", "interface": name}), 2)
    assert reaches(("127.0.0.1", port))
    _, sock = sockets.frontends["f"][1][0]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"


def test_an_interface_that_is_not_there():
    with pytest.raises(StartError, match=r"^frontends\.f\.bind: cannot bind .*there is no interface eth99$"):
        Sockets.open(config({"address": f"127.0.0.1:{free_port()}", "interface": "eth99"}), 1)


def test_a_frontend_of_the_kernel_binds_nothing(opened):
    port = free_port()
    written = config(f"127.0.0.1:{port}").model_dump()
    written["frontends"]["f"]["engine"] = "kernel"
    kernel = config(f"127.0.0.1:{port}")
    front = kernel.frontends["f"].model_copy(update={"engine": "kernel"})
    sockets = opened(kernel.model_copy(update={"frontends": {"f": front}}), 2)
    assert sockets.frontends == {}
    assert not reaches(("127.0.0.1", port))


# Refused


@pytest.mark.parametrize("mode", ["tcp", "udp"])
def test_a_port_that_somebody_has(mode):
    kind = socket.SOCK_STREAM if mode == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if mode == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StartError) as refused:
            Sockets.open(config(f"127.0.0.1:{port}", mode=mode), 2)
    assert str(refused.value) == (
        f"frontends.f.bind: cannot bind 127.0.0.1:{port}: Address already in use; "
        "is another copy or another server running there?"
    )


@pytest.mark.parametrize("mode", ["tcp", "udp"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_copy_although_the_kernel_would_let_it_share(opened, mode, workers):
    written = config(f"127.0.0.1:{free_port()}", mode=mode)
    opened(written, 2)
    with pytest.raises(StartError, match="is another copy"):
        Sockets.open(written, workers)


def test_of_two_copies_that_start_together_never_both_get_the_port():
    """Neither listens yet when both look whether the port is taken: the kernel decides, not the look. It may refuse
    both, where each is caught in the middle of its listen(2)."""
    winners = []
    for _ in range(20):
        written = config(f"127.0.0.1:{free_port()}")
        ready, go = os.pipe()
        children = []
        for _ in range(2):
            pid = os.fork()
            if not pid:
                os.close(go)
                os.read(ready, 1)
                try:
                    held = Sockets.open(written, 2)
                except StartError:
                    os._exit(1)
                os.kill(os.getpid(), signal.SIGSTOP)
                held.close()
                os._exit(0)
            children.append(pid)
        os.close(go)
        os.close(ready)
        # The one that has the port stops with it in its hands until the other has found out.
        statuses = [os.waitpid(pid, os.WUNTRACED)[1] for pid in children]
        for pid, status in zip(children, statuses, strict=True):
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        winners.append(sum(map(os.WIFSTOPPED, statuses)))
    assert set(winners) <= {0, 1}
    assert winners.count(1) > 10


def test_what_was_bound_before_the_one_that_failed_is_free_again(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port, path = free_port(), tmp_path / "s.sock"
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(StartError, match=r"^stats\.bind: "):
            Sockets.open(config(f"127.0.0.1:{port}", str(path), stats=taken), 3)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    with socket.create_server(("127.0.0.1", port)):
        pass
    assert not path.exists()


def test_the_port_of_the_one_before_us_is_free_at_once(opened):
    """Its connections in TIME_WAIT are still there."""
    written = config(f"127.0.0.1:{free_port()}")
    first = Sockets.open(written, 2)
    bind, sock = first.frontends["f"][0][0]
    clients = [socket.create_connection(("127.0.0.1", bind.address.port)) for _ in range(20)]
    for ((_, sock),) in first.frontends["f"]:
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
    for client in clients:
        client.close()
    first.close()
    opened(written, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the right away")
def test_a_port_that_needs_a_right():
    port = 1023
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setresuid(65534, 65534, 65534)
            Sockets.open(config(f"127.0.0.1:{port}"), 1)
        except StartError as error:
            status = 0 if "ports below 1024 need root or CAP_NET_BIND_SERVICE" in str(error) else 2
        finally:
            os._exit(status)
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (0 if first_free > port else 1)


# Unix sockets


@pytest.mark.parametrize(("written", "mode"), [(None, 0o666), (0o660, 0o660), (0o600, 0o600), (0o777, 0o777)])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_mode_is_the_one_written(opened, tmp_path, written, mode, umask):
    path = tmp_path / "s.sock"
    bind = {"address": str(path)} | ({"mode": f"{written:04o}"} if written is not None else {})
    before = os.umask(umask)
    try:
        opened(config(bind), 2)
        assert os.umask(umask) == umask, "ours is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.lstat().st_mode) == mode


def test_a_socket_left_by_a_crash_is_made_anew(opened, tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    opened(config(str(path)), 1)
    assert reaches(str(path))


def test_a_socket_in_use_is_left_alone(opened, tmp_path):
    path = tmp_path / "s.sock"
    opened(config(str(path)), 1)
    inode = path.lstat().st_ino
    with pytest.raises(StartError, match="Address already in use"):
        Sockets.open(config(str(path)), 1)
    assert path.lstat().st_ino == inode
    assert reaches(str(path))


def test_a_socket_in_use_whose_backlog_is_full_does_not_keep_us_waiting(tmp_path):
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
        for client in clients:
            client.connect_ex(path)
        with pytest.raises(StartError, match="Address already in use"):
            Sockets.open(config(path), 1)
        for client in clients:
            client.close()


def test_a_datagram_socket_in_use_is_left_alone(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(StartError, match="Address already in use"):
            Sockets.open(config(str(path)), 1)
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "symlink to a file", "symlink to a socket", "dangling symlink"])
def test_anything_else_of_that_name_is_left_alone(tmp_path, kind):
    path, other = tmp_path / "s.sock", tmp_path / "other"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    if kind == "symlink to a file":
        other.write_text("precious")
    if kind == "symlink to a socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(other))
    before = path.lstat(), sorted(tmp_path.iterdir())
    with pytest.raises(StartError, match="there is something of that name that is no socket"):
        Sockets.open(config(str(path)), 1)
    assert (path.lstat(), sorted(tmp_path.iterdir())) == before


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StartError, match=rf"No such file or directory; is {tmp_path}/none there, and may we write"):
        Sockets.open(config(str(tmp_path / "none" / "s.sock")), 1)


def test_it_is_gone_after_the_stop(tmp_path):
    path = tmp_path / "s.sock"
    sockets = Sockets.open(config(str(path)), 1)
    sockets.close()
    sockets.unlink()
    sockets.unlink()
    assert not path.exists()


def test_somebody_elses_in_its_place_stays(opened, tmp_path):
    """While we let connections finish, another copy may have started."""
    path = tmp_path / "s.sock"
    first = Sockets.open(config(str(path)), 1)
    first.close()
    opened(config(str(path)), 1)
    first.unlink()
    assert reaches(str(path))


# In the children


def test_a_child_keeps_its_own_and_no_other(opened, tmp_path):
    stats = f"127.0.0.1:{free_port()}"
    sockets = opened(config(f"127.0.0.1:{free_port()}", str(tmp_path / "s.sock"), stats=stats), 3)
    tcp = [pairs[0][1] for pairs in sockets.frontends["f"]]
    unix = sockets.frontends["f"][0][1][1]
    (page,) = sockets.stats
    sockets.keep(lambda frontend, worker: (frontend, worker) == ("f", 1), stats=False)
    assert [sock.fileno() >= 0 for sock in tcp] == [False, True, False]
    assert unix.fileno() >= 0, "all workers share it"
    assert page.fileno() == -1


def test_control_keeps_the_statistics(opened, tmp_path):
    stats = f"127.0.0.1:{free_port()}"
    sockets = opened(config(f"127.0.0.1:{free_port()}", str(tmp_path / "s.sock"), stats=stats), 2)
    sockets.keep(lambda *_: False, stats=True)
    assert {sock.fileno() for pairs in sockets.frontends["f"] for _, sock in pairs} == {-1}
    assert sockets.stats[0].fileno() >= 0


# Commands


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_for_commands_is_made_with_its_directory(opened, tmp_path, umask):
    path = tmp_path / "run" / "admin.sock"
    before = os.umask(umask)
    try:
        sockets = opened(config(f"127.0.0.1:{free_port()}", runtime={"path": str(path), "mode": "0640"}), 2)
    finally:
        os.umask(before)
    assert reaches(str(path))
    assert stat.S_IMODE(path.lstat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    sockets.close()
    sockets.unlink()
    assert not path.exists()
    # Its directory may be anybody's by now.
    assert path.parent.is_dir()


@as_root
def test_the_socket_for_commands_is_the_daemons_users(opened, tmp_path):
    path = tmp_path / "admin.sock"
    opened(config(f"127.0.0.1:{free_port()}", runtime={"path": str(path)}), 1, owner=(65534, 12345))
    found = path.lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 12345, 0o660)


def test_one_left_by_a_crash_is_made_anew_and_one_in_use_is_not(opened, tmp_path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    opened(config(f"127.0.0.1:{free_port()}", runtime={"path": str(path)}), 1)
    assert reaches(str(path))
    with pytest.raises(StartError, match=r"global\.runtime_socket: cannot bind .*in use; is another copy"):
        Sockets.open(config(f"127.0.0.1:{free_port()}", runtime={"path": str(path)}), 1)
    assert reaches(str(path))


def test_directories_above_its_own_are_not_made(tmp_path):
    path = tmp_path / "a" / "b" / "admin.sock"
    with pytest.raises(StartError, match=rf"global\.runtime_socket: cannot make {path.parent}: No such file"):
        Sockets.open(config(f"127.0.0.1:{free_port()}", runtime={"path": str(path)}), 1)


def test_the_socket_for_commands_goes_with_the_statistics(opened, tmp_path):
    for is_control in (True, False):
        runtime = {"path": str(tmp_path / f"{is_control}.sock")}
        sockets = opened(config(f"127.0.0.1:{free_port()}", runtime=runtime), 1)
        sockets.keep(lambda *_: False, stats=is_control)
        assert (sockets.runtime.fileno() >= 0) is is_control


# Over a reload


def numbers(sockets: Sockets) -> list[list[int]]:
    return [[sock.fileno() for _, sock in pairs] for pairs in sockets.frontends["f"]]


def test_what_stays_is_the_same_socket(opened, tmp_path):
    port, unix = free_port(), str(tmp_path / "s")
    first = opened(config(f"127.0.0.1:{port}", unix, stats=f"127.0.0.1:{free_port()}"), 2)
    with socket.create_connection(("127.0.0.1", port)) as early:
        second = opened(config(unix, f"127.0.0.1:{port}"), 2, before=first)
        assert numbers(second) == [list(reversed(own)) for own in numbers(first)]
        first.close(but=second)
        assert first.stats[0].fileno() == -1
        assert sum(accepted([pair for pair in pairs if not pair[0].address.path]) for pairs in
                   second.frontends["f"]) == 1  # fmt: skip
        assert early.fileno() != -1
    first.unlink()
    assert Path(unix).is_socket()


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 2), (1, 2)])
def test_with_more_workers_there_are_more_and_with_fewer_fewer(opened, before, after):
    port = free_port()
    first = opened(config(f"127.0.0.1:{port}"), before)
    second = opened(config(f"127.0.0.1:{port}"), after, before=first)
    kept = min(before, after)
    assert numbers(second)[:kept] == numbers(first)[:kept]
    first.close(but=second)
    second.settle()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    assert sum(accepted(pairs) for pairs in second.frontends["f"]) == 40
    for client in clients:
        client.close()


@pytest.mark.parametrize("mode", ["tcp", "udp"])
@pytest.mark.parametrize(("before", "after"), [("*", "127.0.0.1"), ("127.0.0.1", "*"), ("127.0.0.1", "127.0.0.2")])
@pytest.mark.parametrize("workers", [1, 2])
def test_its_own_sockets_are_not_in_the_way(opened, before, after, workers, mode):
    port = free_port()
    first = opened(config(f"{before}:{port}", mode=mode), workers)
    second = opened(config(f"{after}:{port}", mode=mode), workers, before=first)
    assert not {own for (own,) in numbers(first)} & {own for (own,) in numbers(second)}
    first.close(but=second)
    with pytest.raises(StartError):
        opened(config(f"{after}:{port}", mode=mode), workers)


def test_a_bind_that_moves_to_another_frontend_goes_on(opened):
    port = free_port()
    first = opened(config(f"127.0.0.1:{port}"), 2)
    renamed = config(f"127.0.0.1:{port}")
    renamed = renamed.model_copy(update={"frontends": {"g": renamed.frontends["f"]}})
    second = opened(renamed, 2, before=first)
    assert [pairs[0][1] for pairs in second.frontends["g"]] == [pairs[0][1] for pairs in first.frontends["f"]]


def test_what_cannot_be_bound_leaves_what_is(opened, tmp_path):
    port, more = free_port(), free_port()
    first = opened(config(f"127.0.0.1:{port}", str(tmp_path / "s")), 2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        binds = f"127.0.0.1:{port}", str(tmp_path / "s"), str(tmp_path / "t"), f"127.0.0.1:{more}"
        with pytest.raises(StartError, match="cannot bind"):
            opened(config(*binds, f"127.0.0.1:{taken.getsockname()[1]}"), 2, before=first)
    assert reaches(("127.0.0.1", port)) and reaches(str(tmp_path / "s"))
    assert not reaches(("127.0.0.1", more)) and not (tmp_path / "t").exists()


def test_what_comes_to_nothing_is_taken_back(opened, tmp_path):
    port, more = free_port(), free_port()
    first = opened(config(f"127.0.0.1:{port}", str(tmp_path / "s")), 2)
    second = opened(config(f"127.0.0.1:{port}", f"127.0.0.1:{more}", str(tmp_path / "s"), str(tmp_path / "t")), 2,
                    before=first)  # fmt: skip
    second.take_back()
    assert reaches(("127.0.0.1", port)) and reaches(str(tmp_path / "s"))
    assert not reaches(("127.0.0.1", more)) and not (tmp_path / "t").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nobody_is_reset_who_connects_while_a_bind_is_given_up(opened, host):
    """Who is in the queue is there; who comes later asks again, until it is closed by everybody, and is refused."""
    first = opened(config(f"{host}:{free_port()}"), 1)
    ((_, sock),) = first.frontends["f"][0]
    address = sock.getsockname()[:2]
    with sock.dup() as of_worker, socket.create_connection(address), socket.socket(sock.family) as late:
        first.close(but=opened(config(f"{host}:{free_port()}"), 1))
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(address)
        assert accepted([("", of_worker)]) == 1
    assert not reaches(address)


def test_who_comes_to_the_socket_of_a_worker_that_is_no_more_gets_to_another(opened):
    port = free_port()
    first = opened(config(f"127.0.0.1:{port}"), 2)
    fewer = opened(config(f"127.0.0.1:{port}"), 1, before=first)
    left = first.frontends["f"][1][0][1].dup()
    first.close(but=fewer)
    with contextlib.ExitStack() as clients:
        several = [clients.enter_context(socket.socket()) for _ in range(20)]
        for client in several:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        assert 0 < accepted(fewer.frontends["f"][0]) < 20, "these are there at once"
        assert accepted([("", left)]) == 0
        left.close()
        waiting = several
        while waiting:
            _, there, _ = select.select([], waiting, [], 10)
            assert there, "a second later"
            assert [client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for client in there] == [0] * len(there)
            waiting = [client for client in waiting if client not in there]


def test_a_name_is_bound_where_it_was_found(opened):
    port = free_port()
    first = opened(config(f"there.example:{port}"), 1, found={"there.example": "127.0.0.5"})
    assert reaches(("127.0.0.5", port))
    # It stays there.
    second = opened(config(f"there.example:{port}"), 1, found={"there.example": "127.0.0.6"}, before=first)
    assert numbers(second) == numbers(first)


def test_a_child_keeps_nothing_of_those_beside(opened):
    port, other = free_port(), free_port()
    first = opened(config(f"127.0.0.1:{port}", f"127.0.0.1:{other}"), 2)
    second = opened(config(f"127.0.0.1:{port}"), 2, before=first)
    pid = os.fork()
    if not pid:
        second.keep(lambda _, worker: worker == 0, stats=False, beside=[first])
        left = {sock.fileno() for one in (first, second) for pairs in one.frontends["f"] for _, sock in pairs} - {-1}
        os._exit(len(left) != 1)
    assert os.waitpid(pid, 0)[1] == 0


# Only a look


def test_what_can_be_bound_is_not_bound(opened, tmp_path):
    port, path = free_port(), tmp_path / "x.sock"
    before = opened(config(f"127.0.0.1:{free_port()}"), 1)
    for mode, binds in (("udp", [f"127.0.0.1:{port}"]), ("tcp", [f"127.0.0.1:{port}", str(path)])):
        try_to_bind(config(*binds, mode=mode), before, {})
        assert not path.exists()
        opened(config(*binds, mode=mode), 1)


def test_what_we_have_is_not_in_our_way(opened):
    port = free_port()
    before = opened(config(f"*:{port}"), 2)
    try_to_bind(config(f"127.0.0.1:{port}", stats=f"127.0.0.1:{free_port()}"), before, {})


@pytest.mark.parametrize(
    ("bind", "why"),
    [
        ("{tmp}/nowhere/x.sock", "is {tmp}/nowhere there"),
        ("{tmp}/file", "there is something of that name that is no socket"),
        ("192.0.2.1:{taken}", ""),
        ("127.0.0.1:{taken}", "Address already in use"),
        ("*:{taken}", "Address already in use"),
    ],
)
def test_what_cannot_be_bound_is_said(opened, tmp_path, bind, why):
    (tmp_path / "file").touch()
    before = opened(config(f"127.0.0.1:{free_port()}"), 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {"tmp": tmp_path, "taken": server.getsockname()[1]}
        wanted = config(bind.format(**given))
        if not why:
            # An address that is elsewhere now.
            try_to_bind(wanted, before, {})
            return
        with pytest.raises(StartError) as raised:
            try_to_bind(wanted, before, {})
        assert str(raised.value).startswith("frontends.f.bind: cannot bind ")
        assert why.format(**given) in str(raised.value)
