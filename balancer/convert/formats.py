"""HAProxy's log-format in values of rules (`%[req.hdr(host)]`, `%ci`) as variables here, and what replaces paths."""

from __future__ import annotations

import re

from balancer.convert.conditions import expression
from balancer.convert.words import CannotError
from balancer.regex import compile_regex

__all__ = ["replacement", "template"]

_ALIASES = {
    "ci": "src", "cp": "src_port", "fi": "dst", "fp": "dst_port", "f": "frontend", "ft": "frontend", "b": "backend",
    "s": "server", "ID": "request_id", "Ts": "timestamp", "HM": "method", "HP": "path", "HPO": "path",
    "HQ": "query", "HU": "pathq", "ST": "status",
}  # fmt: skip
_FETCHES = {
    "src": "src", "src_port": "src_port", "dst": "dst", "dst_port": "dst_port", "method": "method", "path": "path",
    "query": "query", "pathq": "pathq", "url": "pathq", "capture.req.uri": "pathq", "capture.req.method": "method",
    "unique-id": "request_id", "uuid": "uuid", "fe_name": "frontend", "be_name": "backend", "srv_name": "server",
    "date": "timestamp", "http_auth_user": "user", "ver": "req_ver", "req_ver": "req_ver",
    "res.ver": "res_ver", "resp_ver": "res_ver", "status": "status",
}  # fmt: skip
_PIECE = re.compile(r"%%|%\{[^}]*\}|%\[((?:[^\]\"]|\"[^\"]*\")*)\]|%([A-Za-z]+)|%")


def template(text: str, *, is_location: bool = False) -> str:
    """A value with variables; CannotError where one has no counterpart. In a `location`, Host is %[host]."""
    parts: list[str] = []
    since = 0
    for match in _PIECE.finditer(text):
        parts.append(text[since : match.start()])
        since = match.end()
        if match[0] == "%%":
            parts.append("%")
        elif match[0].startswith("%{"):
            if match[0] not in ("%{}", "%{-Q}", "%{-X}", "%{-E}"):
                raise CannotError(f"there are no flags in values ({match[0]})")
        elif match[1] is not None:
            parts.append(_fetch(match[1], is_location=is_location))
        elif match[2] in _ALIASES:
            parts.append(f"%[{_ALIASES[match[2]]}]")
        else:
            raise CannotError(f"there is no variable {match[0]}")
    parts.append(text[since:])
    return "".join(parts)


def _fetch(text: str, *, is_location: bool) -> str:
    own = expression(text.strip())
    name, argument = own.name.removeprefix("req."), own.argument
    converters = [converter for converter, _ in own.converters]
    if name == "ssl_fc" and converters == ["iif"]:
        yes_and_no = tuple(part.strip() for part in own.converters[0][1].split(","))
        if yes_and_no == ("https", "http"):
            return "%[scheme]"
    is_host = name in ("hdr", "fhdr") and argument.lower() == "host" and (is_location or converters)
    if is_host and all(converter in ("lower", "host_only", "field") for converter in converters):
        # As rules know it: in lower case, without port.
        return "%[host]"
    if converters:
        raise CannotError(f"values have no converters ({', '.join(converters)})")
    if name in ("hdr", "fhdr") and argument:
        return f"%[header({argument.partition(',')[0]})]"
    if name in ("cook", "cookie") and argument:
        return f"%[cookie({argument})]"
    if name in ("url_param", "urlp") and argument:
        return f"%[url_param({argument.partition(',')[0]})]"
    if name == "str" and argument:
        return argument
    if name in _FETCHES and (not argument or name in ("date", "uuid")):
        return f"%[{_FETCHES[name]}]"
    raise CannotError(f"there is no variable for {own.name}")


def replacement(pattern: str, text: str) -> tuple[str, str]:
    r"""HAProxy's `replace-path PATTERN TEXT`, which makes TEXT the whole path, as an expression and what is put in.

    `\1` becomes %[1].
    """
    has_whole = r"\0" in text
    own = f"(?:{pattern})" if "|" in pattern else pattern
    own = f"({own})" if has_whole else own
    # Where it fits in the middle only, what is around it goes as well.
    if "|" in pattern or not pattern.startswith("^"):
        own = f"^.*?{own}"
    if "|" in pattern or not pattern.endswith("$") or pattern.endswith(r"\$"):
        own = f"{own}.*$"
    try:
        groups = compile_regex(own).groups
    except ValueError as error:
        raise CannotError(f"the expression is not one of RE2: {error}") from None
    shift = 1 if has_whole else 0

    def group(match: re.Match[str]) -> str:
        digit = int(match[1]) + shift
        if digit > groups or digit > 9:
            return ""
        return f"%[{digit}]"

    made = re.sub(r"\\([0-9])", group, text)
    kept = re.split(r"(%\[[0-9]\])", made)
    return own, "".join(part if i % 2 else template(part) for i, part in enumerate(kept))
