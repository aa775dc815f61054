"""What the balancers stand in front of: nginx for HTTP, BIND's named for DNS, each one process on three ports."""

from __future__ import annotations

import os
import socket
import struct
import textwrap
from collections.abc import Sequence
from pathlib import Path

from balancers import DNS_NAME
from rig import LOAD_CORE, Process, Rig, find_tool, free_port, wait_for

__all__ = ["BIG_BODY", "ask_dns", "fetch", "start_many", "start_named", "start_nginx"]

PORTS = 3
BIG_BODY = 1 << 30
START_WITHIN = 10.0
MANY = 5000


def start_nginx(rig: Rig) -> tuple[Process, tuple[int, ...]]:
    """nginx with a five octet answer at /, bodies at /64k, /1m and /big (1 GiB), at /seen what it sees of a request,
    and at /upload an answer once it has read the whole request."""
    program = find_tool("nginx")
    ports = tuple(free_port() for _ in range(PORTS))
    for name, size in (("64k", 1 << 16), ("1m", 1 << 20), ("big", BIG_BODY)):
        with (rig.directory / name).open("wb") as file:
            file.truncate(size)  # a hole: it costs no disk
    addresses = [f"127.0.0.1:{port}" for port in ports]
    config = rig.write("nginx.conf", render_nginx(addresses, rig.directory, root=os.geteuid() == 0))
    process = rig.start("nginx", [program, "-p", str(rig.directory), "-e", "stderr", "-c", str(config)], core=LOAD_CORE)

    def serves() -> bool:
        process.require_alive()
        return all(fetch(port) is not None for port in ports)

    wait_for("nginx serves", serves, within=START_WITHIN)
    return process, ports


def start_many(rig: Rig) -> tuple[str, ...]:
    """nginx on so many addresses of the loopback network, all of which answer as one: each is checked by itself."""
    port, directory = free_port(), rig.directory / "many"
    directory.mkdir()
    addresses = tuple(f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}:{port}" for number in range(MANY))
    config = directory / "nginx.conf"
    config.write_text(render_nginx(addresses, directory, root=os.geteuid() == 0))
    command = [find_tool("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(config)]
    process = rig.start("nginx-many", command, core=LOAD_CORE)

    def serves() -> bool:
        process.require_alive()
        return fetch(port, host=addresses[-1].partition(":")[0]) is not None

    wait_for("nginx serves on many addresses", serves, within=START_WITHIN)
    return addresses


def start_named(rig: Rig) -> tuple[int, ...]:
    """named with one small zone of its own and nothing else."""
    program = find_tool("named")
    ports = tuple(free_port() for _ in range(PORTS))
    rig.write("bench.zone", "$TTL 60\n@ SOA @ host 1 60 60 60 60\n  NS @\n  A 127.0.0.1\n")
    config = rig.write("named.conf", render_named(ports, rig.directory))
    process = rig.start("named", [program, "-f", "-n", "1", "-c", str(config)], core=LOAD_CORE)

    def serves() -> bool:
        process.require_alive()
        return all(ask_dns(port) for port in ports)

    wait_for("named serves", serves, within=START_WITHIN)
    return ports


def render_nginx(addresses: Sequence[str], directory: Path, *, root: bool) -> str:
    """nginx.conf: no log, connections kept for as long as the balancer likes."""
    listen = " ".join(f"listen {address} backlog=4096;" for address in addresses)
    temporary = " ".join(f"{kind}_temp_path {directory}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    return textwrap.dedent(f"""\
        {"user root;" if root else ""}
        daemon off;
        worker_processes 1;
        pid {directory}/nginx.pid;
        events {{ worker_connections {10000 + len(addresses)}; }}
        http {{
            access_log off;
            {temporary} uwsgi_temp_path {directory}/nginx-uwsgi; scgi_temp_path {directory}/nginx-scgi;
            keepalive_timeout 3600s;
            keepalive_requests 1000000000;
            client_max_body_size 0;
            sendfile on;
            default_type text/plain;
            server {{
                {listen}
                location = / {{ return 200 "hello"; }}
                location = /seen {{ return 200 "$server_addr:$server_port,$http_x_forwarded_for"; }}
                location ~ ^/(64k|1m|big)$ {{ root {directory}; }}
                # `return` answers before the body is read; a request to another server is made after that.
                location = /upload {{
                    proxy_pass http://unix:{directory}/read.sock;
                    proxy_pass_request_body off;
                    proxy_set_header Content-Length "";
                    client_body_buffer_size 2m;
                }}
            }}
            server {{
                listen unix:{directory}/read.sock;
                location / {{ return 200 "hello"; }}
            }}
        }}
        """)


def render_named(ports: Sequence[int], directory: Path) -> str:
    """named.conf: authoritative for one zone, no control channel, no recursion, loopback only."""
    listen = "\n".join(f"    listen-on port {port} {{ 127.0.0.1; }};" for port in ports)
    return textwrap.dedent(f"""\
        options {{
            directory "{directory}";
            pid-file none;
            session-keyfile none;
            recursion no;
            dnssec-validation no;
            listen-on-v6 {{ none; }};
            notify no;
        @listen@
        }};
        controls {{ }};
        logging {{ category default {{ null; }}; }};
        zone "{DNS_NAME}" {{ type primary; file "bench.zone"; }};
        """).replace("@listen@", listen)


def fetch(port: int, path: str = "/", *, host: str = "127.0.0.1", timeout: float = 2.0) -> tuple[str, str] | None:
    """Head and body of a GET on a connection of its own, read to its end; None if it was refused or cut short.

    The request says `Connection: close`: an answer that does not end with the connection counts as none.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(request)
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        return None
    head, blank, body = answer.decode("latin-1").partition("\r\n\r\n")
    return (head, body) if blank and head.startswith("HTTP/1.1 200 ") else None


def ask_dns(port: int, *, timeout: float = 1.0) -> bool:
    """Whether a query for our zone's address gets its one answer."""
    labels = b"".join(bytes([len(label)]) + label for label in DNS_NAME.encode().split(b"."))
    query = struct.pack("!6H", 0x1234, 0, 1, 0, 0, 0) + labels + b"\x00" + struct.pack("!2H", 1, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect(("127.0.0.1", port))
        try:
            client.send(query)
            reply = client.recv(4096)
        except OSError:
            return False
    # id, a response (QR) of rcode 0, one question, one answer: RFC 1035 section 4.1.1
    return (
        len(reply) > 12
        and reply[:2] == query[:2]
        and reply[2] & 0x80 == 0x80
        and reply[3] & 0x0F == 0
        and reply[4:8] == b"\x00\x01\x00\x01"
    )
