"""The rank of a status, in SQL: what arrives late or twice can only raise it."""

from typing import Any

from sqlalchemy import ColumnElement, Integer, case, literal

from app.domain import STATUS_RANK


def rank_of(status: Any) -> ColumnElement[int]:
    """The rank of a column that holds a status."""
    return case({word.value: literal(rank, Integer()) for word, rank in STATUS_RANK.items()}, value=status, else_=0)
