"""Conversations, messages and providers as they are shown, and every error."""

import operator
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AliasPath, BaseModel, ConfigDict, Field

from app.domain import AttemptOutcome, Automatic, Direction, MessageStatus, Purpose


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class View(BaseModel):
    """Read off a row of the database."""

    model_config = ConfigDict(from_attributes=True)


def _detail(name: str, description: str) -> Any:
    """An optional field of a message, left out of the answer where it is empty."""
    path = AliasPath("details", name)
    return Field(
        None, validation_alias=path, serialization_alias=name, exclude_if=operator.not_, description=description
    )


def _is_over(time: datetime | None) -> bool:
    return time is None or time <= datetime.now(UTC)


class ConversationView(View):
    id: int
    last_updated: datetime = Field(validation_alias="last_activity_at", serialization_alias="last_updated")
    customer_address: str
    contact_address: str
    message_count: int
    paused_until: datetime | None = Field(
        None, exclude_if=_is_over, description="Until then nothing is sent here: two programs answer each other."
    )
    refused: bool | None = Field(
        None,
        exclude_if=operator.not_,
        description="In lists: the contact has refused all messages. Absent where that is not so, or not looked up.",
    )


class MessageView(View):
    id: int
    conversation_id: int
    direction: Direction
    channel: str
    type: str
    from_: str = Field(validation_alias="from_address", serialization_alias="from")
    to: str = Field(validation_alias="to_address", serialization_alias="to")
    subject: str | None
    body: str
    quoted: str | None = Field(description="What a mail repeats of those before it.")
    attachments: list[str]
    status: MessageStatus
    status_reason: str | None
    provider_type: str | None
    provider_message_id: str | None
    sent_at: datetime
    created_at: datetime
    # What only some messages have: left out of the answer where it is empty.
    html: str | None = Field(None, exclude_if=operator.not_, description="The HTML form of a mail with a plain text.")
    topic: str | None = Field(None, exclude_if=operator.not_, description="The mailing it belongs to.")
    purpose: Purpose | None = Field(None, exclude_if=operator.not_)
    from_name: str | None = _detail("from_name", "The sender's name, as the sender wrote it.")
    author: str | None = _detail("author", "The address of the person who wrote to a group or channel.")
    reply_to: list[str] | None = _detail("reply_to", "The addresses that a mail wants its answer at.")
    cc: list[str] | None = _detail("cc", "The addresses that got a copy of a mail.")
    automatic: Automatic | None = _detail("automatic", "What no person wrote is: absent for people.")
    date: datetime | None = _detail("date", "The sender's time, where `sent_at` is the time of arrival.")
    in_reply_to_message: int | None = _detail("in_reply_to_message", "The id of the message that a mail answers.")
    sent_to: str | None = _detail("sent_to", "Where an answer went, if its mail wanted it elsewhere than at `to`.")
    verdicts: dict[str, str] | None = _detail("verdicts", "Of the vendor's filters, for spam and viruses.")


class AttemptView(View):
    number: int
    provider_type: str
    routed_because: str | None = Field(description="Why this provider, where it was not the first of its route.")
    outcome: AttemptOutcome | None = Field(description="None while it is under way.")
    detail: str | None
    provider_message_id: str | None
    started_at: datetime
    finished_at: datetime | None


class MessageDetail(MessageView):
    attempt_count: int
    due_at: datetime | None = Field(description="When a worker looks at it next.")
    expires_at: datetime | None
    attempts: list[AttemptView]


class StepView(View):
    """One step of a message, as a sentence."""

    at: datetime
    kind: str = Field(examples=["outcome"])
    sentence: str = Field(examples=["sms accepted it as sms-1."])
    provider_type: str | None
    attempt: int | None
    seconds: float | None = Field(description="How long the attempt took.")


class ProviderView(View):
    name: str
    channels: list[str] = Field(description="The channels whose route names it.")
    trouble: str | None = Field(description="Why nothing is handed to it at the moment.", examples=["is paused"])
    reason: str | None = Field(description="What it said when it was paused.")


class FieldProblem(BaseModel):
    location: str = Field(examples=["body.from"])
    message: str = Field(examples=["an address can't be empty"])


class Problem(BaseModel):
    """RFC 9457, `application/problem+json`."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    request_id: str | None = Field(None, description="Where it is not the caller's doing: what the log calls it.")
    errors: list[FieldProblem] | None = Field(None, description="One entry per field of a malformed request.")
