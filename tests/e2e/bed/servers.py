"""Real servers on loopback, each with its configuration in a folder of its own: nginx, Apache with PHP, aiohttp, bind9,
HAProxy.

They run in the foreground, as whoever runs the tests, and touch nothing of an installed service.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.bed.process import Process, free_port, is_bound

__all__ = ["Apache", "Haproxy", "Named", "Nginx", "Python", "Server", "program", "sha256"]

# Servers of Debian's packages stand in sbin, which is not on every user's path.
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
_IS_ROOT = os.geteuid() == 0


def program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found, f"{name} is not installed; tests/provision.sh says what to install"
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Server:
    """A server that can be started, ended, killed and started again on the same ports."""

    ports: tuple[int, ...] = ()
    udp = False

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        # Servers that drop root must get here, and pytest's own folders are closed to them.
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self._process: Process | None = None

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def start(self) -> None:
        assert self._process is None, f"{self.name} runs already"
        self._process = Process(self.command(), cwd=self.folder)
        self._process.wait_until(
            lambda: all(is_bound(port) and (not self.udp or is_bound(port, udp=True)) for port in self.ports),
            f"{self.name} listens on {self.ports}",
        )

    def kill(self) -> None:
        """kill -9, workers included: its connections are reset, its port refuses."""
        self.process.kill()
        self.process.end()
        self._process = None

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections are still taken by the kernel, and nobody answers."""
        for pid in (self.process.pid, *self.process.children):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (self.process.pid, *self.process.children):
            os.kill(pid, signal.SIGCONT)

    def mend(self) -> None:
        """As it was after `start`, whatever a test did to it."""
        if self._process is not None and self._process.status is not None:
            self.end()
        if self._process is None:
            self.start()
        self.resume()


_NGINX = """\
worker_processes 1;
master_process off;
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/tmp/body;
    proxy_temp_path {folder}/tmp/proxy;
    fastcgi_temp_path {folder}/tmp/fastcgi;
    uwsgi_temp_path {folder}/tmp/uwsgi;
    scgi_temp_path {folder}/tmp/scgi;
    log_format requests '$remote_addr "$request" $status "$http_cookie"';
    access_log {folder}/access.log requests;
    client_max_body_size 0;
    client_header_buffer_size 16k;
    large_client_header_buffers 8 64k;
    keepalive_requests 1000000;
    sendfile on;
    tcp_nodelay on;
    default_type text/plain;
    add_header X-Server {name} always;
    server {{
        listen 127.0.0.1:{port};
        {ipv6}
        listen unix:{folder}/http.sock;
        root {folder}/files;
        location / {{
            return 200 "server: {name}
client: $remote_addr
x-forwarded-for: $http_x_forwarded_for
cookie: $http_cookie
host: $http_host
request: $request
";
        }}
        location = /health {{ access_log off; return 200 "ok\\n"; }}
        location = /no-content {{ return 204; }}
        location = /set-cookies {{
            add_header Set-Cookie "first=1; Path=/" always;
            add_header Set-Cookie "second=2; Path=/" always;
            return 200 "cookies\\n";
        }}
        location /files/ {{ alias {folder}/files/; }}
        location /kept/ {{ alias {folder}/files/; expires 60s; }}
        # About three seconds for the 300 KiB of slow/file.
        location /slow/ {{ alias {folder}/slow/; limit_rate 100k; }}
        location /upload/ {{ alias {folder}/upload/; dav_methods PUT; create_full_put_path on; access_log off; }}
    }}
    server {{
        listen 127.0.0.1:{proxy_port} proxy_protocol;
        location / {{
            return 200 "server: {name}
client: $proxy_protocol_addr:$proxy_protocol_port
for: $proxy_protocol_server_addr:$proxy_protocol_server_port
";
        }}
    }}
}}
"""


class Nginx(Server):
    """nginx: says who it is, serves files, takes uploads, understands the PROXY protocol on a port of its own."""

    def __init__(self, name: str, folder: Path, *, ipv6: bool) -> None:
        super().__init__(name, folder)
        self.port, self.proxy_port = self.ports = free_port(), free_port()
        self.socket = folder / "http.sock"
        for part in ("files", "slow", "upload", "tmp"):
            (folder / part).mkdir()
        (folder / "slow" / "file").write_bytes(os.urandom(300 * 1024))
        listen_6 = f"listen [::1]:{self.port};" if ipv6 else ""
        (folder / "nginx.conf").write_text(
            _NGINX.format(name=name, folder=folder, port=self.port, proxy_port=self.proxy_port, ipv6=listen_6)
        )

    def command(self) -> Sequence[str | Path]:
        # Left by a kill -9; nginx would not bind over it.
        self.socket.unlink(missing_ok=True)
        return program("nginx"), "-p", self.folder, "-e", "stderr", "-c", self.folder / "nginx.conf"

    @property
    def requests(self) -> list[str]:
        """Its access log: address, request line, status, cookies."""
        return (self.folder / "access.log").read_text().splitlines()


_APACHE = """\
ServerRoot {folder}
ServerName 127.0.0.1
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
Mutex default:{folder}
ErrorLog /dev/stderr
LogLevel warn
LogFormat "%r" requests
CustomLog {folder}/access.log requests
{modules}
{user}
KeepAlive On
KeepAliveTimeout 5
MaxKeepAliveRequests 0
StartServers 4
MinSpareServers 2
MaxSpareServers 16
MaxRequestWorkers 64
DocumentRoot {folder}/www
<Directory {folder}/www>
    Require all granted
    DirectoryIndex index.php
</Directory>
<FilesMatch "\\.php$">
    SetHandler application/x-httpd-php
</FilesMatch>
php_admin_value post_max_size 2G
php_admin_value enable_post_data_reading Off
php_admin_value upload_tmp_dir {folder}/tmp
php_admin_value sys_temp_dir {folder}/tmp
php_admin_value open_basedir none
{hosts}
"""
_APACHE_HOST = """\
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
    SetEnv SERVER_LABEL {name}
</VirtualHost>
"""
_INDEX_PHP = """\
<?php
header('Content-Type: text/plain');
function shown($key) { return $_SERVER[$key] ?? 'unknown'; }
echo 'server: ', shown('SERVER_LABEL'), "\\nclient: ", shown('REMOTE_ADDR'),
    "\\nx-forwarded-for: ", shown('HTTP_X_FORWARDED_FOR'), "\\ncookie: ", shown('HTTP_COOKIE'), "\\n";
"""
_HASH_PHP = """\
<?php
header('Content-Type: text/plain');
echo hash_file('sha256', 'php://input'), "\\n";
"""


class Apache(Server):
    """Apache with mod_php: one process with a virtual host for each name, a test page in each."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        super().__init__("apache", folder)
        self.ports = tuple(free_port() for _ in names)
        self.port_of = dict(zip(names, self.ports, strict=True))
        (folder / "www").mkdir()
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o777)
        (folder / "www" / "index.php").write_text(_INDEX_PHP)
        (folder / "www" / "hash.php").write_text(_HASH_PHP)
        (folder / "apache.conf").write_text(
            _APACHE.format(
                folder=folder,
                modules="\n".join(_apache_modules()),
                # Apache does not serve as root, whoever starts it.
                user="User www-data\nGroup www-data" if _IS_ROOT else "",
                hosts="\n".join(_APACHE_HOST.format(name=name, port=port) for name, port in self.port_of.items()),
            )
        )

    @property
    def requests(self) -> list[str]:
        """Its access log: request lines."""
        return (self.folder / "access.log").read_text().splitlines()

    def command(self) -> Sequence[str | Path]:
        return program("apache2"), "-d", self.folder, "-f", self.folder / "apache.conf", "-DFOREGROUND"


def _apache_modules() -> list[str]:
    folder = Path("/usr/lib/apache2/modules")
    php = sorted(folder.glob("libphp*.so"))
    assert php, "mod_php is not installed; tests/provision.sh says what to install"
    # PHP 7's module has its major version in its name.
    php_module = "php7_module" if php[-1].name.startswith("libphp7") else "php_module"
    modules = {"mpm_prefork": "mpm_prefork_module", "authz_core": "authz_core_module", "dir": "dir_module",
               "mime": "mime_module", "env": "env_module"}  # fmt: skip
    lines = [f"LoadModule {name} {folder}/mod_{file}.so" for file, name in modules.items()]
    return [*lines, f"LoadModule {php_module} {php[-1]}", "TypesConfig /dev/null"]


_PYTHON = """\
import asyncio
import sys

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger


class Log(AbstractAccessLogger):
    def log(self, request, response, time):
        with open(sys.argv[2], "a") as file:
            # What could not be read has the method UNKNOWN.
            print(request.method, request._message.path, file=file)


async def answer(request):
    body = await request.read()
    return web.Response(text=f"request: {request.method} {request._message.path}\\nbody: {len(body)}\\n")


async def main():
    runner = web.ServerRunner(web.Server(answer, access_log_class=Log))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


asyncio.run(main())
"""


class Python(Server):
    """aiohttp's web server: says what it was asked, and how long the body was."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        (self.port,) = self.ports = (free_port(),)
        (folder / "server.py").write_text(_PYTHON)
        self._log = folder / "access.log"
        self._log.touch()

    @property
    def requests(self) -> list[str]:
        """Its access log: method and target."""
        return self._log.read_text().splitlines()

    def command(self) -> Sequence[str | Path]:
        return sys.executable, self.folder / "server.py", str(self.port), self._log


_NAMED = """\
options {{
    directory "{folder}";
    pid-file "{folder}/named.pid";
    session-keyfile "{folder}/session.key";
    managed-keys-directory "{folder}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    edns-udp-size 4096;
    max-udp-size 4096;
    minimal-responses yes;
}};
controls {{ }};
zone "lab.local" {{ type master; file "{folder}/lab.local.zone"; }};
zone "100.0.10.in-addr.arpa" {{ type master; file "{folder}/reverse.zone"; }};
"""
_SOA = """\
$TTL 60
@ IN SOA ns.lab.local. hostmaster.lab.local. 1 3600 600 86400 60
@ IN NS ns.lab.local.
"""


class Named(Server):
    """bind9 with the zone lab.local and its reverse; `server.lab.local TXT` is its name, `big` needs EDNS or TCP."""

    udp = True

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        (self.port,) = self.ports = (free_port(),)
        hosts = {f"cluster{n}": f"10.0.100.{n}" for n in range(2, 8)}
        # 12 strings of 250 octets: about 3 KiB, more than 512 and less than 4096.
        big = "\n".join(f'big IN TXT "{n:02d}{"x" * 248}"' for n in range(12))
        (folder / "named.conf").write_text(_NAMED.format(folder=folder, port=self.port))
        (folder / "lab.local.zone").write_text(
            _SOA
            + "ns IN A 10.0.100.200\n"
            + f'server IN TXT "{name}"\n{big}\n'
            + "".join(f"{host} IN A {address}\n" for host, address in hosts.items())
        )
        (folder / "reverse.zone").write_text(
            _SOA + "".join(f"{a.rpartition('.')[2]} IN PTR {host}.lab.local.\n" for host, a in hosts.items())
        )
        # AppArmor confines /usr/sbin/named to the folders of the installed service.
        self._binary = folder / "named"
        shutil.copy(program("named"), self._binary)

    def command(self) -> Sequence[str | Path]:
        return self._binary, "-g", "-4", "-n", "1", "-c", self.folder / "named.conf"


class Haproxy(Server):
    """HAProxy with the given frontends and backends: the second opinion on a protocol."""

    def __init__(self, name: str, folder: Path, text: str, *, ports: Sequence[int]) -> None:
        super().__init__(name, folder)
        self.ports = tuple(ports)
        (folder / "haproxy.cfg").write_text(
            "defaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n" + text
        )

    def command(self) -> Sequence[str | Path]:
        return program("haproxy"), "-db", "-f", self.folder / "haproxy.cfg"
