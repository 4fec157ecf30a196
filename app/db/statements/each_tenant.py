"""Conditions on the rows of each tenant, for statements that look for the tenants with something to do.

They go from tenant to tenant in `event_logs`, which has a row for each, and read the beginning of an index there. A
distributed database does so on every node at once. It refuses a recursive scan that jumps from tenant to tenant.
"""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, ScalarSelect, select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import func

from app.db.models import EventLog

#: The tenant whose rows are looked at.
EACH_TENANT = EventLog.tenant_id


def first(
    column: InstrumentedAttribute[Any], *conditions: ColumnElement[bool], beside: FromClause | None = None
) -> ScalarSelect[Any]:
    """The lowest value of a column among the rows of a tenant for which the conditions hold; null without one.

    One row of an index is read if it begins with the columns that the conditions compare, and this one. The
    conditions may name the columns of another table `beside` that of the tenants.
    """
    lowest = select(func.min(column)).where(column.class_.tenant_id == EACH_TENANT, *conditions)
    return lowest.correlate(EventLog, *([] if beside is None else [beside])).scalar_subquery()
