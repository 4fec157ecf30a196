"""Two programs that answer each other: their conversation is paused after too many answers within a minute.

An answer is a message to be sent whose preceding message in the conversation came in. A campaign has none, and people
do not alternate that quickly. A batch counts as one answer at most, because its messages do not know of each other.
"""

import json
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, DateTime, Integer, Interval, Row, Text, and_, bindparam, case, cast, func, or_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import literal_column

from app.config import Settings
from app.db.models import Conversation

_REASON = (
    "More than {answers} answers within a minute: two programs seem to answer each other. What is sent here waits "
    "until the pause ends, or somebody ends it."
)


class LoopLimit(NamedTuple):
    """The answers of a conversation that may be sent within a minute, None for any number, and the pause after it."""

    answers: int | None
    pause: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.loop_answers or None, timedelta(seconds=settings.loop_pause_seconds))

    @property
    def pause_facts(self) -> dict[str, str]:
        """The facts of the entry that tells of a pause."""
        return {"reason": _REASON.format(answers=self.answers)}

    def parameters(self) -> dict[str, Any]:
        """The parameters of the expressions below."""
        facts = json.dumps(self.pause_facts)
        return {"loop_answers": self.answers, "loop_pause": self.pause, "pause_facts": facts}


NO_LIMIT = LoopLimit(None, timedelta())


class Moments(NamedTuple):
    """The times that the expressions below compare with: now, the end of a pause that begins, and a minute ago."""

    now: ColumnElement[datetime]
    pause_end: ColumnElement[datetime]
    minute_ago: ColumnElement[datetime]


_TIME = DateTime(timezone=True)
#: By the clock of the database, where the statement may compute them.
COMPUTED = Moments(
    func.now(),
    func.now() + bindparam("loop_pause", type_=Interval()),
    func.now() - literal_column("interval '1 minute'", Interval()),
)
#: The same as parameters.
GIVEN = Moments(*(bindparam(f"loop_{name}", type_=_TIME) for name in Moments._fields))
PAUSE_FACTS = cast(bindparam("pause_facts", type_=Text()), JSONB)


def given_moments(row: Row[Any]) -> dict[str, datetime]:
    """The parameters of `GIVEN`, from a row that has the columns of `COMPUTED` under the names of its fields."""
    return {f"loop_{name}": getattr(row, name) for name in Moments._fields}


def _counts(at: Moments) -> ColumnElement[bool]:
    is_over = or_(Conversation.paused_until.is_(None), Conversation.paused_until <= at.now)
    return and_(Conversation.awaits_answer, is_over)


def _is_recent(at: Moments) -> ColumnElement[bool]:
    return Conversation.answers_since > at.minute_ago


def _is_full(at: Moments) -> ColumnElement[bool]:
    return and_(Conversation.answer_count >= bindparam("loop_answers", type_=Integer()), _is_recent(at))


#: The time until which a message that is stored now in this conversation waits, if any.
HELD_UNTIL = case((and_(_counts(COMPUTED), _is_full(COMPUTED)), COMPUTED.pause_end), else_=Conversation.paused_until)


def is_paused_now(at: Moments) -> ColumnElement[bool]:
    """Of an updated conversation: its pause begins now."""
    return Conversation.paused_until == at.pause_end


def counted_answers(
    receives: ColumnElement[bool], sends: ColumnElement[bool], at: Moments
) -> dict[str, ColumnElement[Any]]:
    """The new values of a conversation in which a batch `receives` messages, and `sends` some, or both.

    What is sent elsewhere is neither.
    """
    is_answer = and_(_counts(at), sends)
    return {
        "awaits_answer": receives,
        "answer_count": case(
            (~is_answer, Conversation.answer_count),
            (_is_full(at), 0),
            (_is_recent(at), Conversation.answer_count + 1),
            else_=1,
        ),
        "answers_since": case((or_(~is_answer, _is_recent(at)), Conversation.answers_since), else_=at.now),
        "paused_until": case((and_(is_answer, _is_full(at)), at.pause_end), else_=Conversation.paused_until),
    }
