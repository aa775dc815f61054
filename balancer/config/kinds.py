"""The kinds of single values that a balancer.yaml holds, by name: a duration, a weight, a path."""

from __future__ import annotations

from typing import Annotated, Literal

from balancer.addr import Address
from balancer.config import units
from balancer.config.values import FilePath, Unit, Whole, Written

__all__ = [
    "ADDRESS_PATTERN",
    "BodySize",
    "Command",
    "CookieAttribute",
    "CookieValue",
    "Count",
    "DenyStatus",
    "DnsName",
    "DnsRcode",
    "DnsType",
    "Duration",
    "DurationOrOff",
    "Endpoint",
    "FieldValue",
    "FileMode",
    "ForwardedNode",
    "HostPattern",
    "Interface",
    "InterfaceAddress",
    "IpAddress",
    "Location",
    "LogFormat",
    "LogTarget",
    "MediaType",
    "Name",
    "Network",
    "OnlyTrue",
    "Password",
    "Path",
    "PathPart",
    "PathTemplate",
    "Pattern",
    "PlainPath",
    "Port",
    "RateOf",
    "Realm",
    "Retries",
    "SampleOf",
    "Size",
    "SocketPath",
    "StatusSet",
    "Template",
    "Text",
    "Token",
    "UrlPath",
    "UserName",
    "Weight",
    "Workers",
]

ADDRESS_PATTERN = r"^(?:.*:[0-9]{1,5}|(?:unix[@:])?/.*)$"

Duration = Annotated[
    float, Unit(units.duration, {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?(us|ms|s|m|h|d)$"})
]
# "0s" switches off what would happen after that time.
DurationOrOff = Annotated[
    float, Unit(units.duration_or_off, {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?(us|ms|s|m|h|d)$"})
]
RateOf = Annotated[units.Rate, Unit(units.rate, {"type": "string", "pattern": "^[0-9]{1,9}/[0-9]{0,6}(s|m|h)$"})]
Command = Annotated[
    tuple[str, ...],
    Unit(
        units.command,
        {
            "anyOf": [
                {"type": "string", "pattern": "^/"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        },
    ),
]
Size = Annotated[
    int,
    Unit(
        units.size,
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]{1,10}[kKmMgG]?$"}]},
    ),
]
BodySize = Annotated[
    int,
    Unit(
        units.body_size,
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]{1,10}[kKmMgG]?$"}]},
    ),
]
FileMode = Annotated[int, Unit(units.file_mode, {"type": "string", "pattern": "^0?[0-7]{3}$"})]
Endpoint = Annotated[Address, Unit(units.endpoint, {"type": "string", "pattern": ADDRESS_PATTERN})]
Network = Annotated[str, Unit(units.network, {"type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"})]
IpAddress = Annotated[str, Unit(units.ip_address, {"type": "string", "pattern": "^[0-9a-fA-F.:]+(%.+)?$"})]
InterfaceAddress = Annotated[
    str, Unit(units.interface_address, {"type": "string", "pattern": "^[0-9a-fA-F.:]+(%.+)?(/[0-9]{1,3})?$"})
]
LogTarget = Annotated[
    str,
    Unit(
        units.log_target,
        {
            "type": "string",
            "pattern": "^(?:syslog|journald|stdout|stderr|none|(?:udp|tcp)://.+:[0-9]{1,5}|(?:unix:)?/.+)$",
        },
    ),
]
LogFormat = Annotated[str, Unit(units.log_format, {"type": "string", "minLength": 1, "maxLength": 2000})]
SampleOf = Annotated[units.Sample, Unit(units.sample, {"type": "string", "pattern": f"^{units.SAMPLE}$"})]
StatusSet = Annotated[
    str,
    Unit(
        units.status_set,
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {
                    "type": "string",
                    "pattern": "^ *[1-5][0-9]{2}(-[1-5][0-9]{2})?( *, *[1-5][0-9]{2}(-[1-5][0-9]{2})?)* *$",
                },
            ]
        },
    ),
]
Workers = Annotated[
    int | Literal["auto"],
    Unit(units.workers, {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]}),
]
DnsName = Annotated[str, Unit(units.dns_name, {"type": "string", "minLength": 1})]
DnsType = Annotated[str, Unit(units.dns_type, {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9-]*$"})]
DnsRcode = Annotated[str, Unit(units.dns_rcode, {"type": "string", "pattern": "^[A-Za-z]+$"})]
# RFC 9110 section 5.6.2: it stands in a header line as it is.
Token = Annotated[str, Written(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", "allowed are letters, digits and !#$%&'*+-.^_`|~", 256)]
# RFC 9110 section 8.3.1.
MediaType = Annotated[
    str, Written(r"[!#$%&'+.^_`|~0-9A-Za-z-]+/(?:\*|[!#$%&'+.^_`|~0-9A-Za-z-]+)", "write text/html, or text/*", 128)
]
# RFC 9110 section 5.5, without obs-text.
FieldValue = Annotated[str, Written(r"[!-~](?:[\t -~]*[!-~])?", "a header's value is printable ASCII")]
# RFC 6265 section 4.1.1, cookie-octet.
CookieValue = Annotated[
    str,
    Written(r"[!#-+\--:<-\[\]-~]+", "a cookie's value has no space, quote, comma, semicolon or backslash", 256),
]
CookieAttribute = Annotated[str, Written(r"[\x20-:<-~]+", "an attribute is printable ASCII without semicolons", 256)]
# HAProxy's rule for proxy and server names; they end up in logs, CSV and metrics.
Name = Annotated[str, Written(r"[A-Za-z0-9_.:-]+", "names are made of letters, digits and - _ . :", 128)]
Text = Annotated[str, Written(r"[^\x00-\x1f\x7f]+", "it is one line of text")]
Interface = Annotated[str, Written(r"[^\s/\x00]+", "write the name of a network interface, such as eth0", 15)]
UrlPath = Annotated[str, Written(r"/[!-~]*", "a path starts with / and has no spaces", 256)]
PlainPath = Annotated[str, Unit(units.plain_path, {"type": "string", "pattern": "^/[^?#\\s]*$", "maxLength": 4096})]
HostPattern = Annotated[str, Unit(units.host_pattern, {"type": "string", "minLength": 1, "maxLength": 255})]
Pattern = Annotated[str, Unit(units.pattern, {"type": "string", "minLength": 1, "maxLength": 1024})]
# A header's value with variables (config.format).
Template = Annotated[str, Unit(units.template, {"type": "string", "minLength": 1, "maxLength": 4096})]
# RFC 7239 section 6.3.
ForwardedNode = Annotated[
    str,
    Written(
        r"address|address_port|_[A-Za-z0-9._-]+",
        "write address, address_port, or an identifier that begins with _ and goes on with letters, digits and . _ -",
        64,
    ),
]
PathPart = Annotated[str, Unit(units.path_part, {"type": "string", "pattern": "^[^?#\\s]*$"})]
PathTemplate = Annotated[str, Unit(units.path_template, {"type": "string", "pattern": "^(/|%\\[)[^?#\\s]*$"})]
Location = Annotated[str, Unit(units.location, {"type": "string", "pattern": "^[!-~]+$"})]
OnlyTrue = Annotated[bool, Unit(units.only_true, {"const": True})]
DenyStatus = Annotated[
    int, Unit(units.deny_status, {"anyOf": [{"const": True}, {"enum": sorted(units.DENY_STATUSES)}]})
]
Path = Annotated[str, FilePath()]
# sun_path holds 108 octets with its closing NUL (unix(7)).
SocketPath = Annotated[str, Written(r"/[^\x00-\x1f\x7f]*", "a socket's path starts with /", 107)]
Directory = Annotated[str, Written(r"/[^\x00-\x1f\x7f]*", "a directory's path starts with /", 1024)]
# RFC 7617 section 2: the first colon ends the name.
Realm = Annotated[str, Written(r"[\x20!#-\[\]-~]+", "a realm is printable ASCII without quotes and backslashes", 256)]
UserName = Annotated[str, Written(r"[^:\x00-\x1f\x7f]+", "a user's name has no colon and no control characters", 256)]
Password = Annotated[str, Written(r"[^\x00-\x1f\x7f]+", "a password has no control characters", 256, secret=True)]
Count = Annotated[int, Whole(1, 1_000_000_000)]
Retries = Annotated[int, Whole(0, 100)]
Port = Annotated[int, Whole(1, 65535)]
# HAProxy's range of weights.
Weight = Annotated[int, Whole(0, 256)]
