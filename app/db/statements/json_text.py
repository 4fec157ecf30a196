"""Rows as JSON, made by PostgreSQL, in the same bytes as pydantic makes of them.

A row that is only passed on costs this process almost nothing that way.
`tests/services/messages/test_json_views.py` compares both.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    Integer,
    Text,
    case,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import DateTime

_Column = ColumnElement[Any] | InstrumentedAttribute[Any]


def constant(text: str) -> ColumnElement[str]:
    """A text without quotes, written into the statement."""
    return literal_column(f"'{text}'", Text())


NOTHING = constant("")
#: The length of a time as JSON with microseconds, with its opening quote and without the closing one.
_LENGTH_WITH_FRACTION = literal_column("27", Integer())


def json_object(fields: Mapping[str, _Column], *others: _Column) -> ColumnElement[str]:
    """An object with these columns, and then the `others`, which are text of JSON."""
    parts: list[_Column] = []
    for name, column in fields.items():
        parts += [constant(f'{"," if parts else "{"}"{name}":'), json_value(column)]
    return func.concat(*parts, *others, constant("}"))


def json_value(column: _Column) -> _Column:
    """A column as JSON: a text, a number, an aware time, or a list of texts in JSONB."""
    value: _Column
    if isinstance(column.type, DateTime):
        value = _time(column)
    elif isinstance(column.type, JSONB):
        value = json_list(column)
    elif isinstance(column.type, Integer | Float | Boolean):
        value = column
    else:
        value = func.to_json(column)
    if not getattr(column, "nullable", True):
        return value
    return func.coalesce(cast(value, Text()), constant("null"))


def json_list(column: _Column) -> ColumnElement[str]:
    """A list of texts in JSONB, without spaces."""
    value = func.jsonb_array_elements_text(column).column_valued("value")
    members = select(func.string_agg(cast(func.to_json(value), Text()), constant(","))).scalar_subquery()
    is_empty = cast(column, Text()) == constant("[]")
    return case((is_empty, constant("[]")), else_=func.concat(constant("["), members, constant("]")))


def json_of_texts(column: _Column) -> ColumnElement[str]:
    """An object of texts in JSONB, without spaces."""
    each = func.jsonb_each_text(column).table_valued("key", "value").render_derived()
    pair = func.concat(func.to_json(each.c.key), constant(":"), func.to_json(each.c.value))
    members = select(func.string_agg(pair, constant(","))).scalar_subquery()
    return func.concat(constant("{"), members, constant("}"))


def member(name: str, column: _Column, value: _Column, *, empty: str) -> ColumnElement[str]:
    """A further member of an object, left out where the column is null or, as text, `empty`."""
    is_empty = func.coalesce(cast(column, Text()), constant(empty)) == constant(empty)
    return case((is_empty, NOTHING), else_=func.concat(constant(f',"{name}":'), value))


def any_of(is_empty: ColumnElement[bool], *members: ColumnElement[str]) -> ColumnElement[str]:
    """Members that are all left out together."""
    return case((is_empty, NOTHING), else_=func.concat(*members))


def _time(column: _Column) -> ColumnElement[str]:
    """A time in UTC, with six digits of a second or none. PostgreSQL leaves out zeros at the end."""
    written = cast(func.to_json(func.timezone(constant("UTC"), column)), Text())
    whole = func.rtrim(written, constant('"'))
    is_whole = column == func.date_trunc(constant("second"), column)
    digits = case((is_whole, whole), else_=func.rpad(whole, _LENGTH_WITH_FRACTION, constant("0")))
    return cast(digits, Text()).concat(constant('Z"'))  # null for null
