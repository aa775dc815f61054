"""Little languages of single values: "5s", "64k", "0660", "200-299,301". Each function takes what YAML gave and
returns the value, or raises ValueError that says what is allowed."""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Any, Literal, NamedTuple

import dns.exception
import dns.name
import dns.rcode
import dns.rdatatype

from balancer.addr import Address, parse_address
from balancer.config import logformat
from balancer.config.format import parse
from balancer.config.words import did_you_mean, shown
from balancer.regex import compile_regex

__all__ = [
    "DENY_STATUSES",
    "SAMPLE",
    "Rate",
    "Sample",
    "body_size",
    "command",
    "deny_status",
    "dns_name",
    "dns_rcode",
    "dns_type",
    "duration",
    "duration_or_off",
    "endpoint",
    "file_mode",
    "host_pattern",
    "interface_address",
    "ip_address",
    "location",
    "log_format",
    "log_target",
    "network",
    "only_true",
    "path_part",
    "path_template",
    "pattern",
    "plain_path",
    "rate",
    "sample",
    "size",
    "status_set",
    "statuses",
    "template",
    "workers",
]

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# HAProxy's bound for a cookie's maxlife, the longest time that anybody configures.
_LONGEST = 3650 * 86400.0

_RATE = re.compile(r"([0-9]{1,9})/([0-9]{0,6}(?:s|m|h))")
# A shorter period is over before anybody has looked; of a longer one a client would be kept out for days.
_SHORTEST_PERIOD, _LONGEST_PERIOD = 1.0, 86400.0

_SIZE = re.compile(r"([0-9]{1,10})([kmg]?)")
_OCTETS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_LARGEST = 1 << 30
_LARGEST_BODY = 1 << 50

# Neither a zone nor a netmask in place of the prefix length.
_NETWORK = re.compile(r"[0-9a-fA-F.:]{1,64}(?:/[0-9]{1,3})?")
_MODE = re.compile(r"0?[0-7]{3}")
_LOG_TARGETS = ("syslog", "journald", "stdout", "stderr", "none")
SAMPLE = "([0-9]{1,7}(?:-[0-9]{1,7})?(?:,[0-9]{1,7}(?:-[0-9]{1,7})?)*):([0-9]{1,7})"
_SAMPLE = re.compile(SAMPLE)
_STATUSES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_MOST_WORKERS = 256
_PLAIN_PATH = re.compile(r"/[^?#\x00-\x20\x7f]{0,4095}")
_NEVER_IN_PATH = re.compile(r"//|/\.\.?(?:/|\Z)")
_HOST_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*\.?")
_LONGEST_PATTERN = 1024
_FIELD_VALUE = re.compile(r"[!-~](?:[\t -~]*[!-~])?")
# Its end is what a browser takes for another host: two slashes, or a backslash.
_LOCATION = re.compile(r"(?:[a-z][a-z0-9+.-]*://[!-\[\]-~]+|/(?![/\\])[!-\[\]-~]*|%\[(?:path|pathq)\][!-\[\]-~]*)")
DENY_STATUSES = frozenset((400, 403, 404, 408, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504, 505))
"""Those that pybalancer has a page for; 401 would want a password."""
# RFC 1035 section 2.3.4 allows 255 octets on the wire; escapes make the text longer, but not beyond this.
_LONGEST_NAME = 1024


def duration(value: Any) -> float:
    """`500ms`, `5s`, `1.5m` in seconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError(
            f"{shown(value)} is no duration; write a number above 0 with its unit (us, ms, s, m, h, d): 500ms, 5s, 1h"
        )
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST:
        raise ValueError(f"{shown(value)} is too long; the longest duration is 3650d")
    return seconds


def duration_or_off(value: Any) -> float:
    """As `duration`, and `0s`, which is 0."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return 0.0 if match is not None and float(match[1]) == 0 else duration(value)


class Rate(NamedTuple):
    """So many in so many seconds."""

    most: int
    period: float


def rate(value: Any) -> Rate:
    """`100/10s`, `5/m`: a count and the time that it is for."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError(f"{shown(value)} is no rate; write a count and a time: 100/10s, 20/s, 500/5m")
    written = match[2]
    period = duration(written if written[0].isdigit() else f"1{written}")
    if not _SHORTEST_PERIOD <= period <= _LONGEST_PERIOD:
        raise ValueError(f"{shown(value)}: the time of a rate is from 1s to 24h")
    return Rate(int(match[1]), period)


def command(value: Any) -> tuple[str, ...]:
    """A program with its arguments, as words of a shell or as a list. There is no shell, and no search for it."""
    example = 'write one like "/usr/local/bin/check --fast", or as a list'
    try:
        words = tuple(shlex.split(value)) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{shown(value)}: {str(error).lower()}; {example}") from None
    if not isinstance(words, tuple) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError(f"{shown(value)} is no command; {example}")
    if not words or not words[0].startswith("/"):
        raise ValueError(f"{shown(value)}: a command begins with the path of a program; {example}")
    return words


def body_size(value: Any) -> int:
    """As `size`, of what is sent and never kept."""
    return size(value, most=_LARGEST_BODY)


def size(value: Any, *, most: int = _LARGEST) -> int:
    """`64k`, `1m`, or a plain number, in octets; k, m and g count by 1024."""
    match = _SIZE.fullmatch(value.lower()) if isinstance(value, str) else None
    if match is not None:
        octets = int(match[1]) * _OCTETS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        octets = value
    else:
        raise ValueError(f"{shown(value)} is no size; write octets as a number, or with k, m or g: 16384, 64k, 1m")
    if not 1 <= octets <= most:
        raise ValueError(f"{shown(value)} is out of range; a size is from 1 to {most >> 30}g")
    return octets


def file_mode(value: Any) -> int:
    """`"0660"`: permission bits in octal digits, as text because YAML readers disagree on what 0660 is."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError(f'{shown(value)} is no file mode; write three octal digits in quotes: "0660"')
    return int(value, 8)


def plain_path(value: Any) -> str:
    """The path of a request, or its beginning, to compare with."""
    if not isinstance(value, str) or not _PLAIN_PATH.fullmatch(value):
        raise ValueError(f"{shown(value)} is no path; a path starts with / and has no query and no spaces")
    if _NEVER_IN_PATH.search(value):
        raise ValueError(f"{shown(value)} fits no request: //, /./ and /../ are resolved before paths are compared")
    return value


def host_pattern(value: Any) -> str:
    """`www.example.org`, `*.example.org` or an IP address to compare a request's host with, as compared."""
    if isinstance(value, str) and len(value) <= _LONGEST_NAME:
        try:
            return str(ipaddress.ip_address(value.strip("[]")))
        except ValueError:
            pass
        if _HOST_PATTERN.fullmatch(value.lower()):
            return value.lower().removesuffix(".")
    hint = "; the port does not count" if isinstance(value, str) and ":" in value else ""
    hint = hint or ("; write it as in DNS, xn--…" if isinstance(value, str) and not value.isascii() else "")
    raise ValueError(f"{shown(value)} is no host; write a name, *.NAME or an IP address{hint}")


def pattern(value: Any) -> str:
    """A regular expression."""
    if not isinstance(value, str) or not value or len(value) > _LONGEST_PATTERN:
        raise ValueError(f"{shown(value)} is no regular expression of 1 to {_LONGEST_PATTERN} characters")
    try:
        compile_regex(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)}: {error}; the syntax is RE2's, without look-around") from None
    return value


def template(value: Any) -> str:
    """A header's value, with variables."""
    if not isinstance(value, str) or len(value) > _LONGEST_NAME * 4 or not _FIELD_VALUE.fullmatch(value):
        raise ValueError(f"{shown(value)} is no header's value; it is printable ASCII, with variables as %[src]")
    parse(value)
    return value


def path_template(value: Any) -> str:
    """A path to go on with, with variables."""
    if not isinstance(value, str) or not re.fullmatch(r"(?:/|%\[)[^?#\x00-\x20\x7f]*", value):
        raise ValueError(f"{shown(value)} is no path; it starts with / and has no query; variables are written %[path]")
    parse(value)
    return value


def path_part(value: Any) -> str:
    """What is put into a path, with variables."""
    if not isinstance(value, str) or not re.fullmatch(r"[^?#\x00-\x20\x7f]*", value):
        raise ValueError(f"{shown(value)} fits into no path: it has no query and no spaces")
    parse(value)
    return value


def location(value: Any) -> str:
    """Where a redirect leads, with variables."""
    if not isinstance(value, str) or not _LOCATION.fullmatch(value):
        raise ValueError(f"{shown(value)} leads nowhere; write https://HOST/… or /…, with variables as %[pathq]")
    parse(value)
    return value


def only_true(value: Any) -> bool:
    """An action that can only be done."""
    if value is not True:
        raise ValueError(f"wants true, not {shown(value)}; leave the rule away where it is not wanted")
    return True


def deny_status(value: Any) -> int:
    """What a request is denied with: true is 403."""
    if value is True:
        return 403
    if type(value) is not int or value not in DENY_STATUSES:
        statuses = ", ".join(map(str, sorted(DENY_STATUSES)))
        raise ValueError(f"wants true (which is 403) or one of {statuses}, not {shown(value)}")
    return value


def workers(value: Any) -> int | Literal["auto"]:
    """A number of processes, or `auto`."""
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_WORKERS:
        raise ValueError(f"wants auto or a whole number from 1 to {_MOST_WORKERS}, not {shown(value)}")
    return value


def endpoint(value: Any) -> Address:
    """Where a socket is bound or connected."""
    if isinstance(value, Address):
        return value
    # Longer than any host name with its port and any Unix path, or what would spoil a line of a log.
    if not isinstance(value, str) or len(value) > 300 or not value.isprintable():
        raise ValueError(f"{shown(value)} is no address; write HOST:PORT, [IPV6]:PORT, *:PORT or /path/of.sock")
    return parse_address(value)


def ip_address(value: Any) -> str:
    """An IPv4 or IPv6 address, without brackets or port."""
    return str(_ip(value, "192.0.2.1 or 2001:db8::1"))


def network(value: Any) -> str:
    """`10.0.0.0/8`, `2001:db8::/32`, or one address; the bits behind the prefix must be 0."""
    example = "write one like 10.0.0.0/8 or 2001:db8::/32"
    if not isinstance(value, str) or not _NETWORK.fullmatch(value):
        raise ValueError(f"{shown(value)} is no network; {example}")
    try:
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{shown(value)} is no network; {example}") from None
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError(f"{shown(value)} has bits set behind its prefix; did you mean {loose}?") from None


def interface_address(value: Any) -> str:
    """An address to put on an interface: `192.168.1.200`, with or without its prefix length."""
    example = "192.168.1.200, 192.168.1.200/24 or 2001:db8::1/64"
    if not isinstance(value, str) or "/" not in value:
        return str(_ip(value, example))
    address, _, prefix = value.partition("/")
    ip = _ip(address, example)
    if not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3 and int(prefix) <= ip.max_prefixlen):
        raise ValueError(f"{shown(value)}: a prefix length of IPv{ip.version} is from 0 to {ip.max_prefixlen}")
    return f"{ip}/{int(prefix)}"


def _ip(value: Any, example: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(value, str):
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            pass
    raise ValueError(f"{shown(value)} is no IP address; write one like {example}")


def log_target(value: Any) -> str:
    """A word of `_LOG_TARGETS`, `udp://HOST:PORT`, `tcp://HOST:PORT`, `unix:/path/of.sock` or a file's path."""
    if value in _LOG_TARGETS:
        return str(value)
    if isinstance(value, str):
        scheme, mark, rest = value.partition("://")
        if mark and scheme in ("udp", "tcp"):
            address = endpoint(rest)
            if address.path or address.is_wildcard:
                raise ValueError(f"{shown(value)} names no receiver; write {scheme}://HOST:PORT")
            return value
        path = value.removeprefix("unix:")
        if path == "/dev/log":
            return "syslog"
        if path.startswith("/") and value.isprintable() and len(value) <= 300 and not value.endswith("/"):
            # A socket's has no room for more (unix(7)).
            if path is not value and len(path.encode()) > 107:
                raise ValueError(f"{shown(value)} is too long for a socket; 107 octets are allowed")
            return value
    raise ValueError(
        f"{shown(value)} is none of {', '.join(_LOG_TARGETS)}, udp://HOST:PORT, tcp://HOST:PORT, unix:/path/of.sock "
        f"and /path/of/file.log{did_you_mean(value, _LOG_TARGETS)}"
    )


class Sample(NamedTuple):
    """Which of so many are meant: from 1 on, `ranges` with both ends."""

    ranges: tuple[tuple[int, int], ...]
    size: int

    def __contains__(self, number: object) -> bool:
        return any(first <= number <= last for first, last in self.ranges)  # type: ignore[operator]

    def __str__(self) -> str:
        parts = [f"{first}-{last}" if last > first else f"{first}" for first, last in self.ranges]
        return f"{','.join(parts)}:{self.size}"


def sample(value: Any) -> Sample:
    """`1:10` or `2-3,8-11:11`, as HAProxy writes them."""
    if isinstance(value, Sample):
        return value
    match = _SAMPLE.fullmatch(value) if isinstance(value, str) and len(value) <= 1000 else None
    example = 'write "1:10" for every tenth, "2-3,8:11" for three of eleven'
    if match is None:
        raise ValueError(f"{shown(value)} is no sample; {example}")
    size = int(match[2])
    ranges = []
    for part in match[1].split(","):
        first, _, last = part.partition("-")
        ranges.append((int(first), int(last or first)))
    before = 0
    for begin, end in ranges:
        if not before < begin <= end <= size:
            raise ValueError(f"{shown(value)}: numbers go up, from 1 to {size} at most; {example}")
        before = end
    return Sample(tuple(ranges), size)


def log_format(value: Any) -> str:
    """A text with HAProxy's log-format variables."""
    if not isinstance(value, str) or not value or len(value) > 2000 or not value.isprintable():
        raise ValueError(f"{shown(value)} is no format of a log line; write one such as '%ci %s %ST %{{+Q}}r'")
    logformat.parse(value)
    return value


def status_set(value: Any) -> str:
    """`200`, `200-299`, `200,204,301-303`, without spaces; `statuses` gives the numbers."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    # A thousand octets hold every sensible set.
    if not isinstance(text, str) or len(text) > 1000:
        raise ValueError(f"{shown(value)} is no set of statuses; write them like 200, 200-299 or 200,204,301-303")
    parts = [part.strip(" ") for part in text.split(",")]
    for part in parts:
        match = _STATUSES.fullmatch(part)
        if match is None or (match[2] is not None and match[2] < match[1]):
            raise ValueError(
                f"{shown(part)} is no status or range of statuses (100 to 599); write 200, 200-299 or 200,204,301-303"
            )
    return ",".join(parts)


def statuses(text: str) -> frozenset[int]:
    """The numbers that a `status_set` names."""
    ranges = (part.partition("-") for part in text.split(","))
    return frozenset(number for low, _, high in ranges for number in range(int(low), int(high or low) + 1))


def dns_name(value: Any) -> str:
    """A domain name (RFC 1035 section 3.1) in presentation form, without its final dot; `.` is the root."""
    if not isinstance(value, str) or not value or len(value) > _LONGEST_NAME:
        raise ValueError(f"{shown(value)} is no domain name; write one like example.org, or . for the root")
    try:
        return dns.name.from_text(value).to_text(omit_final_dot=True)
    except (dns.exception.DNSException, UnicodeError, ValueError):
        raise ValueError(
            f"{shown(value)} is no domain name; its parts have 1 to 63 characters, all together at most 255"
        ) from None


def dns_type(value: Any) -> str:
    """A record type that can be asked for: `SOA`, `A`, `TYPE65280`; in upper case."""
    names = [kind.name for kind in dns.rdatatype.RdataType if not dns.rdatatype.is_metatype(kind) and kind != 0]
    if isinstance(value, str) and len(value) <= 32 and value.isascii():
        try:
            kind = dns.rdatatype.from_text(value)
        except (dns.exception.DNSException, ValueError):
            pass
        else:
            if kind and not dns.rdatatype.is_metatype(kind):
                return dns.rdatatype.to_text(kind)
            raise ValueError(f"{value} cannot be asked for in a check; use a record type such as SOA, A or TXT")
    raise ValueError(f"{shown(value)} is no DNS record type, such as SOA, A or TXT{did_you_mean(value, names)}")


def dns_rcode(value: Any) -> str:
    """A response code: `NOERROR`, `NXDOMAIN`, …; in upper case."""
    names = [code.name for code in dns.rcode.Rcode]
    if isinstance(value, str) and value.upper() in names:
        return value.upper()
    raise ValueError(
        f"{shown(value)} is no DNS response code, such as NOERROR, NXDOMAIN or SERVFAIL{did_you_mean(value, names)}"
    )
