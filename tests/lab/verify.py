"""The eight steps by which the cluster shows that it works, as a person would take them: commands, what they print."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from balancer.config import read
from tests.lab.lab import Lab
from tests.lab.services import CONFIGURATION
from tests.lab.space import LabError
from tests.lab.topology import MACHINES, VIPS

__all__ = ["STEPS", "NotShownError", "Step", "verify"]

_BALANCED = read.load(CONFIGURATION, node="master", environ={}).backends["tcp-servers"].servers.values()
WEB = {machine.address: machine for machine in MACHINES.values() if machine.address in {
    server.address.host for server in _BALANCED
}}  # fmt: skip
CLIENT = MACHINES["client"].address
STATS = "/haproxy?stats"
# A check of interval 3 s, `fall: 3`, and one more for luck and load (seconds).
_NOTICED = 20.0


class NotShownError(Exception):
    """The cluster does something else than it must."""


@dataclass(frozen=True)
class Step:
    """One of the things to be shown."""

    number: int
    title: str
    show: Callable[[Person], None]


class Person:
    """Someone who types commands on the machines of a lab and looks at what they print."""

    def __init__(self, lab: Lab, say: Callable[[str], None], names: Mapping[str, str] | None = None) -> None:
        self.lab = lab
        self.say = say
        self._names = names or {}
        """What other backends than the shipped configuration's are called."""

    def types(self, command: str, *, on: str = "client") -> str:
        """Run a command line on a machine; what it printed, which is shown too."""
        self.say(f"{on}$ {command}")
        done = self.lab[on].outcome("sh", "-c", command, takes=30.0)
        text = (done.stdout + done.stderr).rstrip("\n")
        if text:
            self.say(text)
        return text

    def page(self, url: str, options: str = "") -> dict[str, str]:
        """Ask for a test page; its lines and header fields by name."""
        text = self.types(f"curl -si --max-time 3 {options}{' ' if options else ''}{url}")
        facts = dict(re.findall(r"^([A-Za-z-]+): (.*?)\r?$", text, re.MULTILINE))
        expect("server" in facts, f"no page from {url}")
        return {name.lower(): value for name, value in facts.items()}

    def switches(self, name: str, *, on: bool) -> None:
        self.say(f"-- {name} is switched {'on' if on else 'off'}")
        node = self.lab[name]
        (node.power_on if on else node.power_off)()
        if on:
            self.lab.settle()

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """A machine is off for a while."""
        self.switches(name, on=False)
        try:
            yield
        finally:
            self.switches(name, on=True)

    def waits(self, condition: Callable[[], bool], what: str, *, within: float = _NOTICED) -> None:
        self.say(f"-- until {what}")
        try:
            self.lab.until(condition, what, within=within)
        except LabError as error:
            raise NotShownError(str(error)) from None

    def stats_say(self, backend: str, server: str, status: str, *, on: str = "master") -> bool:
        """Whether the statistics say so of a server."""
        page = f"http://{self.lab[on].machine.address}:7000/metrics"
        text = self.lab["client"].outcome("curl", "-s", "--max-time", "3", "-u", "admin:123", page).stdout
        backend = re.escape(self._names.get(backend, backend))
        pattern = rf'haproxy_server_status\{{proxy="{backend}",server="{server}",state="{status}"\}} 1(\.0)?$'
        return re.search(pattern, text, re.MULTILINE) is not None


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotShownError(otherwise)


def _all_in_turn(person: Person, url: str, times: int, *, client: str, options: str = "") -> None:
    pages = [person.page(url, options) for _ in range(times)]
    servers = [page["server"] for page in pages]
    expect(set(servers) == set(WEB), f"not every web server answered: {servers}")
    expect(servers[len(WEB) :] == servers[: -len(WEB)], f"they do not take turns: {servers}")
    expect({page["client"] for page in pages} == {client}, f"the web servers should see the client as {client}")
    expect({page["forwarded-for"] for page in pages} == {"unknown"}, "there should be no Forwarded-For")
    expect(not any("set-cookie" in page for page in pages), "there should be no cookie")


def http_in_turn(person: Person) -> None:
    _all_in_turn(person, "http://192.168.1.200/", 4, client="10.0.100.1")


def https_in_turn(person: Person) -> None:
    _all_in_turn(person, "https://192.168.1.200/", 4, client="10.0.100.1", options="-k")
    subject = person.types("openssl s_client -connect 192.168.1.200:443 </dev/null 2>&1 | openssl x509 -noout -subject")
    expect(re.search(r"CN ?= ?web[123]\.lab\.local", subject) is not None, "the certificate is no web server's")


def http_with_cookie(person: Person) -> None:
    person.types("rm -f /run/jar")
    pages = [person.page("http://192.168.1.200:8000/", "-c /run/jar -b /run/jar") for _ in range(3)]
    first = pages[0]
    name = WEB[first["server"]].alias
    expect(first.get("set-cookie", "").startswith(f"SERVERID={name};"), f"the first answer should set SERVERID={name}")
    expect({page["server"] for page in pages} == {first["server"]}, "later answers come from another server")
    expect(all("set-cookie" not in page for page in pages[1:]), "the cookie is set again")
    expect([page["cookies"] for page in pages] == ["none", *[f"SERVERID={name}"] * 2], "the cookie does not come back")
    expect({page["forwarded-for"] for page in pages} == {CLIENT}, f"Forwarded-For should be {CLIENT}")
    expect({page["client"] for page in pages} == {"10.0.100.1"}, "the web servers should see the director")


def kernel_in_turn(person: Person) -> None:
    _all_in_turn(person, "http://192.168.1.202/", 4, client=CLIENT)


def _services(person: Person) -> str:
    """The list of services as the kernel has them, what ipvsadm -L was."""
    return person.types("pybalancer status", on="master")


def _dig(person: Person) -> None:
    answer = person.types("dig +tries=1 +timeout=2 @192.168.1.200 web1.lab.local")
    expect("10.0.100.2" in answer, "no answer")


def dns(person: Person) -> None:
    _dig(person)
    services = _services(person)
    for name in ("cluster5", "cluster6", "cluster7"):
        line = rf"{name}\S*\s+Masq\s+1\s+\d+\s+\d+"
        expect(re.search(line, services) is not None, f"{name} should be listed: Masq, weight 1, ActiveConn, InActConn")


def dns1_off_and_on(person: Person) -> None:
    with person.without("dns1"):
        person.waits(lambda: person.stats_say("dns-servers", "cluster5", "DOWN"), "cluster5 is noticed to be down")
        expect("cluster5" not in _services(person), "cluster5 should have left the list")
        for _ in range(3):
            _dig(person)
    person.waits(lambda: person.stats_say("dns-servers", "cluster5", "UP"), "cluster5 is back")
    expect("cluster5" in _services(person), "cluster5 should be listed again")


def web3_off(person: Person) -> None:
    with person.without("web3"):
        person.waits(lambda: person.stats_say("kernel-web", "cluster4", "DOWN"), "cluster4 is noticed to be down")
        pages = [person.page("http://192.168.1.202/") for _ in range(4)]
        expect({page["server"] for page in pages} == {"10.0.100.2", "10.0.100.3"}, "the other two should answer")
        expect("cluster4" not in _services(person), "cluster4 should have left the list")
        row = _stats_row(person, "master", "tcp-servers", "cluster4")
        expect("DOWN" in row, "the stats page should show cluster4 down")
    person.waits(lambda: person.stats_say("kernel-web", "cluster4", "UP"), "cluster4 is back")


def _stats_row(person: Person, director: str, backend: str, server: str) -> str:
    url = f"http://{person.lab[director].machine.address}:7000{STATS}"
    page = person.lab["client"].run("curl", "-s", "-u", "admin:123", url).partition(f'id="{backend}"')[2]
    row = re.search(rf'<th scope="row"[^>]*>(?:<label><input[^>]*>)?{server}<.*?</tr>', page, re.DOTALL)
    text = " ".join(re.sub(r"<[^>]+>", " ", row[0]).split()) if row else ""
    person.say(f"client sees at {url}: {text or 'no such row'}")
    return text


def failover(person: Person) -> None:
    everything = set(VIPS)
    master, standby = person.lab["master"], person.lab["standby"]
    person.types("ip -4 -brief address", on="standby")
    expect(not standby.vips, "the standby should hold no virtual address")
    with person.without("master"):
        person.waits(lambda: standby.vips == everything, "the standby holds all three")
        person.types("ip -4 -brief address", on="standby")
        page = person.types(f"curl -s -u admin:123 'http://192.168.1.200:7000{STATS}' | grep -o 'Nodo [A-Z][a-z]*'")
        expect("Nodo Standby" in page, "the stats page should be the standby's")
        seen = person.page("https://192.168.1.200/", "-k")
        expect(seen["client"] == "10.0.100.50", "the web server should see 10.0.100.50")
    person.waits(lambda: master.vips == everything and not standby.vips, "the master has taken them back")
    person.types("ip -4 -brief address", on="master")


STEPS = (
    Step(1, ":80 in turn, client seen as the director, no Forwarded-For, no cookie", http_in_turn),
    Step(2, ":443 in turn over TLS, the web servers' certificates", https_in_turn),
    Step(3, ":8000 stays with one server by SERVERID, and tells it the client's address", http_with_cookie),
    Step(4, "192.168.1.202:80 in turn, and the server sees the client itself", kernel_in_turn),
    Step(5, "DNS is answered, and the services are listed", dns),
    Step(6, "dns1 off: it leaves the list, the others answer; on: it comes back", dns1_off_and_on),
    Step(7, "web3 off: :202 answers from the other two, the stats page shows it", web3_off),
    Step(8, "the master off: everything on the standby; on: everything back", failover),
)


def verify(lab: Lab, say: Callable[[str], None]) -> int:
    """Show all steps; how many failed."""
    failed = 0
    for step in STEPS:
        say(f"\n=== {step.number}. {step.title}")
        try:
            step.show(Person(lab, say))
        except (NotShownError, LabError) as error:
            failed += 1
            say(f"FAIL {step.number}: {error}")
        else:
            say(f"PASS {step.number}")
    say(f"\n{len(STEPS) - failed} of {len(STEPS)} steps pass, {failed} fail")
    return failed
