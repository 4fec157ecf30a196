"""Array parameters as rows, for statements that work on a whole batch."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Interval,
    TableValuedAlias,
    Text,
)
from sqlalchemy.sql import and_, bindparam, case, column, func, literal, literal_column, or_
from sqlalchemy.types import TypeEngine

from app.batches import HELD
from app.domain import FINAL_UNDELIVERED_RANK, IN_PART, STATUS_RANK, Channel, MessageStatus


def rows(**columns: TypeEngine[Any]) -> TableValuedAlias:
    """A table of one array parameter per column, filled by `given`, with a `position` from 1.

    The text of the statement is the same for any number of rows, so it is compiled and planned only once.
    """
    arrays = [bindparam(f"given_{name}", type_=ARRAY(type_)) for name, type_ in columns.items()]
    named = [column(name, type_) for name, type_ in columns.items()]
    return func.unnest(*arrays).table_valued(*named, with_ordinality="position", name="given").render_derived()


def given(tenant_id: int, names: Sequence[str], values: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """The parameters for a statement over `rows(names...)`: one sequence of values for each row."""
    first, *others = list(zip(*values, strict=True)) or [()] * len(names)
    # PostgreSQL pads shorter arrays with nulls, which is cheaper than sending them.
    columns = [first, *(() if column.count(None) == len(column) else column for column in others)]
    return {"tenant": tenant_id} | {
        f"given_{name}": list(column) for name, column in zip(names, columns, strict=True)
    }


#: The tenant whose rows a statement touches.
TENANT = bindparam("tenant", type_=BigInteger())
#: The channel of the messages.
CHANNEL = bindparam("on_channel", type_=Text())
#: For times by the clock of the database: `func.now() + seconds * SECOND`.
SECOND = literal(timedelta(seconds=1), Interval())
#: The time of messages that their batch holds.
AT_HELD = literal_column(f"'{HELD}'", DateTime(timezone=True))


def same(model: type[Any], other: FromClause, *names: str) -> ColumnElement[bool]:
    """The condition that a row of the tenant has the values of another table in the columns of these names."""
    return and_(model.tenant_id == TENANT, *(getattr(model, name) == other.c[name] for name in names))


def by_tenant(items: Iterable[Any]) -> list[tuple[int, list[Any]]]:
    """One group per tenant, ordered by message id, so that all transactions lock rows in the same order."""
    groups: dict[int, list[Any]] = {}
    for item in sorted(items, key=lambda item: (item.tenant_id, item.message_id)):
        groups.setdefault(item.tenant_id, []).append(item)
    return list(groups.items())


def rank_of(status: Any) -> ColumnElement[int]:
    """The rank of a column that holds a status. A late or duplicate receipt can only raise it."""
    ranks = ((status == word.value, literal(rank, Integer())) for word, rank in STATUS_RANK.items())
    return case(*ranks, else_=0)


def exact_rank_of(status: Any, channel: Any, reason: Any) -> ColumnElement[int]:
    """The same for a status that was given for a reason, as `app.domain.rank_of`."""
    is_final = and_(
        status == MessageStatus.UNDELIVERED.value,
        or_(channel == Channel.EMAIL.value, func.starts_with(reason, IN_PART)),
    )
    return case((is_final, literal(FINAL_UNDELIVERED_RANK, Integer())), else_=rank_of(status))
