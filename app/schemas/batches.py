"""Batches as they are shown, and the lines of the answer to one."""

import operator
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from app.domain import MessageStatus
from app.schemas.fields import without_nul
from app.schemas.views import FieldProblem, PriorityWord, View, priority_word

#: The states that clients see: those in between are told by `statuses`.
_STATES = {"resuming": "running", "canceling": "canceled"}
_State = Annotated[
    Literal["running", "paused", "canceled"],
    BeforeValidator(lambda state: _STATES.get(state, state), json_schema_input_type=str),
]
_Priority = Annotated[PriorityWord, BeforeValidator(priority_word, json_schema_input_type=PriorityWord)]


class BatchView(View):
    """A batch of messages."""

    id: int
    name: str | None
    key: str = Field(description="The `Idempotency-Key` that it was sent with.")
    priority: _Priority = Field(description="Of lines that name none.")
    topic: str | None = Field(description="Of lines that name none.")
    state: _State
    lines: int | None = Field(description="The number of its last line, once all have been read.")
    refused: int | None = Field(description="Lines that were not stored, once all have been read.")
    created_at: datetime
    completed_at: datetime | None = Field(
        description="When all lines had been read. None: send them again with the same key."
    )


class BatchDetail(BatchView):
    """A batch, and how far its messages are."""

    accepted: int = Field(description="Messages that are stored. Erased and expired ones are gone.")
    waiting: int = Field(description="Of these, those that have not left.")
    statuses: dict[MessageStatus, int] = Field(description="The number of messages of each status.")


class BatchLine(View):
    """A line of a batch that was stored as a message."""

    line: int = Field(validation_alias="batch_line", serialization_alias="line")
    message_id: Annotated[str, BeforeValidator(str, json_schema_input_type=str)] = Field(
        validation_alias="id", serialization_alias="message_id"
    )
    conversation_id: int
    status: MessageStatus
    status_reason: str | None


class LineChannel(BaseModel):
    """The channel of a line, which decides what else it takes."""

    channel: Annotated[str, Field(max_length=63), AfterValidator(without_nul)]


class LineAccepted(BaseModel):
    """The line is stored as a message, now or by an earlier request."""

    line: int = Field(examples=[1])
    message_id: str = Field(examples=["5"])
    conversation_id: int
    status: Literal["accepted"] = "accepted"


class LineRefused(BaseModel):
    """The line is not stored, because something is wrong with it."""

    line: int = Field(examples=[2])
    status: Literal["refused"] = "refused"
    errors: list[FieldProblem]


class LineUnavailable(BaseModel):
    """The database did not take the line in time; it may be stored or not."""

    line: int
    status: Literal["unavailable"] = "unavailable"


class BatchSummary(BaseModel):
    """The last line of the answer."""

    batch_id: int
    status: Literal["complete", "interrupted"]
    accepted: int
    refused: int
    detail: str | None = Field(None, exclude_if=operator.not_, description="Why it was interrupted, and what to do.")
