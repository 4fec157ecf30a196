"""The rule by which a refusal stops a message: as a function, and as a condition of SQL. A test compares the two.

| the refusal is about | it stops |
|---|---|
| everything | every message |
| a channel, a sender | the messages on it, or from it |
| a topic | the messages of it, unless their purpose is `service` |

Our own reply to a keyword passes: the law allows one, and no client can set its purpose.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, or_

from app.consent import ConsentScope
from app.db.models import Suppression
from app.domain import Purpose


@dataclass(frozen=True, slots=True)
class Intended:
    """A message as the rule sees it: its channel, its sender's normalised address, its topic and its purpose."""

    channel: str
    sender: str
    topic: str | None = None
    purpose: Purpose | None = None


def stops(scope: ConsentScope, scope_value: str, message: Intended) -> bool:
    """True if a refusal of this scope by its recipient stops a message."""
    if message.purpose is Purpose.CONFIRMATION:
        return False
    match scope:
        case ConsentScope.EVERYTHING:
            return True
        case ConsentScope.CHANNEL:
            return scope_value == message.channel
        case ConsentScope.SENDER:
            return scope_value == message.sender
        case ConsentScope.TOPIC:
            return scope_value == message.topic and message.purpose is not Purpose.SERVICE


def stops_in_sql(
    channel: SQLColumnExpression[str],
    sender: SQLColumnExpression[str],
    topic: SQLColumnExpression[Any],
    purpose: SQLColumnExpression[Any],
) -> ColumnElement[bool]:
    """The same as a condition on a row of `suppressions`, for a message given by columns."""

    def about(scope: ConsentScope, value: SQLColumnExpression[Any]) -> ColumnElement[bool]:
        return and_(Suppression.scope == scope.value, Suppression.scope_value == value)

    return and_(
        purpose.is_distinct_from(Purpose.CONFIRMATION.value),
        or_(
            Suppression.scope == ConsentScope.EVERYTHING.value,
            about(ConsentScope.CHANNEL, channel),
            about(ConsentScope.SENDER, sender),
            and_(about(ConsentScope.TOPIC, topic), purpose.is_(None)),
        ),
    )
