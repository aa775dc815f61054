"""DNS over UDP through the real command: dig and dnsperf in front of three bind9."""

from __future__ import annotations

import re
import subprocess
from collections import Counter

import pytest

from tests.e2e.bed.clients import dig
from tests.e2e.bed.process import until
from tests.e2e.bed.servers import program

CONFIG = """
global: {workers: 1}
frontends:
  dns: {mode: udp, bind: ["127.0.0.1:${dns}", "127.0.0.2:${dns}"], udp: {protocol: dns}, default_backend: names}
  dns-tcp: {mode: tcp, bind: "127.0.0.1:${dns}", default_backend: names}
backends:
  names:
    check: {type: dns, query: lab.local, qtype: SOA, interval: 500ms}
    servers:
      dns1: {address: "127.0.0.1:${dns1}"}
      dns2: {address: "127.0.0.1:${dns2}"}
      dns3: {address: "127.0.0.1:${dns3}"}
"""
ALL_UP = ("names/dns1", "names/dns2", "names/dns3")


@pytest.fixture
def running(balancer, names):
    running = balancer(CONFIG, **{server.name: server.port for server in names})
    running.wait_until_up(*ALL_UP)
    return running


@pytest.fixture
def port(running):
    return running.ports["dns"]


def who_answers(port):
    return dig(port, "server.lab.local", "TXT", "+short").strip().strip('"')


def test_each_query_goes_to_the_next_server(port):
    answers = [who_answers(port) for _ in range(6)]
    assert answers[:3] == answers[3:]
    assert sorted(answers[:3]) == ["dns1", "dns2", "dns3"]


def test_an_address_and_its_name(port):
    assert dig(port, "cluster3.lab.local", "A", "+short") == "10.0.100.3\n"
    assert dig(port, "-x", "10.0.100.3", "+short") == "cluster3.lab.local.\n"


def test_a_name_that_does_not_exist(port):
    answer = dig(port, "nothing.lab.local")
    assert "status: NXDOMAIN" in answer
    assert re.search(r"lab\.local\.\s+\d+\s+IN\s+SOA", answer)


def test_a_zone_the_servers_do_not_have(port):
    assert "status: REFUSED" in dig(port, "example.com")


def test_a_large_answer_passes_whole_with_edns(port):
    answer = dig(port, "big.lab.local", "TXT", "+bufsize=4096", "+ignore", "+notcp")
    assert re.search(r";; flags: qr aa", answer) and "tc" not in re.findall(r"flags: ([^;]*);", answer)[0].split()
    assert len(re.findall(r"(?m)^big\.lab\.local\.", answer)) == 12
    assert int(re.findall(r"MSG SIZE +rcvd: (\d+)", answer)[0]) > 3000


def test_without_edns_it_is_truncated_and_dig_comes_again_by_tcp(port):
    assert "tc" in re.findall(r"flags: ([^;]*);", dig(port, "big.lab.local", "TXT", "+noedns", "+ignore"))[0].split()
    answer = dig(port, "big.lab.local", "TXT", "+noedns")
    assert len(re.findall(r"(?m)^big\.lab\.local\.", answer)) == 12
    assert "(TCP)" in answer


def test_the_answer_comes_from_the_address_that_was_asked(port):
    """dig itself says `reply from unexpected source` otherwise."""
    answer = subprocess.run(
        [program("dig"), "@127.0.0.2", "-p", str(port), "cluster2.lab.local", "+short", "+tries=1"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.stdout == "10.0.100.2\n"
    assert "unexpected source" not in answer.stderr + answer.stdout


def test_a_killed_server_costs_no_answer_and_leaves_the_list(running, port, names):
    names[1].kill()
    # At once: the kernel says that nobody listens there, and the query goes to another server.
    assert "dns2" not in Counter(who_answers(port) for _ in range(6))
    running.wait_for_line("Server names/dns2 is DOWN")
    names[1].start()
    running.wait_for_line("Server names/dns2 is UP")
    until(lambda: who_answers(port) == "dns2", "dns2 answers again")


def test_a_silent_server_costs_a_wait_and_no_answer(running, port, names):
    names[2].pause()
    answers = [who_answers(port) for _ in range(3)]
    assert set(answers) == {"dns1", "dns2"}
    assert "Layer" in running.wait_for_line("Server names/dns3 is DOWN")


def test_dnsperf_loses_nothing(port, tmp_path):
    (tmp_path / "queries").write_text("".join(f"cluster{n}.lab.local A\n" for n in range(2, 8)))
    command = [program("dnsperf"), "-s", "127.0.0.1", "-p", str(port), "-d", str(tmp_path / "queries"),
               "-l", "2", "-c", "20", "-q", "100"]  # fmt: skip
    report = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert re.search(r"Queries lost: +0 ", report), report
    assert re.search(r"Response codes: +NOERROR \d+ \(100\.00%\)", report), report
