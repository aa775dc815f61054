"""Kinds of values in the model: what is allowed, what is said about anything else, and how it looks in the JSON schema.

Each class stands as metadata in an `Annotated[...]` and gives pydantic a validator whose ValueError is
the operator's error text, so that no text is pydantic's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema
from pydantic_core.core_schema import CoreSchema

from balancer.config.words import shown

__all__ = ["WANTS_TEXT", "FilePath", "Model", "OneOrMany", "Short", "Switch", "Unit", "Whole", "Written"]

WANTS_TEXT = "wants_text"
"""Type of the error for a number or truth value in place of text: `read` knows how it was written and says so."""


class Model(BaseModel):
    """Frozen, no unknown keys, no silent conversion (`port: "80"` is an error, not 80)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, arbitrary_types_allowed=True
    )


@dataclass(frozen=True)
class Written:
    """Text that matches `pattern` whole. A value that is `secret` stands in no error text."""

    pattern: str
    allowed: str
    longest: int = 4096
    secret: bool = False

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise PydanticCustomError(WANTS_TEXT, "wants text")
        if not value:
            raise ValueError("must not be empty")
        if len(value) > self.longest:
            raise ValueError(f"is too long; {self.longest} characters are allowed")
        if not re.fullmatch(self.pattern, value):
            what = "this value" if self.secret else shown(value)
            raise ValueError(f"{what} is not allowed; {self.allowed}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$", "minLength": 1, "maxLength": self.longest}


@dataclass(frozen=True)
class FilePath(Written):
    """The path of a file; a relative one counts from the directory of the configuration file."""

    pattern: str = r"[^\x00-\x1f\x7f]+"
    allowed: str = "write the path of a file"

    def absolute(self, value: Any, info: core_schema.ValidationInfo) -> str:
        directory = info.context["directory"] if info.context else ""
        return str(Path(directory, self.check(value)))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.absolute)


@dataclass(frozen=True)
class Whole:
    """A whole number of a range."""

    least: int
    most: int

    def check(self, value: Any) -> int:
        if type(value) is not int or not self.least <= value <= self.most:
            digits = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value)
            quotes = " (a number stands without quotes)" if digits else ""
            raise ValueError(f"wants a whole number from {self.least} to {self.most}, not {shown(value)}{quotes}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Unit:
    """A value in one of the little languages of `units`; `schema` tells how the operator writes it."""

    parse: Callable[[Any], Any]
    schema: dict[str, Any] = field(hash=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


@dataclass(frozen=True)
class OneOrMany:
    """A list; one item may stand without its list."""

    @staticmethod
    def spread(value: Any) -> Any:
        return value if isinstance(value, tuple) else (value,)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.spread, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


@dataclass(frozen=True)
class Short:
    """A mapping for which its one most common key's value may stand alone."""

    key: str
    kind: type | tuple[type, ...]
    allowed: str
    schema: dict[str, Any] = field(hash=False)

    def spread(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return {self.key: value}
        if not isinstance(value, (dict, BaseModel)):
            raise ValueError(f"wants {self.allowed}, not {shown(value)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.spread, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [dict(self.schema), handler(schema)]}


@dataclass(frozen=True)
class Switch:
    """A part that is off (false, None) or on: true with all its defaults, or a mapping."""

    @staticmethod
    def turn(value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        if value is not None and not isinstance(value, (dict, BaseModel)):
            raise ValueError(f"wants true, false or a mapping, not {shown(value)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.turn, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "boolean"}, handler(schema)]}
