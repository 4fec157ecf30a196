"""The hits of a search."""

import operator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.domain import Direction


class HitKind(StrEnum):
    """The kind of a hit."""

    MESSAGE = "message"
    CONTACT = "contact"
    TAG = "tag"


class SnippetPart(BaseModel):
    """A piece of plain text."""

    text: str
    match: bool = Field(description="It is what was looked for.")


class MessageHit(BaseModel):
    """A message that has all words of the search, in its subject or its text."""

    kind: Literal["message"] = "message"
    conversation_id: int
    message_id: int
    channel: str
    direction: Direction
    sent_at: datetime
    subject: str | None = Field(None, exclude_if=operator.not_)
    snippet: list[SnippetPart] = Field(description="The words that were found, and what stands around them.")


class ContactHit(BaseModel):
    """A contact whose name and address have all parts of the search."""

    kind: Literal["contact"] = "contact"
    contact_id: int
    address: str
    name: str | None = Field(None, exclude_if=operator.not_)
    conversation_id: int = Field(description="The conversation with this contact that was active last.")


class TagHit(BaseModel):
    """A conversation with the tag that was looked for."""

    kind: Literal["tag"] = "tag"
    tag: str
    conversation_id: int


SearchHit = Annotated[MessageHit | ContactHit | TagHit, Field(discriminator="kind")]
