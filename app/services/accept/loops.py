"""Two programs that answer each other: their conversation is paused after too many answers within a minute.

An answer is a message to be sent whose preceding message in the conversation came in. A campaign has none, and people
do not alternate that quickly. A batch counts as one answer at most, because its messages do not know of each other.
"""

import json
from datetime import timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Integer, Interval, Text, and_, bindparam, case, cast, func, or_
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

    def parameters(self) -> dict[str, Any]:
        """The parameters of the expressions below."""
        facts = json.dumps({"reason": _REASON.format(answers=self.answers)})
        return {"loop_answers": self.answers, "loop_pause": self.pause, "pause_facts": facts}


NO_LIMIT = LoopLimit(None, timedelta())

_PAUSE_END = func.now() + bindparam("loop_pause", type_=Interval())
_counts = and_(
    Conversation.awaits_answer, or_(Conversation.paused_until.is_(None), Conversation.paused_until <= func.now())
)
_is_recent = Conversation.answers_since > func.now() - literal_column("interval '1 minute'", Interval())
_is_full = and_(Conversation.answer_count >= bindparam("loop_answers", type_=Integer()), _is_recent)

#: The time until which a message that is stored now in this conversation waits, if any.
HELD_UNTIL = case((and_(_counts, _is_full), _PAUSE_END), else_=Conversation.paused_until)
#: Of an updated conversation: its pause begins now.
IS_PAUSED_NOW = Conversation.paused_until == _PAUSE_END
PAUSE_FACTS = cast(bindparam("pause_facts", type_=Text()), JSONB)


def counted_answers(receives: ColumnElement[bool], sends: ColumnElement[bool]) -> dict[str, ColumnElement[Any]]:
    """The new values of a conversation in which a batch `receives` messages, and `sends` some, or both.

    What is sent elsewhere is neither.
    """
    is_answer = and_(_counts, sends)
    return {
        "awaits_answer": receives,
        "answer_count": case(
            (~is_answer, Conversation.answer_count),
            (_is_full, 0),
            (_is_recent, Conversation.answer_count + 1),
            else_=1,
        ),
        "answers_since": case((or_(~is_answer, _is_recent), Conversation.answers_since), else_=func.now()),
        "paused_until": case((and_(is_answer, _is_full), _PAUSE_END), else_=Conversation.paused_until),
    }
