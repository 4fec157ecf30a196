"""Distinct values of the leading columns of an index, without reading what lies between them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, ColumnElement, select, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute

Column = InstrumentedAttribute[Any]


def loose_scan(name: str, keys: Sequence[Column], *more: Column, only: Sequence[ColumnElement[bool]] = ()) -> CTE:
    """The first row of each combination of `keys`, in the order of an index over `keys` and `more`.

    The rows have these columns. `only` is the condition of a partial index. The columns of `more` after the first are
    only read. PostgreSQL descends the index once for each combination, so the number of rows does not matter.
    """
    first = select(*keys, *more).where(*only).order_by(*keys, *more[:1]).limit(1)
    found = first.cte(name, recursive=True)
    beyond = tuple_(*keys) > tuple_(*(found.c[key.key] for key in keys))
    following = first.where(beyond).correlate(found).lateral("following")
    return found.union_all(select(*following.c).select_from(found.join(following, true())))
