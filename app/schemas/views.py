"""Conversations, messages and providers as they are shown, and every error."""

import operator
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import from_json

from app.batches import Priority
from app.details import Automatic
from app.domain import AttemptOutcome, ConversationStatus, Direction, MessageStatus, Purpose
from app.files import FileStatus
from app.schemas.fields import SHOWN_TEXT, MetadataChange, Timestamp, without_nul

PriorityWord = Literal["high", "normal", "bulk"]


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


def priority_word(priority: object) -> object:
    """The word for a priority as it is stored; a word is left as it is."""
    return Priority(priority).word if isinstance(priority, int) else priority


def _other_than_normal(priority: object) -> object:
    return None if priority == Priority.NORMAL.value else priority_word(priority)


def _is_over(time: datetime | None) -> bool:
    return time is None or time <= datetime.now(UTC)


class LastMessage(BaseModel):
    """The newest message of a conversation, for a list."""

    id: int
    direction: Direction
    channel: str
    status: MessageStatus
    subject: str | None
    text: str = Field(description="The first 200 characters.")
    author: str | None
    sent_at: datetime


class ConversationView(View):
    id: int
    last_updated: datetime = Field(validation_alias="last_activity_at", serialization_alias="last_updated")
    customer_address: str
    contact_address: str
    message_count: int
    status: ConversationStatus
    unread_count: int
    paused_until: datetime | None = Field(
        None, exclude_if=_is_over, description="Until then nothing is sent here: two programs answer each other."
    )
    window_until: datetime | None = Field(
        None, exclude_if=_is_over, description="Until then free text reaches the contact, where a vendor limits that."
    )
    snoozed_until: datetime | None = Field(
        None, exclude_if=operator.not_, description="When it opens by itself; without it, with the next message."
    )
    assignee: str | None = Field(None, exclude_if=operator.not_, description="Who looks after it.")
    tags: list[str] | None = Field(None, exclude_if=operator.not_)
    channels: list[str] | None = Field(None, exclude_if=operator.not_, description="The channels of its messages.")
    metadata: dict[str, str] | None = Field(
        None, validation_alias="metadata_pairs", exclude_if=operator.not_, description="The pairs that you have set."
    )
    contact_name: str | None = Field(
        None, exclude_if=operator.not_, description="In lists: the name of the contact, where one is known."
    )
    refused: bool | None = Field(
        None,
        exclude_if=operator.not_,
        description="In lists: the contact has refused all messages. Absent where that is not so, or not looked up.",
    )
    last_message: LastMessage | None = Field(
        None, exclude_if=operator.not_, description="In lists with `include=last_message`."
    )


_Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
    Field(json_schema_extra=SHOWN_TEXT),
    AfterValidator(without_nul),
]
_Tag = Annotated[_Name, Field(max_length=50)]


def _each_once(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


class ConversationUpdate(BaseModel):
    """A change of a conversation. What is left out stays."""

    status: ConversationStatus | None = None
    snoozed_until: Timestamp | None = Field(
        None, description="Snoozes it until then. Without a time, a snoozed one opens with its next inbound message."
    )
    assignee: _Name | None = Field(None, description="Who looks after it; null for no one.")
    tags: Annotated[list[_Tag], Field(max_length=20), AfterValidator(_each_once)] | None = Field(
        None, description="All of its tags."
    )
    metadata: MetadataChange = Field({}, description="Is merged with the earlier pairs; null removes one.")


class ReadUpTo(BaseModel):
    """The messages that were read."""

    up_to: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = Field(
        None, description="The id of the last one that was read; left out, all were."
    )


class MessageFile(View):
    """A file among the attachments of a message."""

    path: str = Field(description="Where it is served, as in `attachments`.")
    name: str
    content_type: str
    size: int | None = Field(description="In bytes; null for one that is not stored.")
    status: FileStatus
    reason: str | None = Field(description="Why it is not stored, or not yet.")


def _list_of_json(value: object) -> object:
    """A list that PostgreSQL has made of rows, as JSON or none."""
    return from_json(value) or None if isinstance(value, str) else value


class FilledTemplateView(BaseModel):
    """A template as a message fills it in."""

    name: str
    language: str
    header: str | None = None
    parameters: dict[str, str] = {}
    buttons: dict[str, str] = {}


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
    html: str | None = Field(
        None,
        exclude_if=operator.not_,
        description="The HTML form of a mail with a plain text. Lists have only that of mails that were sent.",
    )
    has_html: bool | None = Field(None, exclude_if=operator.not_, description="A received mail has an HTML form.")
    topic: str | None = Field(None, exclude_if=operator.not_, description="The mailing it belongs to.")
    purpose: Purpose | None = Field(None, exclude_if=operator.not_)
    priority: Annotated[PriorityWord | None, BeforeValidator(_other_than_normal)] = Field(
        None, exclude_if=operator.not_, description="Its lane in the queue; absent where it is `normal`."
    )
    batch_id: int | None = Field(None, exclude_if=operator.not_, description="The batch that it came with.")
    batch_line: int | None = Field(None, exclude_if=operator.not_, description="Its line in that batch.")
    author: str | None = Field(
        None,
        exclude_if=operator.not_,
        description="The name of the key that sent it, or the address of the person who wrote to a group or channel.",
    )
    from_name: str | None = _detail("from_name", "The sender's name, as the sender wrote it.")
    to_name: str | None = _detail("to_name", "The recipient's name, as the send has it.")
    reply_to: list[str] | None = _detail("reply_to", "The addresses that a mail wants its answer at.")
    cc: list[str] | None = _detail("cc", "The addresses that get a copy of a mail.")
    bcc: list[str] | None = _detail("bcc", "The addresses that get a copy which the other recipients do not see.")
    names: dict[str, str] | None = _detail("names", "The names in `cc`, `bcc` and `reply_to`, by address.")
    left_out: list[str] | None = _detail("left_out", "Those of `cc` and `bcc` that got no copy, as they refuse it.")
    headers: dict[str, str] | None = _detail("headers", "Further headers of a mail.")
    automatic: Automatic | None = _detail("automatic", "What no person wrote is: absent for people.")
    date: datetime | None = _detail("date", "The sender's time, where `sent_at` is the time of arrival.")
    in_reply_to_message: int | None = _detail("in_reply_to_message", "The id of the message that a mail answers.")
    sent_to: str | None = _detail("sent_to", "Where an answer went, if its mail wanted it elsewhere than at `to`.")
    sent_with: int | None = _detail("sent_with", "The id of the first message of a send to several recipients.")
    verdicts: dict[str, str] | None = _detail("verdicts", "Of the vendor's filters, for spam and viruses.")
    template: FilledTemplateView | None = _detail("template", "The vendor's template that it fills in.")
    quiet_until: datetime | None = _detail("quiet_until", "It was held until then: quiet hours of its recipient.")
    metadata: dict[str, str] | None = _detail("metadata", "The pairs that the send has.")
    files: Annotated[Sequence[MessageFile] | None, BeforeValidator(_list_of_json)] = Field(
        None,
        exclude_if=operator.not_,
        description="The files among its attachments that are kept here, or still to be fetched from the vendor.",
    )
    _shows_received_html: ClassVar[bool] = False

    @model_validator(mode="after")
    def _say_where_html_was_received(self) -> Self:
        if self.direction is Direction.INBOUND and self.html:
            self.has_html = True
            if not self._shows_received_html:
                self.html = None
        return self


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
    _shows_received_html: ClassVar[bool] = True

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
    reason: str | None = Field(description="What it said when it refused our credentials, or why it was paused.")
    paused_by: Literal["provider", "operator", "tenant"] | None = Field(
        description="The provider by refusing our credentials, the operator for all tenants, or this tenant."
    )


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
