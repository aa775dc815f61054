"""Rules for requests (mode http): when one holds, and what it does.

A rule's `if` is a condition: the name of an acl, a mapping of keys that must all hold, or a list of these, any of which
will do. All conditions look at the request as it came, not at what earlier rules made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema
from pydantic_core.core_schema import CoreSchema

from balancer.config.kinds import (
    DenyStatus,
    FieldValue,
    HostPattern,
    Location,
    Name,
    Network,
    OnlyTrue,
    Path,
    PathPart,
    PathTemplate,
    Pattern,
    PlainPath,
    Realm,
    StatusSet,
    Template,
    Text,
    Token,
)
from balancer.config.values import Model, OneOrMany, Whole, Written
from balancer.config.words import a_list_of, shown

__all__ = [
    "AnyCondition",
    "Auth",
    "Condition",
    "HttpRequestRule",
    "HttpResponseRule",
    "Redirect",
    "ReplacePath",
    "Return",
    "UseBackend",
]


class _Condition:
    """A condition in one of its short forms: a name for `acl`, a list for `any`."""

    @staticmethod
    def spread(value: Any) -> Any:
        match value:
            case str():
                return {"acl": (value,)}
            case tuple():
                return {"any": value}
            case dict() | BaseModel():
                return value
            case _:
                allowed = "the name of an acl, a mapping (host, path, src, …) or a list"
                raise ValueError(f"wants {allowed}, not {shown(value)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.spread, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        one = handler(schema)
        return {"anyOf": [{"type": "string"}, one, {"type": "array", "items": {"anyOf": [{"type": "string"}, one]}}]}


Names = Annotated[tuple[Name, ...], Field(min_length=1), OneOrMany()]
Tokens = Annotated[tuple[Token, ...], Field(min_length=1), OneOrMany()]
Texts = Annotated[tuple[Text, ...], Field(min_length=1), OneOrMany()]
Values = Annotated[tuple[FieldValue, ...], Field(min_length=1), OneOrMany()]
Paths = Annotated[tuple[PlainPath, ...], Field(min_length=1), OneOrMany()]
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1), OneOrMany()]


class Condition(Model):
    """What a request looks like. All keys must hold; of a key's list any one will do."""

    host: Annotated[tuple[HostPattern, ...], Field(min_length=1), OneOrMany()] | None = None
    """Host asked for: a name, an IP address, or *.NAME for all names below NAME. Case, port and a dot at the end do not
    count."""
    path: Paths | None = None
    """The whole path, without the query."""
    path_beg: Paths | None = None
    """The path begins with this: /static/ is a directory; /static fits /statics too."""
    path_end: Annotated[tuple[Text, ...], Field(min_length=1), OneOrMany()] | None = None
    """The path ends with this: .php."""
    path_reg: Patterns | None = None
    """This regular expression (RE2) fits somewhere in the path; ^ and $ are its ends."""
    method: Tokens | None = None
    """GET, POST, …"""
    header: dict[Token, Values] = {}
    """Header to value: one of its lines has exactly this value."""
    header_beg: dict[Token, Values] = {}
    """Header to the beginning of a line's value."""
    header_reg: dict[Token, Patterns] = {}
    """Header to a regular expression (RE2) that fits somewhere in a line's value; (?i) at its start ignores case."""
    header_found: Tokens | None = None
    """Headers any of which is there."""
    cookie: dict[Token, Texts] = {}
    """Cookie to value."""
    cookie_reg: dict[Token, Patterns] = {}
    """Cookie to a regular expression (RE2) that fits somewhere in its value."""
    cookie_found: Tokens | None = None
    """Cookies any of which is there."""
    url_param: dict[Text, Texts] = {}
    """Parameter of the query to value."""
    url_param_reg: dict[Text, Patterns] = {}
    """Parameter of the query to a regular expression (RE2) that fits somewhere in its value."""
    url_param_found: Texts | None = None
    """Parameters any of which is there."""
    src: Annotated[tuple[Network, ...], Field(min_length=1), OneOrMany()] | None = None
    """The client's address is in one of these networks; the PROXY protocol's word is taken for it, and a trusted
    proxy's."""
    scheme: Literal["http", "https"] | None = None
    """What the client speaks: https where a trusted proxy said so in X-Forwarded-Proto."""
    status: StatusSet | None = None
    """In `http_response` alone: the status that the server answered with: 404, 500-599, "200,204,301-303"."""
    acl: Names | None = None
    """Names of acls any of which holds."""
    any_: Annotated[tuple[Annotated[Condition, _Condition()], ...], Field(min_length=1)] | None = Field(
        None, alias="any"
    )
    """Conditions any of which holds."""
    all_: Annotated[tuple[Annotated[Condition, _Condition()], ...], Field(min_length=1)] | None = Field(
        None, alias="all"
    )
    """Conditions all of which hold."""
    not_: Annotated[Condition, _Condition()] | None = Field(None, alias="not")
    """A condition that does not hold; of a list, none does."""

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        if not self.model_fields_set:
            raise ValueError("must not be empty; without `if` a rule is for all requests")
        return self

    @property
    def within(self) -> Iterator[tuple[tuple[str | int, ...], Condition]]:
        """This condition and all in it, each with the way to it."""
        yield (), self
        for key, inner in (("any", self.any_), ("all", self.all_)):
            for i, each in enumerate(inner or ()):
                for loc, condition in each.within:
                    yield (key, i, *loc), condition
        if self.not_ is not None:
            for loc, condition in self.not_.within:
                yield ("not", *loc), condition


AnyCondition = Annotated[Condition, _Condition()]


class Redirect(Model):
    """Where the client is sent instead: `location`, or the request's own URL with parts of it replaced."""

    location: Location | None = None
    """The whole of it, with variables: https://www.example.org%[pathq]. Not beside scheme, host and path."""
    scheme: Literal["http", "https"] | None = None
    """Of the new URL; the port of the request's Host then does not count. Default: as it was."""
    host: Template | None = None
    """Of the new URL, with a port where it needs one. Default: as it was."""
    path: PathTemplate | None = None
    """Of the new URL, with variables; %[1] to %[9] are the groups of `path_reg`. Default: as it was."""
    path_reg: Pattern | None = None
    """Only where this regular expression (RE2) fits somewhere in the path; else the rules go on."""
    drop_query: bool = False
    """Without the request's query."""
    code: Literal[301, 302, 303, 307, 308] = 302
    """301 and 308 are for good, 303 asks with GET, 307 and 308 keep the method."""


class Return(Model):
    """An answer in place of a server's."""

    status: Annotated[int, Whole(200, 599)] = 200
    """Status of the answer."""
    content_type: FieldValue = "text/plain; charset=utf-8"
    """What the body is."""
    body: Annotated[str, Written(r"[^\x00]+", "it is text without NUL", 65536)] | None = None
    """The body. Default: none."""
    file: Path | None = None
    """A file with the body, up to 64k; read at start. Not beside `body`."""


class Auth(Model):
    """Basic authentication (RFC 7617): only users of a file pass."""

    file: Path
    """Users and hashed passwords as by htpasswd(1): bcrypt (-B), SHA-crypt or apr1; up to 1m, read at start."""
    realm: Realm = "Restricted"
    """What a browser shows when it asks for the password."""


class ReplacePath(Model):
    """A new path made of the old one."""

    regex: Pattern
    """What to replace; a path in which it does not fit stays."""
    with_: PathPart = Field("", alias="with")
    """What stands in its place; %[1] to %[9] are its groups. Default: nothing."""


class _Rule(Model):
    """One action, for some requests or all."""

    if_: AnyCondition | None = Field(None, alias="if")
    """Which requests: the name of an acl, a mapping (host, path, …), or a list of these. Default: all."""

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        fields = type(self).model_fields
        actions = {name: field.alias or name for name, field in fields.items() if name != "if_"}
        given = [key for name, key in actions.items() if getattr(self, name) is not None]
        if not given:
            raise ValueError(f"has no action; wants {a_list_of(actions.values())}")
        if len(given) > 1:
            raise ValueError(f"has {len(given)} actions ({a_list_of(given, last='and')}); make a rule of each")
        return self


class HttpRequestRule(_Rule):
    """What happens to a request."""

    allow: OnlyTrue | None = None
    """true: no further rule of `http_request` is looked at."""
    deny: DenyStatus | None = None
    """true (403) or a status: the request is refused. Every way to read the path counts."""
    silent_drop: OnlyTrue | None = None
    """true: the connection is closed without an answer. Every way to read the path counts."""
    auth: Auth | None = None
    """Basic authentication: who is not in the file gets 401. Every way to read the path counts."""
    redirect: Redirect | None = None
    """The client is sent elsewhere."""
    return_: Return | None = Field(None, alias="return")
    """The client gets this answer."""
    set_header: dict[Token, Template] | None = None
    """Name to value, with variables: these headers, in place of all that the client sent under that name."""
    add_header: dict[Token, Template] | None = None
    """Name to value, with variables: a line more."""
    del_header: Tokens | None = None
    """Names; one or a list."""
    set_path: PathTemplate | None = None
    """The path to ask the server for, with the variables host, method and path. The query stays."""
    strip_prefix: PlainPath | None = None
    """A directory at the path's beginning to leave out: /api makes /x of /api/x."""
    replace_path: ReplacePath | None = None
    """A part of the path to replace, by a regular expression (RE2)."""

    @property
    def is_final(self) -> bool:
        """Whether no rule behind it is looked at where it holds."""
        answers = (self.allow, self.deny, self.silent_drop, self.redirect, self.return_)
        return any(answer is not None for answer in answers) and (
            self.redirect is None or self.redirect.path_reg is None
        )


class HttpResponseRule(_Rule):
    """What happens to a server's response. The condition is one on the request, and on the status."""

    set_header: dict[Token, Template] | None = None
    """Name to value, with variables: these headers, in place of all that the server sent under that name."""
    add_header: dict[Token, Template] | None = None
    """Name to value, with variables: a line more."""
    del_header: Tokens | None = None
    """Names; one or a list."""


class UseBackend(Model):
    """Where requests go."""

    backend: Name
    """Name of the backend."""
    if_: AnyCondition | None = Field(None, alias="if")
    """Which requests: the name of an acl, a mapping (host, path, …), or a list of these. Default: all."""
