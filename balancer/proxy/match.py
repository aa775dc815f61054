"""Conditions on requests, compiled once into plain functions.

    Condition ── compile ── Test(Seen) → bool

A condition looks at the request as it came, with its path in one of its readings (wire.path).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_network

from balancer.config.rules import Condition
from balancer.config.units import statuses
from balancer.regex import compile_regex
from balancer.wire.fields import cookie_values, field_values, host_name, query_values
from balancer.wire.http1 import Request
from balancer.wire.path import canonical, encoded

__all__ = ["HTTPS", "Compiler", "Networks", "Seen", "Test", "plain_address"]


HTTPS = 1
"""The bit of a zone that says that the client speaks TLS."""


class Seen:
    """What conditions see of a request."""

    __slots__ = ("asked", "host", "method", "path", "section", "status", "target", "zone")

    def __init__(self, asked: Request, path: bytes, zone: int) -> None:
        self.asked = asked
        self.method = asked.line.method
        self.target = asked.line.target
        self.path = path
        """One of its readings."""
        self.section = asked.section
        self.host = host_name(asked.section.host)
        self.zone = zone
        """`Networks.zone` of the client, and whether it speaks TLS."""
        self.status = 0
        """Of the response, where it is about one."""


Test = Callable[[Seen], bool]
_Values = Callable[[Seen], Iterable[bytes]]
_Fits = Callable[[bytes], bool]


def plain_address(host: str) -> str:
    """An IP address without its zone; IPv4 as such, though it came in through a socket for both."""
    host = host.partition("%")[0]
    if not host.startswith("::ffff:"):
        return host
    mapped = IPv6Address(host).ipv4_mapped
    return str(mapped) if mapped is not None else host


class Networks:
    """The lists of networks of all conditions; each is a bit of a client's zone. Looking an address up takes time by
    the number of different prefix lengths, not of networks."""

    def __init__(self) -> None:
        self._bits: dict[tuple[str, ...], int] = {}
        # IP version and prefix length to the networks' leading bits, and these to their lists.
        self._lists: dict[tuple[int, int], dict[int, int]] = {}

    def bit(self, networks: tuple[str, ...]) -> int:
        """The bit that is set in the zone of an address in one of `networks`."""
        bit = self._bits.get(networks)
        if bit is None:
            bit = self._bits[networks] = 2 * HTTPS << len(self._bits)
            for network in map(ip_network, networks):
                of_length = self._lists.setdefault((network.version, network.prefixlen), {})
                leading = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
                of_length[leading] = of_length.get(leading, 0) | bit
        return bit

    def zone(self, host: str | None) -> int:
        """The bits of all lists with a network that `host` is in; 0 for a Unix socket."""
        if host is None or not self._lists:
            return 0
        address = ip_address(plain_address(host))
        number, version, size = int(address), address.version, address.max_prefixlen
        zone = 0
        for (of_version, length), of_length in self._lists.items():
            if of_version == version:
                zone |= of_length.get(number >> (size - length), 0)
        return zone


class Compiler:
    """Makes functions of conditions. Afterwards it tells what they look at."""

    def __init__(self, acls: Mapping[str, Condition], networks: Networks) -> None:
        self._acls = acls
        self._networks = networks
        self._named: dict[str, Test] = {}
        self.looks_at_fields = False
        """Whether any of them looks at more fields than Host."""
        self.statuses: list[frozenset[int]] = []
        """Those that they tell apart from others."""

    def compile(self, condition: Condition | None) -> Test | None:
        """The condition as a function; None if it always holds."""
        return None if condition is None else self._all(list(self._tests(condition)))

    def _acl(self, name: str) -> Test:
        test = self._named.get(name)
        if test is None:
            test = self._named[name] = self._all(list(self._tests(self._acls[name])))
        return test

    def _tests(self, condition: Condition) -> Iterable[Test]:
        """One for each key, the cheap ones first."""
        if condition.src is not None:
            yield _in_zone(self._networks.bit(condition.src))
        if condition.scheme is not None:
            yield _is_https(condition.scheme == "https")
        if condition.status is not None:
            wanted = statuses(condition.status)
            self.statuses.append(wanted)
            yield _is_status(wanted)
        if condition.method is not None:
            yield _is_method(frozenset(method.encode() for method in condition.method))
        if condition.host is not None:
            yield _is_host(condition.host)
        yield from self._path_tests(condition)
        for name, test in self._value_tests(condition):
            self.looks_at_fields |= name != "url_param"
            yield test
        if condition.acl is not None:
            yield _any([self._acl(name) for name in condition.acl])
        if condition.any_ is not None:
            yield _any([self._all(list(self._tests(inner))) for inner in condition.any_])
        for inner in condition.all_ or ():
            yield from self._tests(inner)
        if condition.not_ is not None:
            yield _not(self._all(list(self._tests(condition.not_))))

    def _path_tests(self, condition: Condition) -> Iterable[Test]:
        if condition.path is not None:
            yield _path(_is_one_of(canonical(path.encode()) for path in condition.path))
        if condition.path_beg is not None:
            yield _path(_begins_with(encoded(path.encode()) for path in condition.path_beg))
        if condition.path_end is not None:
            yield _path(_ends_with(encoded(path.encode()) for path in condition.path_end))
        if condition.path_reg is not None:
            yield _path(_matches(condition.path_reg))

    def _value_tests(self, condition: Condition) -> Iterable[tuple[str, Test]]:
        """Each with the kind of what it looks at."""
        kinds = (("header", _header), ("cookie", _cookie), ("url_param", _url_param))
        for kind, values_of in kinds:
            for name, values in getattr(condition, kind).items():
                yield kind, _has(values_of(name), _is_one_of(value.encode() for value in values))
            for name, values in getattr(condition, f"{kind}_beg", {}).items():
                yield kind, _has(values_of(name), _begins_with(value.encode() for value in values))
            for name, patterns in getattr(condition, f"{kind}_reg").items():
                yield kind, _has(values_of(name), _matches(patterns))
            found = getattr(condition, f"{kind}_found")
            if found is not None:
                yield kind, _any([_is_there(values_of(name)) for name in found])

    @staticmethod
    def _all(tests: Sequence[Test]) -> Test:
        if len(tests) == 1:
            return tests[0]
        return lambda seen: all(test(seen) for test in tests)


def _any(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda seen: any(test(seen) for test in tests)


def _not(test: Test) -> Test:
    return lambda seen: not test(seen)


def _in_zone(bit: int) -> Test:
    return lambda seen: bool(seen.zone & bit)


def _is_https(wanted: bool) -> Test:
    return lambda seen: bool(seen.zone & HTTPS) is wanted


def _is_status(wanted: frozenset[int]) -> Test:
    return lambda seen: seen.status in wanted


def _is_method(methods: frozenset[bytes]) -> Test:
    return lambda seen: seen.method in methods


def _is_host(patterns: Iterable[str]) -> Test:
    octets = [pattern.encode() for pattern in patterns]
    names = frozenset(name for name in octets if not name.startswith(b"*."))
    below = tuple(name[1:] for name in octets if name.startswith(b"*."))
    if not below:
        return lambda seen: seen.host in names
    return lambda seen: seen.host in names or seen.host.endswith(below)


def _path(fits: _Fits) -> Test:
    return lambda seen: fits(seen.path)


def _header(name: str) -> _Values:
    lower = name.lower().encode()
    return lambda seen: field_values(seen.section.fields, seen.section.lower, lower)


def _cookie(name: str) -> _Values:
    octets = name.encode()
    return lambda seen: cookie_values(seen.section.fields, seen.section.lower, octets)


def _url_param(name: str) -> _Values:
    octets = name.encode()
    return lambda seen: query_values(seen.target, octets)


def _has(values_of: _Values, fits: _Fits) -> Test:
    return lambda seen: any(fits(value) for value in values_of(seen))


def _is_there(values_of: _Values) -> Test:
    return lambda seen: bool(values_of(seen))


def _is_one_of(values: Iterable[bytes]) -> _Fits:
    return frozenset(values).__contains__


def _begins_with(values: Iterable[bytes]) -> _Fits:
    beginnings = tuple(values)
    return lambda value: value.startswith(beginnings)


def _ends_with(values: Iterable[bytes]) -> _Fits:
    ends = tuple(values)
    return lambda value: value.endswith(ends)


def _matches(patterns: Iterable[str]) -> _Fits:
    searches = [compile_regex(pattern).search for pattern in patterns]
    if len(searches) == 1:
        (search,) = searches
        return lambda value: search(value) is not None
    return lambda value: any(search(value) is not None for search in searches)
