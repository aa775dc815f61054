"""HAProxy's acls and conditions as conditions of rules (`if` in balancer.yaml).

A condition here is True, False, or a mapping as the configuration has it. What HAProxy looks at in the request as
earlier rules left it, and we in the request as it came, is the same where no earlier rule changed it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from balancer.config import units
from balancer.convert.words import CannotError, UnreadableError, read_text
from balancer.regex import compile_regex

__all__ = ["Cond", "Expression", "all_of", "any_of", "expression", "negated", "parse_acl", "parse_terms", "written"]

Cond = bool | dict[str, Any]

_MATCHES = ("beg", "dir", "dom", "end", "reg", "sub", "len", "found", "str", "bool", "int", "ip", "cnt")
_LISTS = ("host", "path", "path_beg", "path_end", "path_reg", "method", "src", "acl", "header_found", "cookie_found")
# Lines of a pattern file; a condition of more is a data base.
_MOST_PATTERNS = 5000
_PREDEFINED: dict[str, Cond] = {
    "TRUE": True,
    "FALSE": False,
    "HTTP": True,
    "HTTP_URL_SLASH": True,
    "LOCALHOST": {"src": ["127.0.0.0/8", "::1"]},
    "WAIT_END": True,
    "REQ_CONTENT": True,
    **{f"METH_{name}": {"method": [name]} for name in ("CONNECT", "DELETE", "OPTIONS", "POST", "PUT", "TRACE")},
    "METH_GET": {"method": ["GET", "HEAD"]},
    "METH_HEAD": {"method": ["HEAD"]},
}
_NO_COUNTERPART = {
    "nbsrv": "rules do not ask how many servers are up; `backup: true` in the same backend does",
    "srv_is_up": "rules do not ask which servers are up; `backup: true` in the same backend does",
    "connslots": "rules do not ask how busy servers are; `maxconn` of a server has clients wait",
    "http_auth": "passwords are the action `auth`, not a condition",
    "http_auth_group": "passwords are the action `auth`, which knows no groups",
    "req.ssl_sni": "TLS is passed on without a look into it",
    "req_ssl_sni": "TLS is passed on without a look into it",
    "req.ssl_hello_type": "TLS is passed on without a look into it",
    "req_ssl_hello_type": "TLS is passed on without a look into it",
    "hdr_ip": "name the proxies before us in `trusted_proxies`, and `src` is the client that they tell of",
    "req.hdr_ip": "name the proxies before us in `trusted_proxies`, and `src` is the client that they tell of",
    "var": "rules have no variables of their own",
    "res.hdr": "rules for responses look at the request and the status",
    "res.fhdr": "rules for responses look at the request and the status",
    "shdr": "rules for responses look at the request and the status",
    "rand": "rules know no chance; weights of servers do",
    "url": "conditions look at path and parameters apart: path_beg, path_reg, url_param",
    "base": "conditions look at host and path apart",
    "req.body": "conditions do not look at the body",
    "req.body_len": "conditions do not look at the body; `max_body_size` limits it",
    "req.body_size": "conditions do not look at the body; `max_body_size` limits it",
    "wait_end": "nothing is waited for",
}


@dataclass(frozen=True)
class Expression:
    """A sample: what is fetched, with its argument, and the converters behind it."""

    name: str
    argument: str
    converters: tuple[tuple[str, str], ...] = ()


def negated(cond: Cond) -> Cond:
    if isinstance(cond, bool):
        return not cond
    if set(cond) == {"not"} and isinstance(cond["not"], dict):
        return cond["not"]
    return {"not": written(cond)}


def all_of(conds: Sequence[Cond]) -> Cond:
    """A condition that holds where all do."""
    if any(cond is False for cond in conds):
        return False
    parts = [cond for cond in conds if isinstance(cond, dict)]
    if len(parts) < 2:
        return parts[0] if parts else True
    keys = [key for part in parts for key in part]
    if len(keys) == len(set(keys)):
        return {key: value for part in parts for key, value in part.items()}
    return {"all": [_short(part) for part in parts]}


def any_of(conds: Sequence[Cond]) -> Cond:
    """A condition that holds where one does."""
    if any(cond is True for cond in conds):
        return True
    parts: list[dict[str, Any]] = []
    for cond in conds:
        if not isinstance(cond, dict):
            continue
        last = parts[-1] if parts else {}
        (key,) = cond if len(cond) == 1 else ("",)
        if key in _LISTS and set(last) == {key}:
            parts[-1] = {key: [*last[key], *(each for each in cond[key] if each not in last[key])]}
        elif set(cond) == {"any"}:
            parts += cond["any"]
        else:
            parts.append(cond)
    if len(parts) < 2:
        return parts[0] if parts else False
    return {"any": [_short(part) for part in parts]}


def written(cond: dict[str, Any]) -> Any:
    """As it stands behind `if`: a list for any of several, a name for an acl."""
    if set(cond) == {"any"}:
        return cond["any"]
    return _short(cond)


def _short(cond: Any) -> Any:
    """The shortest form: a name for one acl, a value for a list of one."""
    if not isinstance(cond, dict):
        return cond
    if set(cond) == {"acl"} and len(cond["acl"]) == 1:
        return cond["acl"][0]
    return {
        key: value[0] if key in _LISTS and isinstance(value, list) and len(value) == 1 else value
        for key, value in cond.items()
    }


def parse_terms(words: Sequence[str], named: Callable[[str], Cond], inline: Callable[[list[str]], Cond]) -> Cond:
    """`A !B or { path /x }`: the condition of the words behind `if`."""
    choices: list[list[Cond]] = [[]]
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if word in ("or", "OR", "||"):
            choices.append([])
            continue
        is_negated = False
        while word.startswith("!"):
            is_negated = not is_negated
            word = word[1:]
            if not word and i < len(words):
                word = words[i]
                i += 1
        if word == "{":
            try:
                end = words.index("}", i)
            except ValueError:
                raise CannotError("the condition has no closing brace") from None
            found = inline(list(words[i:end]))
            i = end + 1
        elif word in _PREDEFINED:
            found = _PREDEFINED[word]
        else:
            found = named(word)
        choices[-1].append(negated(found) if is_negated else found)
    if not all(choices):
        raise CannotError("the condition is not complete")
    return any_of([all_of(choice) for choice in choices])


def expression(text: str) -> Expression:
    """`req.hdr(host),lower,field(1,:)`; CannotError where it is none."""
    parts: list[tuple[str, str]] = []
    depth, start = 0, 0
    for i, c in enumerate(text + ","):
        depth += (c == "(") - (c == ")")
        if c == "," and depth <= 0:
            name, _, rest = text[start:i].partition("(")
            parts.append((name, rest.removesuffix(")").strip('"')))
            start = i + 1
    if not parts[0][0]:
        raise CannotError(f"{text!r} is no expression")
    return Expression(parts[0][0], parts[0][1], tuple(parts[1:]))


def parse_acl(words: Sequence[str], *, ports: frozenset[int] = frozenset()) -> Cond:
    """The condition of an acl's criterion, flags and patterns. `ports` are those that its frontend is bound to."""
    if not words:
        raise CannotError("there is nothing to look at")
    own = expression(words[0])
    is_case_blind, how, patterns, operator = _flags(words[1:])
    name, method = own.name, how
    if name in ("always_true", "true", "always_false", "false"):
        return name in ("always_true", "true")
    if own.name not in _NO_COUNTERPART:
        stem, _, suffix = name.rpartition("_")
        if suffix in _MATCHES and stem:
            name, method = stem, suffix if how == "" else how
    name = name.removeprefix("req.")
    name = {"fhdr": "fhdr", "cook": "cook", "urlp": "url_param", "meth": "method", "ssl_fc": "ssl_fc"}.get(name, name)
    case_blind, name = _converted(own, name)
    is_case_blind = is_case_blind or case_blind
    return _criterion(own, name, method or "str", patterns, operator, is_case_blind, ports)


def _converted(own: Expression, name: str) -> tuple[bool, str]:
    """What its converters make of it, as far as a comparison does the same: case is ignored, a port taken away."""
    is_case_blind = False
    for converter, argument in own.converters:
        if converter in ("lower", "upper"):
            is_case_blind = True
        elif (name == "hdr" and own.argument.lower() == "host") and (
            converter in ("host_only",) or (converter == "field" and re.fullmatch(r"1, ?\\?:", argument))
        ):
            name = "hdr"
        elif converter in ("url_dec", "strcmp"):
            raise CannotError(f"there is no {converter} in conditions; paths and parameters are decoded anyway")
        else:
            raise CannotError(f"there is no converter {converter} in conditions")
    return is_case_blind, name


def _flags(words: Sequence[str]) -> tuple[bool, str, list[str], str]:
    """Case does not count, the way of matching, the patterns (those of files too), and the operator for numbers."""
    is_case_blind, how, patterns, operator = False, "", [], ""
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if word == "-i":
            is_case_blind = True
        elif word == "-n":
            pass
        elif word in ("-m", "-f", "-M", "-u") and i < len(words):
            argument = words[i]
            i += 1
            if word == "-m":
                how = argument
            elif word == "-f":
                patterns += _pattern_file(argument)
            elif word == "-M":
                raise CannotError("a map is no list of patterns")
        elif word == "--":
            patterns += words[i:]
            break
        else:
            patterns += words[i - 1 :]
            break
    if patterns and patterns[0] in ("eq", "ge", "gt", "le", "lt") and len(patterns) > 1:
        operator, patterns = patterns[0], patterns[1:]
    if len(patterns) > _MOST_PATTERNS:
        raise CannotError(f"has {len(patterns)} patterns; {_MOST_PATTERNS} are taken over")
    return is_case_blind, how, patterns, operator


def _pattern_file(path: str) -> list[str]:
    try:
        text = read_text(path)
    except UnreadableError as error:
        raise CannotError(f"its patterns are not to be had: {error}") from None
    return [row.strip() for row in text.splitlines() if row.strip() and not row.startswith("#")]


def _criterion(
    own: Expression, name: str, how: str, patterns: list[str], operator: str, blind: bool, ports: frozenset[int]
) -> Cond:
    match name:
        case "path" | "pathq":
            return _path(how, patterns, blind)
        case "url" if how in ("beg",) and not any("?" in each for each in patterns):
            return _path("beg", patterns, blind)
        case "base" if how in ("str", "beg") and all("/" in each for each in patterns):
            return any_of([_base(each, how) for each in patterns])
        case "hdr" | "fhdr" if own.argument:
            if own.argument.lower() == "host":
                return _host(how, patterns, blind)
            return _header(own.argument.partition(",")[0], how, patterns, operator, blind, is_list=name == "hdr")
        case "cook" if own.argument:
            return _named_value("cookie", own.argument, how, patterns, blind)
        case "url_param" if own.argument:
            return _named_value("url_param", own.argument.partition(",")[0], how, patterns, blind)
        case "method" if how == "str":
            return {"method": list(patterns)}
        case "src" if how in ("str", "ip"):
            return {"src": [_network(each) for each in patterns]}
        case "ssl_fc":
            return {"scheme": "https"}
        case "status" if patterns:
            return {"status": ",".join(_statuses(each, operator) for each in patterns)}
        case "dst_port" if len(ports) == 1 and patterns:
            return any(_compares(next(iter(ports)), operator, each) for each in patterns)
    why = _NO_COUNTERPART.get(name) or _NO_COUNTERPART.get(own.name)
    raise CannotError(why or f"no condition looks at {own.name}")


def _compares(value: int, operator: str, pattern: str) -> bool:
    low, colon, high = pattern.partition(":")
    if not low.isdigit() or (colon and not high.isdigit()):
        raise CannotError(f"{pattern!r} is no number")
    if colon:
        return int(low) <= value <= int(high)
    wanted = int(low)
    return {"gt": value > wanted, "ge": value >= wanted, "lt": value < wanted, "le": value <= wanted}.get(
        operator, value == wanted
    )


def _statuses(pattern: str, operator: str) -> str:
    """`404`, `500:599`, or what `ge 500` leaves, as a set of statuses."""
    fitting = [status for status in range(100, 600) if _compares(status, operator, pattern)]
    if not fitting:
        raise CannotError("no status fits")
    return f"{fitting[0]}-{fitting[-1]}" if len(fitting) > 1 else str(fitting[0])


def _is_plain_path(value: str) -> bool:
    try:
        units.plain_path(value)
    except ValueError:
        return False
    return True


def _path(how: str, patterns: list[str], blind: bool) -> Cond:
    if how == "found":
        return True
    if how in ("str", "beg") and not blind and all(_is_plain_path(each) for each in patterns):
        return {"path" if how == "str" else "path_beg": list(patterns)}
    if how == "end" and not blind:
        return {"path_end": list(patterns)}
    return {"path_reg": [_regex(how, each, blind, edges="/") for each in patterns]}


def _base(pattern: str, how: str) -> Cond:
    host, _, path = pattern.partition("/")
    return all_of([{"host": [host]}, _path(how, [f"/{path}"], blind=False)])


def _host(how: str, patterns: list[str], blind: bool) -> Cond:
    if how == "str" and all(_is_host(each) for each in patterns):
        return {"host": [each.lower() for each in patterns]}
    if how == "end" and all(each.startswith(".") and _is_host(each[1:]) for each in patterns):
        return {"host": [f"*{each.lower()}" for each in patterns]}
    return _header("Host", how, patterns, "", blind, is_list=False)


def _is_host(text: str) -> bool:
    try:
        units.host_pattern(text)
    except ValueError:
        return False
    return not text.startswith("*")


def _header(name: str, how: str, patterns: list[str], operator: str, blind: bool, *, is_list: bool) -> Cond:
    if how == "found" or (how in ("cnt", "len") and (operator, *patterns) in {("gt", "0"), ("ge", "1")}):
        return {"header_found": [name]} if how != "len" else {"header_reg": {name: "."}}
    if how == "cnt" and (operator, *patterns) in {("eq", "0"), ("", "0"), ("lt", "1")}:
        return {"not": {"header_found": name}}
    if how == "str" and not blind and not is_list:
        return {"header": {name: patterns}}
    # HAProxy looks at each part between commas.
    return {"header_reg": {name: [_regex(how, each, blind, edges="./:", is_list=is_list) for each in patterns]}}


def _named_value(key: str, name: str, how: str, patterns: list[str], blind: bool) -> Cond:
    if how == "found":
        return {f"{key}_found": [name]}
    if how == "str" and not blind:
        return {key: {name: patterns}}
    return {f"{key}_reg": {name: [_regex(how, each, blind, edges="./:") for each in patterns]}}


def _regex(how: str, pattern: str, blind: bool, *, edges: str, is_list: bool = False) -> str:
    """A regular expression that fits where HAProxy's way of matching does."""
    begin, end = (r"(?:^|,)[ \t]*", r"[ \t]*(?:,|$)") if is_list else ("^", "$")
    edge = re.escape(edges).replace("/", "/")
    text = quote(pattern)
    match how:
        case "str":
            text = f"{begin}{text}{end}"
        case "beg":
            text = f"{begin}{text}"
        case "end":
            text = f"{text}{end}"
        case "sub":
            pass
        case "dir" | "dom":
            sides = "/?" if how == "dir" else "/?.:"
            text = f"(?:^|[{sides}]){quote(pattern.strip(sides))}(?:[{sides}]|$)"
        case "reg":
            text = _of_list(pattern) if is_list else pattern
        case _:
            raise CannotError(f"there is no way to match by {how} in conditions")
    text = f"(?i){text}" if blind else text
    if edge and len(text) > 1024:
        raise CannotError("the pattern is too long")
    try:
        compile_regex(text)
    except ValueError as error:
        raise CannotError(f"the expression is not one of RE2: {error}") from None
    return text


def quote(text: str) -> str:
    """Text as an expression that fits it alone. re.escape marks blanks too, which need none."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)


def _of_list(pattern: str) -> str:
    """An expression for one part of a header's list, for the whole of it."""
    if "|" in re.sub(r"\\.|\([^()]*\)|\[[^\]]*\]", "", pattern):
        return pattern
    begin = r"(?:^|,)[ \t]*" if pattern.startswith("^") else ""
    end = r"[ \t]*(?:,|$)" if pattern.endswith("$") and not pattern.endswith(r"\$") else ""
    return begin + pattern.removeprefix("^")[: -1 if end else None] + end


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise CannotError(f"{text!r} is no network") from None
