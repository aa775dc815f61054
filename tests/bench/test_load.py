"""What the load programs print, as they print it."""

from __future__ import annotations

import load
import pytest
from load import Tally
from rig import BenchError

WRK = """\
Running 1s test @ http://127.0.0.1:24524/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   496.02us  111.38us   3.06ms   91.61%
    Req/Sec    64.21k     2.08k   66.42k    80.00%
  63868 requests in 1.00s, 13.40MB read
Requests/sec:  63790.42

{"requests": 63868, "microseconds": 1001217, "p50": 461, "p99": 752, "connect": 0, "read": 0, "write": 0, @errors@}
"""
DNSPERF = """\
Statistics:

  Queries sent:         83300
  Queries completed:    83297 (100.00%)
  Queries lost:         3 (0.00%)

  Response codes:       NOERROR 83290 (99.99%), SERVFAIL 7 (0.01%)
  Average packet size:  request 28, response 44
  Run time (s):         1.000872
  Queries per second:   83224.429098

  Average Latency (s):  0.000993 (min 0.000041, max 0.004402)
  Latency StdDev (s):   0.000137
"""


def test_wrk() -> None:
    assert load.parse_wrk(WRK.replace("@errors@", '"status": 0, "timeout": 0')) == Tally(63868, 0, 1.001217, 461, 752)


def test_wrk_counts_an_answer_of_503_among_its_requests_and_we_do_not() -> None:
    tally = load.parse_wrk(WRK.replace("@errors@", '"status": 68, "timeout": 2'))
    assert (tally.requests, tally.failed) == (63800, 70)


def test_wrk_that_could_not_connect() -> None:
    with pytest.raises(BenchError, match="no report"):
        load.parse_wrk("unable to connect to 127.0.0.1:24524 Connection refused\n")


def test_dnsperf_loses_what_is_lost_and_what_is_no_answer() -> None:
    assert load.parse_dnsperf(DNSPERF) == Tally(83290, 10, 1.000872, 993)


def test_dnsperf_without_any_answer() -> None:
    text = DNSPERF.replace("83297 (", "0 (").replace("NOERROR 83290 (99.99%), SERVFAIL 7 (0.01%)", "")
    assert load.parse_dnsperf(text).requests == 0


def test_dnsperf_that_said_something_else() -> None:
    with pytest.raises(BenchError, match="Queries completed"):
        load.parse_dnsperf("Warning: failed to bind\n")


def log_of(count: int, *, every: int, took: int = 200, status: int = 200) -> str:
    """h2load's log of requests in even steps (us), a second and a half before and after those that count included."""
    return "".join(f"{10**15 + number * every}\t{status}\t{took}\n" for number in range(count))


AB = """\
Concurrency Level:      6
Time taken for tests:   0.184 seconds
Complete requests:      1000
Failed requests:        0
Total transferred:      290000 bytes
Requests per second:    5434.78 [#/sec] (mean)
Time per request:       1.104 [ms] (mean)
Time per request:       0.184 [ms] (mean, across all concurrent requests)

Percentage of the requests served within a certain time (ms)
  50%      1
  66%      1
  99%      4
 100%      5 (longest request)
"""


def test_ab() -> None:
    assert load.parse_ab(AB) == Tally(1000, 0, 0.184, 1000.0, 4000.0)


def test_ab_with_answers_that_are_none() -> None:
    wrong = "Failed requests:        3\n   (Connect: 0, Receive: 1, Length: 0, Exceptions: 2)\n"
    wrong += "Non-2xx responses:      7\nWrite errors:           2\n"
    text = AB.replace("Failed requests:        0\n", wrong)
    tally = load.parse_ab(text)
    assert (tally.requests, tally.failed) == (988, 12)


def test_ab_that_completed_nothing_in_its_time() -> None:
    text = "Time taken for tests:   1.002 seconds\nComplete requests:      0\nFailed requests:        0\n"
    assert load.parse_ab(text) == Tally(0, 0, 1.002, 0.0, None)


def test_ab_that_could_not_connect() -> None:
    with pytest.raises(BenchError, match="Complete requests"):
        load.parse_ab("apr_socket_connect(): Connection refused (111)\n")


def test_h2load_counts_what_was_sent_while_all_clients_were_there() -> None:
    pace = load.parse_h2load(log_of(5000, every=1000), period=0.4)
    assert (round(pace.rate), pace.failed, pace.p50_us, pace.p99_us, pace.late) == (1000, 0, 200, 200, 0.0)


def test_h2load_with_slow_answers() -> None:
    lines = log_of(5000, every=1000).splitlines(keepends=True)
    lines[2500:2600] = log_of(1, every=1, took=500_000).replace(str(10**15), str(10**15 + 2_500_000)) * 100
    pace = load.parse_h2load("".join(lines), period=0.4)
    assert pace.p50_us == 200
    assert pace.p99_us == pace.p999_us == 500_000
    assert pace.late == pytest.approx(100 / 2800, rel=0.01)


def test_h2load_with_failures() -> None:
    assert load.parse_h2load(log_of(5000, every=1000, status=-1), period=0.4).failed == 5000


@pytest.mark.parametrize(("text", "why"), [("", "logged nothing"), (log_of(500, every=1000), "before all its clients")])
def test_h2load_that_was_done_too_soon(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        load.parse_h2load(text, period=0.4)
