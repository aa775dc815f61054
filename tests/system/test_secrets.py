"""What is to be known to the daemon and to root alone, and who of its processes may do what."""

from __future__ import annotations

import base64
import re
import time

import pytest

from tests import certificates
from tests.lab.space import Space, why_not

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

PLAIN, CARRIED, RULE, BEAT, VRRP = "Kumquat-Page", "Kumquat-Check", "Kumquat-Rule", "Kumquat-Beat", "Kumquat8"
NUMBER, HASHED = "8371964205", "Kumquat-Hash"
HASH = "$2b$04$1hqfYgq5hjvkb0xX78OTHe4u14QhyClmF5fOjKG2PWs9bbMjJbkXa"
SECRETS = (PLAIN, CARRIED, RULE, BEAT, VRRP, NUMBER, HASHED, HASH, HASH[7:])
CONFIG = f"""
global:
  user: nobody
  workers: 2
  maxconn: 100
  log: [{{target: stdout}}, {{target: stdout, format: json}}]
  runtime_socket: {{path: /run/pybalancer/admin.sock, level: admin}}
  state_directory: /run/state
frontends:
  f:
    mode: http
    bind: "10.9.0.1:80"
    http_request:
      - {{auth: {{file: /run/users}}, if: {{path_beg: /inside}}}}
      - {{set_header: {{Authorization: "Bearer {RULE}"}}}}
    default_backend: b
  t: {{mode: tcp, bind: "10.9.0.1:81", default_backend: b}}
backends:
  b:
    check: {{type: http, path: /, interval: 100ms, headers: {{Authorization: "Basic {CARRIED}"}}}}
    servers: {{s: {{address: "10.9.0.2:9"}}, own: {{address: "127.0.0.1:82"}}}}
stats:
  bind: "10.9.0.1:7000"
  admin: true
  metrics: /metrics
  tls: {{crt: /run/page.pem, key: /run/page.key}}
  users: {{admin: "${{PAGE}}", number: "{NUMBER}", other: {{password: "{HASH}"}}}}
vrrp:
  script_user: nobody
  heartbeat: {{bind: "10.9.0.1:1500", peers: "10.9.0.2:1500", key: {BEAT}}}
  instances:
    VI:
      interface: own
      virtual_router_id: 5
      advert_int: 1s
      authentication: {{type: pass, password: {VRRP}}}
      virtual_ipaddress: [10.9.0.9/24]
      notify: /run/notify
"""
# Each is refused, at `check` and at a reload; the secret is in it or beside what is wrong.
MISTAKES = (
    ("key: Kumquat-Beat", "key: *Kumquat-Beat "),
    (f'"{NUMBER}"', NUMBER),
    ("type: pass, password: Kumquat8", "auth_type: pass, auth_pass: Kumquat8"),
    (f'number: "{NUMBER}"', f'"{NUMBER}": 5'),
    ("admin: true", f"admin: {HASHED}"),
    ("set_header: {Authorization", "set_header: {Content-Length: 5, Authorization"),
)


@pytest.fixture
def space(tmp_path):
    made = Space("secrets")
    made.run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    for name, file in zip(("page.pem", "page.key"), certificates.make(tmp_path), strict=True):
        made.path(f"/run/{name}").write_bytes(file.read_bytes())
    made.path("/run/page.key").chmod(0o600)
    yield made
    made.kill()


def until(said, what: str, patience: float = 20.0) -> None:
    end = time.monotonic() + patience
    while not said():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_nobody_is_told_a_secret_and_no_child_has_a_right(space):
    private = [line for line in space.path("/run/page.key").read_text().splitlines() if "-" not in line]
    basic = [base64.b64encode(login.encode()).decode() for login in (f"admin:{PLAIN}", f"a:{HASHED}")]
    secrets = (*SECRETS, *private, *basic)
    told: dict[str, str] = {}

    space.path("/run/balancer.yaml").write_text(CONFIG)
    space.path("/run/users").write_text(f"a:{HASH}\n")
    space.path("/run/notify").write_text('#!/bin/sh\n{ echo "$@"; env; } >>/run/state/notified\n')
    for command in (
        "chmod 755 /run/notify", "mkdir -m 777 /run/state /run/pybalancer", "ip link add own type veth peer name other",
        "ip addr add 10.9.0.1/24 dev own", "ip addr add 10.9.0.2/24 dev other", "ip link set own up",
        "ip link set other up", "ip link set lo up",
    ):  # fmt: skip
        space.run(command.split())
    daemon = space.start(["env", f"PAGE={PLAIN}", "pybalancer", "-c", "/run/balancer.yaml"], log="/run/log")
    log = space.path("/run/log")

    def says(text: str) -> bool:
        assert daemon.poll() is None, log.read_text()
        return text in log.read_text()

    until(lambda: says("(VI) Entering MASTER STATE") and says("Server b/own is DOWN"), "it serves")
    notified = space.path("/run/state/notified")
    # The last who is: until it is executed, its process looks like a child of ours.
    until(lambda: notified.exists() and "MASTER" in notified.read_text(), "somebody was notified")

    # Who runs, and what each may do.
    supervisor, children = _processes(space)
    for pid in children:
        status = dict(re.findall(r"^(\w+):[ \t]*(.*)$", space.run(["cat", f"/proc/{pid}/status"]), re.MULTILINE))
        assert (status["Uid"].split(), status["NoNewPrivs"]) == (["65534"] * 4, "1"), status
        assert status["Groups"].split() in ([], ["65534"])
        assert all(int(status[each], 16) == 0 for each in ("CapEff", "CapPrm", "CapInh", "CapAmb")), status
        # proc(5): root's, so that nobody else of that user looks in; and no core is dumped.
        assert space.run(["stat", "-c", "%U", f"/proc/{pid}/environ"]) == "root\n"
    assert len(children) == 3

    # All that can be asked, with the right password and with wrong ones.
    for path in ("/inside", "/"):
        for login in ("", f"a:{HASHED}", "a:wrong"):
            told[f"{path} {login}"] = _get(space, f"http://10.9.0.1{path}", login)
    for path in ("/", "/;csv", "/;json", "/metrics"):
        for login in ("", f"admin:{PLAIN}", f"number:{NUMBER}", "admin:wrong"):
            told[f"page {path} {login}"] = _get(space, f"https://10.9.0.1:7000{path}", login)
    assert ",own," in told[f"page /;csv admin:{PLAIN}"] and " 200 " in told[f"page /;csv number:{NUMBER}"]
    assert " 401 " in told["page /;csv "] and " 503 " in told[f"/inside a:{HASHED}"]
    for words in (
        "status --json", "status --view haproxy", "why", "vrrp show", "drain b/s", "events --json", "overrides",
        "check -c /run/balancer.yaml",
    ):  # fmt: skip
        done = space.outcome(["env", f"PAGE={PLAIN}", "pybalancer", *words.split()])
        told[words] = done.stdout + done.stderr
    names = re.findall(r"^  (show [a-z ]+?) *[\[<:]", _ask(space, "help"), re.MULTILINE)
    assert {"show info", "show stat", "show errors", "show vrrp"} <= set(names)
    for name in sorted(set(names)):
        told[name] = _ask(space, name)
    told["show sess all"] = _ask(space, "show sess all")

    # A file that will not do, and one that will.
    for before, after in MISTAKES:
        assert before in CONFIG
        space.path("/run/wrong.yaml").write_text(CONFIG.replace(before, after, 1))
        done = space.outcome(["env", f"PAGE={PLAIN}", "pybalancer", "check", "-c", "/run/wrong.yaml"])
        told[after] = done.stdout + done.stderr
        assert done.returncode == 1, (after, told[after])
    told["unset"] = str(space.outcome(["pybalancer", "check", "-c", "/run/balancer.yaml"]))
    for text in (CONFIG.replace(*MISTAKES[0], 1), CONFIG.replace(RULE, RULE + "2").replace(CARRIED, CARRIED + "2")):
        so_far = log.read_text().count("reload")
        space.path("/run/balancer.yaml").write_text(text)
        space.run(["kill", "-HUP", str(supervisor)])
        until(lambda n=so_far: log.read_text().count("reload") >= n + 2, "it has looked at the file")
    told["ps"] = space.run(["ps", "-Ao", "args,comm"])
    space.run(["kill", str(supervisor)])
    assert daemon.wait(20) == 0, log.read_text()

    told["log"] = log.read_text()
    told["state"] = space.run(["sh", "-c", "find /run/state -type f | xargs cat"])
    told["names"] = space.run(["find", "/run"])
    assert "MASTER" in told["state"] and "PATH=" in told["state"]
    assert not [(what, secret) for what, text in told.items() for secret in secrets if secret in text]


def _processes(space: Space) -> tuple[int, list[int]]:
    """The supervisor, and its children but those that run a script."""
    table = [line.split(None, 2) for line in space.run(["ps", "-Ao", "pid,ppid,args"]).splitlines()[1:]]
    ours = {int(pid): int(parent) for pid, parent, args in table if "pybalancer -c" in args}
    (supervisor,) = [pid for pid, parent in ours.items() if parent not in ours]
    return supervisor, sorted(ours.keys() - {supervisor})


def _get(space: Space, url: str, login: str) -> str:
    done = space.outcome(["curl", "-sik", "--max-time", "5", *(("-u", login) if login else ()), url])
    return done.stdout + done.stderr


def _ask(space: Space, command: str) -> str:
    ask = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/pybalancer/admin.sock'); "
        "s.sendall(sys.argv[1].encode() + b'\\n'); "
        "[sys.stdout.buffer.write(piece) for piece in iter(lambda: s.recv(65536), b'')]"
    )
    return space.run(["python3", "-c", ask, command])
