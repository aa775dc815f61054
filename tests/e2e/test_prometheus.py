"""The metrics beside those of HAProxy's exporter, and as a real Prometheus takes them in."""

from __future__ import annotations

import http.server
import json
import math
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from balancer.observe import metrics
from balancer.observe.snapshot import Process, Rate, Snapshot
from balancer.pool.facts import COUNTERS
from tests.e2e.bed.clients import talk
from tests.e2e.bed.process import free_port, until
from tests.e2e.bed.servers import Server, program
from tests.observe.conftest import two_routers

CONFIG_FOLDER = Path(__file__).parents[2] / "config"
PROMETHEUS = CONFIG_FOLDER / "prometheus"

CONFIG = """
global: {workers: 1, maxconn: 500}
frontends:
  ft:
    mode: http
    bind: "127.0.0.1:${http}"
    default_backend: web
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
  limited: {mode: tcp, bind: "127.0.0.1:${limited}", default_backend: plain, limits: {connections: 100}}
backends:
  web:
    cookie: {name: SERVERID}
    check: {type: tcp, interval: 300ms}
    servers:
      web1: {address: "127.0.0.1:${web1}", cookie: c1, maxconn: 20, maxqueue: 5, weight: 10}
      web2: {address: "127.0.0.1:${web2}", cookie: c2, backup: true}
      gone: {address: "127.0.0.1:${gone}", cookie: c3}
  plain:
    servers:
      web3: {address: "127.0.0.1:${web3}"}
"""
HAPROXY = """
global
  maxconn 500
frontend ft
  mode http
  bind 127.0.0.1:{http}
  default_backend web
frontend raw
  mode tcp
  bind 127.0.0.1:{tcp}
  default_backend plain
frontend limited
  mode tcp
  bind 127.0.0.1:{limited}
  stick-table type ip size 100k expire 1m store conn_cur
  tcp-request connection track-sc0 src
  default_backend plain
frontend met
  mode http
  bind 127.0.0.1:{metrics}
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend web
  mode http
  cookie SERVERID insert
  server web1 127.0.0.1:{web1} check inter 300ms cookie c1 maxconn 20 maxqueue 5 weight 10
  server web2 127.0.0.1:{web2} check inter 300ms cookie c2 backup
  server gone 127.0.0.1:{gone} check inter 300ms cookie c3
backend plain
  mode tcp
  server web3 127.0.0.1:{web3}
"""
# No such thing here: zlib's memory, a limit of idle connections; not known: how idle it is.
HAS_NOT = {
    "haproxy_process_current_zlib_memory", "haproxy_process_max_zlib_memory", "haproxy_process_idle_time_percent",
    "haproxy_server_idle_connections_limit", "haproxy_server_current_throttle",
}  # fmt: skip

Labels = frozenset[tuple[str, str]]


class Exposition:
    """What an exporter says. Lines are taken apart here, for prometheus_client mends what is missing."""

    def __init__(self, text: str) -> None:
        self.types: dict[str, str] = {}
        self.values: dict[str, dict[Labels, float]] = defaultdict(dict)
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, type_ = line.split()
                self.types[name] = type_
            elif line and not line.startswith("#"):
                series, _, number = line.rpartition(" ")
                name, _, labels = series.rstrip("}").partition("{")
                pairs = (pair.partition("=") for pair in labels.split(",") if pair)
                found = frozenset((key, value.strip('"')) for key, _, value in pairs)
                # NaN: HAProxy's word for what there is not.
                if number.lower() != "nan" and ("proxy", "met") not in found:
                    self.values[name][found] = float(number)

    def of(self, name: str, **labels: str) -> float:
        return self.values[name][frozenset(labels.items())]


@pytest.fixture
def running(balancer, web):
    servers = {"web1": web[0].port, "web2": web[1].port, "web3": web[2].port, "gone": free_port()}
    running = balancer(CONFIG, **servers)
    running.servers = servers
    return running


def send(ports: Mapping[str, int]) -> None:
    """Seven requests and one that is none, four TCP sessions."""
    for path in ("/", "/", "/missing"):
        talk(ports["http"], f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    talk(ports["http"], b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    talk(ports["http"], b"GET / HTTP/1.1\r\nHost: x\r\nCookie: SERVERID=c2\r\nConnection: close\r\n\r\n")
    talk(ports["http"], b"nonsense\r\n\r\n")
    for _ in range(4):
        talk(ports["tcp"], b"GET / HTTP/1.0\r\n\r\n")


IS_GONE = 'haproxy_server_status{proxy="web",server="gone",state="DOWN"} 1'
IS_UP = 'haproxy_server_status{proxy="web",server="web1",state="UP"} 1'


def test_it_is_haproxys_exporter(running, haproxy) -> None:
    """Names, types, labels; and the same traffic gives the same numbers, which are those of what was sent."""
    ports = {name: free_port() for name in ("http", "tcp", "limited", "metrics")}
    haproxy(HAPROXY.format(**ports, **running.servers), ports=tuple(ports.values()))

    def theirs() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=20) as response:
            return str(response.read().decode())

    for say in (theirs, running.stats):
        until(lambda say=say: IS_GONE in (text := say()) and IS_UP in text, "the checks are through")
    for there in (running.ports, ports):
        send(there)
    until(lambda: running.metric("haproxy_backend_sessions_total", proxy="plain") == 4, "all of it is counted")
    until(lambda: running.metric("haproxy_frontend_current_sessions") == 0, "all of it is over")
    ours, others = Exposition(running.stats()), Exposition(theirs())
    _compare_names(ours, others)
    _compare_numbers(ours, others)
    _look_at_histograms(ours)


def _compare_names(ours: Exposition, theirs: Exposition) -> None:
    said = {name: type_ for name, type_ in theirs.types.items() if name not in HAS_NOT}
    assert {name: ours.types.get(name) for name in said} == said
    for name in said:
        if name.startswith("haproxy_sticktable"):
            assert {labels - {("type", "ip")} for labels in theirs.values[name]} == {frozenset({("name", "limited")})}
            assert {labels - {("type", "ipv6")} for labels in ours.values[name]} == {frozenset({("name", "limited")})}
        elif name != "haproxy_process_build_info":
            assert theirs.values[name].keys() <= ours.values[name].keys(), name
    more = {name for name in ours.types if name.startswith("haproxy_")} - theirs.types.keys()
    # Those of later releases.
    assert more == {
        "haproxy_process_node", "haproxy_process_description", "haproxy_server_active", "haproxy_server_backup",
        "haproxy_server_http_requests_total", "haproxy_frontend_current_session_rate",
        "haproxy_backend_current_session_rate", "haproxy_server_current_session_rate",
    }  # fmt: skip


# Measured, or another way of working: times, octets of heads, connections that are kept, who is there at one moment.
OTHERWISE = re.compile(
    r"haproxy_process_.*|.*_seconds(_total)?|.*_bytes_(in|out)_total|.*rate(_max)?|.*_connections_current|"
    r"haproxy_(backend|server)_connection_(attempts|reuses)_total|.*_max_sessions|haproxy_server_check_failures_total|"
    r"haproxy_frontend_intercepted_requests_total|haproxy_sticktable_.*"
)


def _compare_numbers(ours: Exposition, theirs: Exposition) -> None:
    compared = [name for name in theirs.types if name not in HAS_NOT and not OTHERWISE.fullmatch(name)]
    for name in compared:
        told = {labels: ours.values[name][labels] for labels in theirs.values[name]}
        assert told == theirs.values[name], name
    assert len(compared) > 70
    # And they are those of what was sent.
    assert ours.of("haproxy_frontend_http_requests_total", proxy="ft") == 7
    assert ours.of("haproxy_frontend_request_errors_total", proxy="ft") == 1
    assert ours.of("haproxy_frontend_http_responses_total", proxy="ft", code="2xx") == 6
    assert ours.of("haproxy_server_loadbalanced_total", proxy="web", server="web1") == 5
    assert ours.of("haproxy_server_sessions_total", proxy="web", server="web2") == 1, "the one with its cookie"
    assert ours.of("haproxy_server_sessions_total", proxy="plain", server="web3") == 4
    assert ours.of("haproxy_server_status", proxy="web", server="gone", state="DOWN") == 1
    assert ours.of("haproxy_server_check_status", proxy="web", server="gone", state="L4CON") == 1


def _look_at_histograms(ours: Exposition) -> None:
    for name, of_web, of_plain in (("connect", 2, 4), ("response", 6, 0), ("total", 6, 4)):
        family = f"pybalancer_backend_{name}_seconds"
        for proxy, number in (("web", of_web), ("plain", of_plain)):
            assert ours.of(f"{family}_bucket", proxy=proxy, le="+Inf") == number, (family, proxy)
            assert ours.of(f"{family}_count", proxy=proxy) == number
            buckets = [
                (float(dict(labels)["le"]), value)
                for labels, value in ours.values[f"{family}_bucket"].items()
                if ("proxy", proxy) in labels
            ]
            assert [value for _, value in sorted(buckets)] == sorted(value for _, value in buckets)


# A real Prometheus


class Prometheus(Server):
    """Scrapes with the configuration that comes along, but soon and from here."""

    def __init__(self, folder: Path, targets: Sequence[str], login: dict[str, str]) -> None:
        super().__init__("prometheus", folder)
        self.ports = (free_port(),)
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
        (job,) = config["scrape_configs"]
        job |= {"basic_auth": login, "static_configs": [{"targets": list(targets)}]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "alerts.yml").write_text((PROMETHEUS / "alerts.yml").read_text())

    def command(self) -> Sequence[str | Path]:
        return (
            program("prometheus"), f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.ports[0]}",
            "--log.level=warn",
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        until(self.is_ready, "its database is open")

    def is_ready(self) -> bool:
        """It listens before that, and answers 503."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}/-/ready", timeout=20):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.ports[0]}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> float:
        """Of a query that gives one number; NaN where it gives none yet."""
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else math.nan


@pytest.fixture
def routers() -> Iterator[str]:
    """A target that tells of virtual routers, for which this test has no network."""
    standing = two_routers()
    process = Process("1", "n", "d", 1, 0.0, workers=1, maxconn=1)
    snapshot = Snapshot(standing.at, process, dict.fromkeys(COUNTERS, 0), Rate(), (), (), standing)
    text = metrics.render(snapshot, type_=metrics.OPEN_METRICS)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", metrics.OPEN_METRICS)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_real_prometheus_takes_it_in_and_the_dashboard_finds_its_metrics(running, routers, ground, tmp_path) -> None:
    until(lambda: IS_GONE in (text := running.stats()) and IS_UP in text, "the checks are through")
    send(running.ports)
    stats = running.config["stats"]
    ((user, password),) = stats["users"].items()
    login = {"username": user, "password": password}
    prometheus = Prometheus(ground / tmp_path.name, [stats["bind"], routers], login)
    prometheus.start()
    try:
        http = '{proxy="ft"}'
        until(lambda: prometheus.value(f"haproxy_frontend_http_requests_total{http}") == 7, "the first scrape")

        def health() -> list[str]:
            return [target["health"] for target in prometheus.ask("targets")["activeTargets"]]

        until(lambda: health() == ["up", "up"], "both are scraped")
        assert prometheus.value('haproxy_server_sessions_total{server="web2"}') == 1
        for _ in range(5):
            talk(running.ports["http"], b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        until(lambda: prometheus.value(f"increase(haproxy_frontend_http_requests_total{http}[20s])") > 4, "an increase")
        quantile = 'histogram_quantile(0.95, rate(pybalancer_backend_total_seconds_bucket{proxy="web"}[20s]))'
        until(lambda: 0 < prometheus.value(quantile) < 20, "a quantile of the histogram")
        # Types and units come with OpenMetrics.
        about = prometheus.ask("targets/metadata", metric="haproxy_server_check_duration_seconds")
        assert {(each["type"], each["unit"]) for each in about} == {("gauge", "seconds")}
        _look_at_the_dashboard(prometheus)
        alerts = {rule["name"]: rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}
        assert {rule["health"] for rule in alerts.values()} <= {"ok", "unknown"}, alerts
        found = {alert["labels"].get("server") for alert in alerts["ServerDown"]["alerts"]}
        assert found == {"gone"}, "it is pending"
    finally:
        prometheus.end()


# Nothing of these was sent, or it needs more than one scrape with a change in it.
_MAY_BE_EMPTY = ("cache", "comp_bytes", "changes(", "check_failures")


def _look_at_the_dashboard(prometheus: Prometheus) -> None:
    dashboard = json.loads((CONFIG_FOLDER / "grafana" / "pybalancer.json").read_text())
    queries = [each["expr"] for each in dashboard["annotations"]["list"]]
    queries += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 50
    known = set(prometheus.ask("label/__name__/values"))
    for query in queries:
        names = set(re.findall(r"\b(?:haproxy|keepalived|pybalancer)_\w+", query))
        assert names and names <= known, (query, names - known)
        filled = query.replace("$__rate_interval", "20s")
        filled = re.sub(r"\$(instance|proxy|server)\b", ".*", filled)
        assert "$" not in filled, query
        result = prometheus.ask("query", query=filled)["result"]
        assert result or any(word in query for word in _MAY_BE_EMPTY), f"nothing is found by {query}"
        for name in names:
            labels = set(re.findall(rf"{name}{{(.*?)}}", query))
            wanted = {label for each in labels for label in re.findall(r"(\w+)!?=~?", each)}
            there = {label for series in prometheus.ask("series", **{"match[]": name}) for label in series}
            assert wanted <= there, (query, name, wanted - there)
    for variable in dashboard["templating"]["list"]:
        assert variable["type"] == "datasource" or variable["query"]["query"].startswith("label_values(")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_alerts_fire_when_they_should() -> None:
    for arguments in (("check", "rules", PROMETHEUS / "alerts.yml"), ("check", "config", PROMETHEUS / "prometheus.yml"),
                      ("test", "rules", Path(__file__).with_name("alerts.yml"))):  # fmt: skip
        done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
