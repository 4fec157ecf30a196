"""Parameters as rows, for statements that work on a whole batch."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Interval,
    TableValuedAlias,
    Text,
    bindparam,
    case,
    column,
    func,
    literal,
)
from sqlalchemy.types import TypeEngine

from app.domain import STATUS_RANK


def rows(**columns: TypeEngine[Any]) -> TableValuedAlias:
    """One array parameter for each column, filled by `given`, as a table with a `position` from 1.

    The statement's text is the same for any number of rows, so it is compiled, and planned, only once.
    """
    arrays = [bindparam(f"given_{name}", type_=ARRAY(type_)) for name, type_ in columns.items()]
    named = [column(name, type_) for name, type_ in columns.items()]
    return func.unnest(*arrays).table_valued(*named, with_ordinality="position", name="given").render_derived()


def given(tenant_id: int, names: Sequence[str], values: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """The parameters for a statement over `rows(names...)`: one sequence of values for each row."""
    first, *others = list(zip(*values, strict=True)) or [()] * len(names)
    # PostgreSQL fills the shorter arrays up with nulls, which costs less than to send them.
    columns = [first, *(() if column.count(None) == len(column) else column for column in others)]
    return {"tenant": tenant_id} | {
        f"given_{name}": list(column) for name, column in zip(names, columns, strict=True)
    }


#: Whose rows a statement is about.
TENANT = bindparam("tenant", type_=BigInteger())

#: What they travel by.
CHANNEL = bindparam("on_channel", type_=Text())

#: For times that are reckoned by the database's clock: `func.now() + seconds * SECOND`.
SECOND = literal(timedelta(seconds=1), Interval())


def by_tenant(items: Iterable[Any]) -> list[tuple[int, list[Any]]]:
    """One group for each tenant, in the order of message ids, so that all who lock them do it in the same order."""
    groups: dict[int, list[Any]] = {}
    for item in sorted(items, key=lambda item: (item.tenant_id, item.message_id)):
        groups.setdefault(item.tenant_id, []).append(item)
    return list(groups.items())


def rank_of(status: Any) -> ColumnElement[int]:
    """The rank of a column that holds a status: what arrives late or twice can only raise it."""
    return case({word.value: literal(rank, Integer()) for word, rank in STATUS_RANK.items()}, value=status, else_=0)
