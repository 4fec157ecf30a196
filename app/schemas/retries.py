"""Retrying many messages at once."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from app.domain import MessageStatus
from app.schemas.fields import Timestamp, Words, number

_Number = BeforeValidator(number)
_MOST = 10_000


class RetryRequest(BaseModel):
    """The messages to be retried: those for which everything that is given holds."""

    status: Literal[MessageStatus.FAILED, MessageStatus.UNKNOWN]
    provider: Annotated[Words, Field(max_length=63)] | None = Field(
        None, description="The provider that was asked last.", examples=["twilio"]
    )
    batch_id: Annotated[int, Field(ge=1, le=2**63 - 1), _Number] | None = Field(None, description="Of this batch.")
    since: Timestamp | None = Field(None, description="Stored at this time or later.")
    until: Timestamp | None = Field(None, description="Stored before this time.")
    limit: Annotated[int, Field(ge=1, le=_MOST), _Number] = Field(1000, description="How many at most.")


class RetryAnswer(BaseModel):
    """The outcome of retrying many messages."""

    retried: int = Field(description="Messages that are queued again.")
    capped: int = Field(description="Messages that stay as they are, because the daily cap is reached.")
    more: bool = Field(description="Whether there may be more of them.")
