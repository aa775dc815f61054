"""What a shared cache may keep, for how long, and for whom (RFC 9111), as strictly as befits one that others poison.

Nothing is kept that does not say for how long (no heuristics), nothing is served stale, nothing is revalidated: what is
no longer fresh is asked for again. Pure: `now` is an argument, Unix time in seconds.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime
from typing import NamedTuple

from balancer.wire.encoding import ETAG, list_members, normal
from balancer.wire.fields import field_values, with_fields, without_fields
from balancer.wire.http1 import CHUNKED, Response, Section

__all__ = [
    "Freshness", "Wish", "hides_fields", "http_date", "is_not_modified", "judge", "kept", "not_modified", "read_date",
    "selected", "steering", "varies_on", "wish",
]  # fmt: skip

# RFC 9111 section 1.2.2: larger than this is this.
_FOREVER = 1 << 31
_DIGITS = re.compile(rb"[0-9]{1,32}")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = rb"(" + "|".join(_MONTHS).encode() + rb")"
_TIME = rb"([0-2][0-9]):([0-5][0-9]):([0-6][0-9])"
_DAY = rb"(?:" + "|".join(_DAYS).encode() + rb")"
# RFC 9110 section 5.6.7: IMF-fixdate, and the obsolete forms of RFC 850 and asctime(3).
_IMF_DATE = re.compile(_DAY + rb", ([0-9]{2}) " + _MONTH + rb" ([0-9]{4}) " + _TIME + rb" GMT")
_RFC850_DATE = re.compile(rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{2})-" + _MONTH + rb"-([0-9]{2}) "
                          + _TIME + rb" GMT")  # fmt: skip
_ASCTIME_DATE = re.compile(_DAY + rb" " + _MONTH + rb" ([0-9 ][0-9]) " + _TIME + rb" ([0-9]{4})")

# Requests without any of these are the usual ones.
_TELLING = re.compile(rb"(?:\A|\n)(?:cache-control|pragma|authorization|range|if-(?:match|unmodified-since|range)):")
# RFC 9110 section 7.6.1; Expect of HTTP/1.0 goes no further either.
_HOP_BY_HOP = frozenset((b"connection", b"expect", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
# What is for one hop, or one connection, or is told anew (RFC 9111 section 3.1).
_NOT_KEPT = frozenset(
    (b"age", b"content-length", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
     b"trailer", b"transfer-encoding")
)  # fmt: skip
# RFC 9110 section 15.4.5: a 304 does not describe the content, which the client has.
_NOT_IN_304 = frozenset(
    (b"accept-ranges", b"content-digest", b"content-encoding", b"content-language", b"content-length", b"content-md5",
     b"content-type", b"digest", b"last-modified", b"repr-digest", b"transfer-encoding")
)  # fmt: skip
# Servers and frameworks that heed these answer otherwise, and do not say so in Vary.
_STEERING = frozenset(
    (b"front-end-https", b"x-forwarded-host", b"x-forwarded-path", b"x-forwarded-port", b"x-forwarded-prefix",
     b"x-forwarded-proto", b"x-forwarded-protocol", b"x-forwarded-scheme", b"x-forwarded-server", b"x-forwarded-ssl",
     b"x-forwarded-uri", b"x-host", b"x-http-host-override", b"x-http-method", b"x-http-method-override",
     b"x-method-override", b"x-original-host", b"x-original-uri", b"x-original-url", b"x-rewrite-url",
     b"x-url-scheme")
)  # fmt: skip
_MAY_STEER = re.compile(rb"(?:\A|\n)(?:x[-_](?:forwarded|h|method|o|rewrite|url)|front[-_]|forwarded:)")
_FORWARDED_TO = re.compile(rb"(?:host|proto)[ \t]*=[^;,]*", re.IGNORECASE)
_NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\n"


class Wish(NamedTuple):
    """What a GET or HEAD asks of a cache (RFC 9111 section 5.2.1)."""

    may_use: bool = True
    may_store: bool = True
    max_age: int = _FOREVER
    min_fresh: int = 0
    only_if_cached: bool = False
    has_credentials: bool = False
    """There is an Authorization field."""


_ORDINARY = Wish()


class Freshness(NamedTuple):
    """How long a response stays fresh (RFC 9111 section 4.2)."""

    at: float
    """When it came."""
    age: int
    """How old it was then, in seconds."""
    lifetime: int
    """Seconds from its birth on."""
    is_for_all: bool
    """It may be given to requests with credentials too, or in answer to them be kept (RFC 9111 section 3.5)."""

    def age_at(self, now: float) -> int:
        """RFC 9111 section 4.2.3. A clock that is set back makes nothing younger."""
        return self.age + max(0, int(now - self.at))

    def suits(self, wanted: Wish, now: float, most: float) -> bool:
        """Whether it is fresh and wanted so; `most`: it is kept for so many seconds at the most."""
        age = self.age_at(now)
        if wanted.has_credentials and not self.is_for_all:
            return False
        return age + wanted.min_fresh < self.lifetime and age <= wanted.max_age and 0 <= now - self.at < most


class _Directives:
    """The members of Cache-Control by name; values as they came."""

    __slots__ = ("_of",)

    def __init__(self, values: list[bytes]) -> None:
        self._of: dict[bytes, list[bytes]] = {}
        for member in list_members(values):
            name, _, value = member.partition(b"=")
            self._of.setdefault(name.strip(b" \t").lower(), []).append(value.strip(b" \t"))

    def __contains__(self, name: bytes) -> bool:
        return name in self._of

    def seconds(self, name: bytes, otherwise: int) -> int:
        """`otherwise` where it is said twice in two ways, or not as a number (RFC 9111 section 4.2.1)."""
        values = set(self._of[name])
        if len(values) != 1:
            return otherwise
        value = values.pop()
        if len(value) > 1 and value[:1] == value[-1:] == b'"':
            value = value[1:-1]
        return min(int(value), _FOREVER) if _DIGITS.fullmatch(value) else otherwise


def wish(section: Section) -> Wish:
    """What a GET or HEAD with these fields asks of a cache. One for a part, or with conditions that only the origin can
    judge (RFC 9110 sections 13.1.1, 13.1.4 and 14.2), is none of its business."""
    lower = section.lower
    if _TELLING.search(lower) is None:
        return _ORDINARY
    for name in (b"range", b"if-match", b"if-unmodified-since", b"if-range"):
        if field_values(lower, lower, name):
            return Wish(may_use=False, may_store=False)
    lines = field_values(lower, lower, b"cache-control")
    said = _Directives(lines)
    # RFC 9111 section 5.4: Pragma counts where Cache-Control is not there.
    asks_anew = b"no-cache" in said or (not lines and b"no-cache" in _members(lower, b"pragma"))
    max_age = said.seconds(b"max-age", 0) if b"max-age" in said else _FOREVER
    return Wish(
        # Browsers that load a page anew say 0, and do not mean what is less than a second old.
        may_use=not asks_anew and b"no-store" not in said and max_age > 0,
        may_store=b"no-store" not in said,
        max_age=max_age,
        min_fresh=said.seconds(b"min-fresh", _FOREVER) if b"min-fresh" in said else 0,
        only_if_cached=b"only-if-cached" in said,
        has_credentials=bool(field_values(lower, lower, b"authorization")),
    )


def hides_fields(section: Section) -> bool:
    """Whether Connection names fields that only look as if they went on: the server answers without them, so what it
    answers must not be taken for an answer to them."""
    return any(line[: line.index(b":")].lower() not in _HOP_BY_HOP for line in section.hop_by_hop)


def _members(lower: bytes, name: bytes) -> list[bytes]:
    return list_members(field_values(lower, lower, name))


def judge(wanted: Wish, response: Response, *, now: float, delay: float) -> Freshness | None:
    """How long the response to a GET may be kept for others (RFC 9111 section 3); None: not at all. `delay`: so many
    seconds ago the request was sent."""
    fields, lower = response.fields, response.lower
    if not wanted.may_store or response.status != 200 or not (response.body >= 0 or response.body == CHUNKED):
        # What ends with its connection may be a part of what was meant.
        return None
    if response.sets_cookie or any(field_values(lower, lower, name) for name in _NEVER):
        return None
    said = _Directives(field_values(fields, lower, b"cache-control"))
    # With field names (private="x") they concern these alone, which is not worth the risk.
    if b"no-store" in said or b"private" in said or b"no-cache" in said:
        return None
    if b"no-cache" in _members(lower, b"pragma"):
        return None
    varies = _members(lower, b"vary")
    if b"*" in varies or (b"content-encoding:" in lower and b"accept-encoding" not in varies):
        # The latter is a server's mistake: not everybody can read what one client asked for.
        return None
    # RFC 9111 section 3.5.
    is_for_all = b"public" in said or b"s-maxage" in said or b"must-revalidate" in said
    if wanted.has_credentials and not is_for_all:
        return None
    date = _date(response, b"date", now)
    if date is None:
        return None
    lifetime = _lifetime(said, response, date)
    # RFC 9111 section 4.2.3.
    ages = field_values(lower, lower, b"age")
    if len(ages) > 1 or (ages and _DIGITS.fullmatch(ages[0]) is None):
        return None
    told = min(int(ages[0]), _FOREVER) if ages else 0
    age = max(int(now - date), told + int(max(delay, 0.0)), 0)
    return Freshness(now, age, lifetime, is_for_all) if age < lifetime else None


# Set-Cookie2 is obsolete (RFC 2965); a part is no whole.
_NEVER = (b"set-cookie2", b"content-range")


def _lifetime(said: _Directives, response: Response, date: float) -> int:
    """RFC 9111 section 4.2.1: seconds; 0 where it is not said, or not clearly."""
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return said.seconds(name, 0)
    expires = _date(response, b"expires", date)
    return min(max(0, int(expires - date)), _FOREVER) if expires is not None else 0


def _date(response: Response, name: bytes, otherwise: float) -> float | None:
    """A field's date, `otherwise` without it, None where it is said in several ways; what is no date is `otherwise`
    too, which makes an Expires a thing of the past (RFC 9111 section 5.3)."""
    values = set(field_values(response.fields, response.lower, name))
    if len(values) > 1:
        return None
    date = read_date(values.pop()) if values else None
    return otherwise if date is None else date


def read_date(value: bytes) -> int | None:
    """Unix time of an HTTP-date (RFC 9110 section 5.6.7); None for what is none. Two digits of a year are of 1970 to
    2069."""
    match = _IMF_DATE.fullmatch(value)
    if match is not None:
        day, month, year, *time = match.groups()
    elif (match := _RFC850_DATE.fullmatch(value)) is not None:
        day, month, year, *time = match.groups()
        year = (b"19" if year >= b"70" else b"20") + year
    elif (match := _ASCTIME_DATE.fullmatch(value)) is not None:
        month, day, *time, year = match.groups()
    else:
        return None
    hour, minute, second = map(int, time)
    try:
        # Leap seconds are the first of the next minute.
        at = datetime(int(year), _MONTHS.index(month.decode()) + 1, int(day), hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    return calendar.timegm(at.timetuple()) + (second >= 60)


def http_date(now: float) -> bytes:
    """IMF-fixdate."""
    at = datetime.fromtimestamp(int(now), UTC)
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at.hour:02}:{at.minute:02}:{at.second:02} GMT".encode()


def varies_on(response: Response) -> tuple[bytes, ...]:
    """The request fields that the response depends on (RFC 9111 section 4.1)."""
    return tuple(sorted(set(_members(response.lower, b"vary"))))


def selected(names: tuple[bytes, ...], section: Section) -> tuple[bytes, ...]:
    """What a request says in these fields; the same for requests that say the same, though in other words."""
    values = []
    for name in names:
        lines = field_values(section.fields, section.lower, name)
        value = b",".join(lines)
        # One that is there and empty is not the same as none.
        values.append(b"=" + (normal(value) if name == b"accept-encoding" else value) if lines else b"")
    return tuple(values)


def steering(section: Section) -> bytes:
    """The lines of a request that change what some servers answer though no Vary says so: whoever sends them gets what
    was answered to the same, and nobody else does."""
    lower = section.lower
    if _MAY_STEER.search(lower) is None:
        return b""
    lines = [
        line for line in lower.splitlines() if line[: line.index(b":")].replace(b"_", b"-") in _STEERING
    ]  # fmt: skip
    # Not `for` and `by`, who are others each time.
    lines += [each for value in field_values(lower, lower, b"forwarded") for each in _FORWARDED_TO.findall(value)]
    return b"\n".join(lines)


def kept(response: Response, length: int, now: float) -> Response:
    """The head of a response as it is kept, with so many octets of content; it came `now`."""
    fields = without_fields(response.end_to_end, _NOT_KEPT)
    if not field_values(fields, fields.lower(), b"date"):
        # RFC 9110 section 6.6.1.
        fields += b"Date: %b\r\n" % http_date(now)
    head = with_fields(response, fields + b"Content-Length: %d\r\n" % length)
    head.body = length
    return head


def is_not_modified(section: Section, response: Response) -> bool:
    """Whether a client that asks so has what it would get (RFC 9110 section 13.2.2, for a GET that is answered 200)."""
    lower = section.lower
    if b"if-" not in lower:
        return False
    tags = field_values(section.fields, lower, b"if-none-match")
    if tags:
        own = field_values(response.fields, response.lower, b"etag")
        if tags == [b"*"]:
            return True
        # RFC 9110 section 8.8.3.2: weak comparison.
        known = {tag.removeprefix(b"W/") for tag in list_members(tags) if ETAG.fullmatch(tag)}
        return len(own) == 1 and own[0].removeprefix(b"W/") in known
    since = field_values(section.fields, lower, b"if-modified-since")
    changed = field_values(response.fields, response.lower, b"last-modified")
    if len(since) != 1 or len(changed) != 1:
        return False
    then, last = read_date(since[0]), read_date(changed[0])
    return then is not None and last is not None and last <= then


def not_modified(response: Response) -> Response:
    """304 in place of a response."""
    head = with_fields(response, without_fields(response.end_to_end, _NOT_IN_304))
    head.status, head.line, head.body = 304, _NOT_MODIFIED, 0
    head.start = head.line + head.end_to_end
    return head
