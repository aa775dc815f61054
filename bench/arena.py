"""Where the cluster's traffic is measured: a client, the servers, and between them a machine for each contestant.

All are network namespaces of `tests.lab`. Each way from the client to the servers has addresses of its own, so that no
rule of one is in another's way.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import procfs
from balancers import DNS_NAME
from rig import find_tool

from tests.lab.space import Space

__all__ = ["DNS", "HTTP", "PHP", "SERVERS", "TLS", "Arena", "Way", "cpu_ns"]

SERVERS = (2, 3, 4)
HTTP, TLS, PHP, DNS = 80, 443, 8080, 53
PAGES = Path(__file__).resolve().parents[1] / "tests" / "lab" / "files"
# What the thesis's index page says, said by nginx, which can say it as fast as no balancer can carry it.
TRIVIAL = (
    "date: $time_local\\nserver: $server_addr\\nclient: $remote_addr\\n"
    "forwarded for: $http_x_forwarded_for\\ncookies: $http_cookie\\n"
)
# As `iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE` has it.
MASQUERADED = (
    "add table ip gateway; add chain ip gateway out {{ type nat hook postrouting priority srcnat; }}; "
    "add rule ip gateway out oifname outside ip saddr {}/24 masquerade"
)
# Of each space: thousands of connections a second, each with a port and a place in conntrack of its own, must not
# run out. What is over is forgotten after seconds, and its port given out again.
LIMITS = {
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "5",
}


@dataclass(frozen=True)
class Way:
    """From the client through a machine of its own to the servers."""

    name: str
    """Lower case letters and digits."""
    number: int
    forwards: bool = False
    """As a router, which the client has a route through."""
    masquerades: bool = False
    """And what goes out: its kernel follows connections."""

    @property
    def client(self) -> str:
        return f"192.168.{self.number}.10"

    @property
    def vip(self) -> str:
        """The machine's own address on the client's side."""
        return f"192.168.{self.number}.1"

    @property
    def second_vip(self) -> str:
        """Another of them."""
        return f"192.168.{self.number}.2"

    @property
    def inside(self) -> str:
        """Its address on the servers' side."""
        return f"10.0.{self.number}.1"

    def server(self, host: int) -> str:
        return f"10.0.{self.number}.{host}"

    def servers(self, port: int) -> tuple[str, ...]:
        return tuple(f"{self.server(host)}:{port}" for host in SERVERS)


class Arena:
    """A context manager; LabError where it cannot be. `cores` are those of client and servers; None: all."""

    def __init__(self, directory: Path, ways: Iterable[Way], *, cores: Collection[int] | None = None) -> None:
        self.directory = directory
        self.ways = {way.name: way for way in ways}
        self._cores = cores
        self._exit = ExitStack()

    def __enter__(self) -> Arena:
        try:
            self._set_up()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _space(self, name: str, within: Space | None = None) -> Space:
        space = Space(name, within=within)
        self._exit.callback(space.kill)
        space.run(["ip", "link", "set", "lo", "up"])
        return space

    def _set_up(self) -> None:
        ground = self._space("ground")
        self.client, self.server = self._space("client", ground), self._space("server", ground)
        self.between = {name: self._space(name, ground) for name in self.ways}
        for name, way in self.ways.items():
            space = self.between[name]
            # What a daemon keeps in /run is not the real machine's.
            space.run(["sh", "-c", "mount -t tmpfs bench /run && mkdir -p /run/haproxy"])
            for end, far in (("outside", self.client), ("inside", self.server)):
                line = f"link add {end} netns {space.pid_within} type veth peer name {name} netns {far.pid_within}"
                ground.run(["ip", *line.split()])
            self._addresses(space, "outside", f"{way.vip}/24", f"{way.second_vip}/24")
            self._addresses(space, "inside", f"{way.inside}/24")
            self._addresses(self.client, name, f"{way.client}/24")
            self._addresses(self.server, name, *(f"{way.server(host)}/24" for host in SERVERS))
            self.server.run(["ip", "route", "add", f"192.168.{way.number}.0/24", "via", way.inside])
            if way.forwards:
                self.client.run(["ip", "route", "add", f"10.0.{way.number}.0/24", "via", way.vip])
                space.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
            if way.masquerades:
                space.run(["nft", MASQUERADED.format(way.server(0))])
        for space in (self.client, self.server, *self.between.values()):
            for key, value in LIMITS.items():
                # Not every kernel lets a namespace have its own.
                space.outcome(["sysctl", "-qw", f"{key}={value}"])

    @staticmethod
    def _addresses(space: Space, name: str, *addresses: str) -> None:
        for address in addresses:
            space.run(["ip", "address", "add", address, "dev", name])
        space.run(["ip", "link", "set", name, "up"])

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def start(self, space: Space, name: str, *command: str, cores: Collection[int] | None = None) -> Running:
        """A program that runs until the arena is no more, on these cores, or on all."""
        log = self.directory / f"{name}.log"
        process = space.start([*on_cores(cores), *command], log=str(log))
        # Called before its space is killed, and done once that is.
        self._exit.callback(lambda: (space.kill(), process.wait()))
        return Running(name, process, log)

    def ask(self, command: Sequence[str], *, takes: float) -> str:
        """Run a load at the client; what it says. LabError when it fails or takes longer than `takes` seconds."""
        return self.client.run([*on_cores(self._cores), *command], takes=takes)

    def asks_well(self, command: Sequence[str]) -> Callable[[], bool]:
        """Whether a command at the client goes well."""
        return lambda: not self.client.outcome(command).returncode

    def start_web(self, workers: int) -> None:
        """nginx: a trivial page at / by HTTP and TLS."""
        key, certificate = self.directory / "key.pem", self.directory / "certificate.pem"
        self.server.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-days", "2", "-subj", "/CN=bench", "-keyout", str(key), "-out", str(certificate)),
            ]
        )
        config = self.write("web.conf", render_web(self.directory, workers, certificate, key))
        command = (find_tool("nginx"), "-e", "stderr", "-c", str(config))
        self.start(self.server, "web", *command, cores=self._cores)

    def start_php(self) -> None:
        """Apache with PHP: pi.php, as in the cluster."""
        documents = self.directory / "www"
        documents.mkdir()
        (documents / "pi.php").write_text((PAGES / "pi.php").read_text())
        config = self.write("apache.conf", render_apache(self.directory))
        self.server.run(["sh", "-c", "mount -t tmpfs bench /run"])
        self.start(self.server, "apache", find_tool("apache2"), "-f", str(config), "-DFOREGROUND", cores=self._cores)

    def start_named(self) -> None:
        """named with one small zone."""
        self.write("bench.zone", "$TTL 60\n@ SOA @ host 1 60 60 60 60\n  NS @\n  A 127.0.0.1\n")
        self.write("queries", f"{DNS_NAME} A\n")
        config = self.write("named.conf", render_named(self.directory))
        self.start(self.server, "named", find_tool("named"), "-f", "-n", "1", "-c", str(config), cores=self._cores)


@dataclass(frozen=True)
class Running:
    """A program in a space."""

    name: str
    entering: subprocess.Popen[bytes]
    """What waits outside for the program within."""
    log: Path

    def pids(self) -> list[int]:
        """As the bench sees them; none once it has ended."""
        return [] if self.entering.poll() is not None else procfs.tree(self.entering.pid)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def on_cores(cores: Collection[int] | None) -> list[str]:
    """The command before a command that is to run there."""
    return [] if cores is None else ["taskset", "-c", ",".join(map(str, sorted(cores)))]


def cpu_ns() -> int:
    """CPU time of everything that we have started: what runs, and what has ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = (pid for pid in procfs.tree(os.getpid()) if pid != os.getpid())
    return procfs.cpu_ns(running) + round((ended.ru_utime + ended.ru_stime) * 1e9)


def render_web(directory: Path, workers: int, certificate: Path, key: Path) -> str:
    """nginx.conf: no log, connections kept for as long as the balancer likes."""
    temporary = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    return textwrap.dedent(f"""\
        user root;
        daemon off;
        worker_processes {workers};
        pid {directory}/nginx.pid;
        events {{ worker_connections 8192; }}
        http {{
            access_log off;
            {temporary} uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            keepalive_timeout 3600s;
            keepalive_requests 1000000000;
            default_type text/plain;
            server {{
                listen {HTTP} backlog=4096 reuseport;
                listen {TLS} ssl backlog=4096 reuseport;
                ssl_certificate {certificate};
                ssl_certificate_key {key};
                location / {{ return 200 "{TRIVIAL}"; }}
                location = /hello {{ return 200 "hello"; }}
            }}
        }}
        """)


def render_apache(directory: Path) -> str:
    """apache2.conf: PHP, which Debian builds for prefork; no log. A process for each request that may come at once, and
    for each connection that the balancers keep meanwhile, from the start: no more than 32 are made in a second."""
    modules = "/etc/apache2/mods-available"
    return textwrap.dedent(f"""\
        ServerRoot /etc/apache2
        ServerName bench
        PidFile {directory}/apache2.pid
        DefaultRuntimeDir /run
        Mutex default:/run
        User www-data
        Group www-data
        ErrorLog {directory}/apache-error.log
        Include {modules}/mpm_prefork.load
        Include {modules}/authz_core.load
        Include {modules}/mime.load
        IncludeOptional {modules}/php*.load
        TypesConfig /etc/mime.types
        StartServers 192
        MinSpareServers 8
        MaxSpareServers 256
        MaxRequestWorkers 256
        Listen {PHP}
        DocumentRoot {directory}/www
        <Directory {directory}/www>
            Require all granted
        </Directory>
        <FilesMatch "\\.php$">
            SetHandler application/x-httpd-php
        </FilesMatch>
        """)


def render_named(directory: Path) -> str:
    """named.conf: authoritative for one zone."""
    return textwrap.dedent(f"""\
        options {{
            directory "{directory}";
            pid-file none;
            session-keyfile none;
            recursion no;
            dnssec-validation no;
            listen-on-v6 {{ none; }};
            notify no;
            listen-on port {DNS} {{ any; }};
        }};
        controls {{ }};
        logging {{ category default {{ null; }}; }};
        zone "{DNS_NAME}" {{ type primary; file "bench.zone"; }};
        """)
