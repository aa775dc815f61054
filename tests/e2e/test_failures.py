"""What clients see when servers and our own processes die."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.e2e.bed.clients import Load, get
from tests.e2e.bed.configs import HTTP, HTTP_UP
from tests.e2e.bed.process import until

ALL = ("web1", "web2", "web3")


@pytest.fixture
def running(balancer, web):
    text = HTTP.replace("interval: 500ms", "interval: 500ms, fall: 3, rise: 2")
    running = balancer(text, **{server.name: server.port for server in web})
    running.wait_until_up(*HTTP_UP)
    return running


@pytest.fixture
def two_workers(balancer, web):
    running = balancer(HTTP.replace("workers: 1", "workers: 2"), **{server.name: server.port for server in web})
    running.wait_until_up(*HTTP_UP)
    return running


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "a connection each"])
def test_a_web_server_killed_under_load_fails_no_request(running, web, keep_alive):
    with Load(running.ports["http"], clients=24, keep_alive=keep_alive) as load:
        load.wait_for(600)
        assert set(load.done) == set(ALL)
        web[1].kill()
        running.wait_for_line("Server web/web2 is DOWN")
        load.wait_for(600)
    assert load.failed == []
    # Requests that web2 had begun to answer; its answers are one packet, so there is hardly ever one.
    assert len(load.cut) <= 8


def test_a_dead_server_gets_nothing_and_is_back_after_its_checks(running, web):
    web[0].kill()
    line = running.wait_for_line("Server web/web1 is DOWN")
    assert 'reason: Layer4 connection problem, info: "Connection refused"' in line
    assert "2 active and 0 backup servers left." in line
    seen = len(running.log)
    assert {get(running.ports["http"])["server"] for _ in range(6)} == {"web2", "web3"}

    web[0].start()
    line = running.wait_for_line("Server web/web1 is UP", after=seen)
    assert "3 active and 0 backup servers online." in line
    assert {get(running.ports["http"])["server"] for _ in range(6)} == set(ALL)


def test_a_server_that_accepts_and_says_nothing_is_taken_out(running, web):
    web[2].pause()
    assert "Layer7 timeout" in running.wait_for_line("Server web/web3 is DOWN")
    web[2].resume()
    running.wait_for_line("Server web/web3 is UP")


def test_with_no_server_left_the_answer_is_503_at_once(running, web):
    for server in web:
        server.kill()
    running.wait_for_line("backend web has no server available!")
    began = time.monotonic()
    with Load(running.ports["http"], clients=1) as load:
        until(lambda: len(load.failed) > 3, "answers")
    assert all(" 503 " in text for text in load.failed)
    assert time.monotonic() - began < 5
    web[0].start()
    running.wait_for_line("Server web/web1 is UP")
    assert get(running.ports["http"])["server"] == "web1"


def test_a_killed_worker_is_replaced_and_traffic_goes_on(two_workers):
    workers = two_workers.workers
    assert len(workers) == 2
    with Load(two_workers.ports["http"], clients=16, keep_alive=False) as load:
        load.wait_for(200)
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: len(now := two_workers.workers) == 2 and workers[0] not in now, "a worker in its place")
        load.wait_for(400)
    # What the dead worker had in its hands ends with it, and no more: at most each client's one request.
    assert len(load.failed) + len(load.cut) <= 16
    assert get(two_workers.ports["http"])["server"] in ALL


def test_both_workers_killed_at_once_are_replaced(two_workers):
    workers = two_workers.workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    # A connection made in between waits in the listening sockets, which the supervisor holds.
    assert get(two_workers.ports["http"])["server"] in ALL
    assert not set(workers) & set(two_workers.workers)


def test_a_killed_control_process_is_replaced_and_traffic_goes_on(two_workers, web):
    (control,) = two_workers.control
    with Load(two_workers.ports["http"], clients=16) as load:
        load.wait_for(200)
        os.kill(control, signal.SIGKILL)
        until(lambda: (now := two_workers.control) and now != [control], "a control process in its place")
        load.wait_for(400)
    assert (load.failed, load.cut) == ([], [])

    two_workers.wait_until_up(*HTTP_UP)
    web[0].kill()
    two_workers.wait_for_line("Server web/web1 is DOWN")


def test_a_killed_supervisor_leaves_nothing_behind(balancer, web):
    """Everything ends with it: a half-living daemon would hold the ports and answer with old states."""
    running = balancer(HTTP, **{server.name: server.port for server in web})
    running.expected_status = -signal.SIGKILL
    running.process.signal(signal.SIGKILL)
    running.process.wait()
    until(lambda: not running.process.children, "its children are gone")
